"""Number formats of a whole model: where norms and bits go, a trained model turned ternary, integers, statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import IntegerLinear, Linear
from mixkabrn_jax.layers.retention import Retention
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.models.quantize import linear_type, quantize, to_integers, weight_statistics
from tests import reference, toy

forward = jax.jit(lambda model, tokens: model(tokens).logits_BTW)
TOKENS = toy.tokens(0, 2, 10)


def layers(model, kinds=(Linear, KanLayer, IntegerLinear)):
    modules = nnx.iter_modules(model)
    return {".".join(map(str, path)): module for path, module in modules if isinstance(module, kinds)}


def abstract(**changes):
    """A model without its numbers."""
    config = toy.model_config(**changes)
    return jax.eval_shape(lambda: LanguageModel(config, toy.VOCAB_SIZE, rngs=nnx.Rngs(0)))


# --- A trained model in another format ---------------------------------------------------------------------------


def test_quantising_keeps_the_weights_and_touches_only_what_was_named():
    model = abstract(first_dense_layers=1, tied_embeddings=False)
    got = quantize(model, "ternary", ["routed_blocks.ffn.experts.up", "*.mixer.*"])
    linear = {path: linear_type(layer) for path, layer in layers(got).items()}
    named = {path for path in linear if ".mixer." in path or path == "routed_blocks.ffn.experts.up"}
    assert len(named) == 11
    assert linear == {path: "ternary" if path in named else "dense" for path in linear}
    assert {linear_type(layer) for layer in layers(model).values()} == {
        "dense"
    }  # the model that was given is as it was
    leaves = zip(jax.tree.leaves(nnx.state(got)), jax.tree.leaves(nnx.state(model)), strict=True)
    assert all(new is old for new, old in leaves)


@pytest.mark.parametrize("ffn", ["swiglu", "kan"])
def test_a_model_quantised_as_a_whole_is_the_one_made_so(ffn):
    got, made = quantize(abstract(ffn=ffn), "ternary", ["*"]), abstract(ffn=ffn, linear="ternary")
    got.config = made.config
    assert nnx.graphdef(got) == nnx.graphdef(made)


def test_a_pattern_that_matches_nothing_is_named_with_what_there_is():
    model = abstract(ffn="mlp")
    message = r"'\*\.router' matches no layer; there are .*routed_blocks\.ffn\.experts\.up"
    with pytest.raises(ValueError, match=message):
        quantize(model, "ternary", ["*.mixer.*", "*.router"])
    with pytest.raises(ValueError, match=r"linear='quaternary': one of"):
        quantize(model, "quaternary", ["*"])


def test_a_model_on_integers_gives_what_the_quantised_model_gives():
    model = toy.make(
        toy.model_config(linear="ternary", ffn="swiglu", quantization__normalize_input=True, num_experts=0)
    )
    integers = to_integers(model)
    assert set(layers(integers, IntegerLinear)) == set(layers(model, Linear))
    assert not layers(integers, Linear)
    got, want = forward(integers, TOKENS), forward(model, TOKENS)
    # The layers agree to rounding (tests/layers/test_linear.py). Between them a code may be at a tie and flip: a step
    # of one input by a 127th of the largest.
    reference.assert_close(got, want, atol=np.abs(want).max() / 127)


def test_a_model_without_codes_has_no_integers():
    with pytest.raises(ValueError, match="no Linear of this model is quantised"):
        to_integers(abstract(ffn="mlp"))


# --- Where norms and bits go -------------------------------------------------------------------------------------


def where_normalised(model):
    """Paths of the matrices whose input is normalised: by the layers themselves, and by a retention before its last."""
    by_layers = {path for path, layer in layers(model, Linear).items() if layer.config.normalize_input}
    by_mixers = {f"{path}.out" for path, mixer in layers(model, Retention).items() if mixer.sub_norm}
    return by_layers, by_mixers


@pytest.mark.parametrize("mixer", ["retention", "attention"])
@pytest.mark.parametrize("ffn", ["swiglu", "kan"])
def test_matrices_that_normalise_their_input_replace_the_norms_before_branches(mixer, ffn):
    model = abstract(linear="ternary", quantization__normalize_input=True, mixer=mixer, ffn=ffn, first_dense_layers=1)
    for blocks in (model.dense_blocks, model.routed_blocks):
        assert blocks.mixer_norm is None
        assert (blocks.ffn_norm is None) == (ffn != "kan")  # splines need their input on the grid
    assert where_normalised(model) == (set(layers(model, Linear)), set())
    assert model.routed_blocks.ffn.norm_epsilon == (None if ffn == "kan" else 1e-6)
    # The other place, and dense matrices in either: norms before branches, and none inside.
    for changes in (
        {"linear": "ternary", "quantization__normalize_input": False},
        {"linear": "dense", "quantization__normalize_input": True},
    ):
        model = abstract(mixer=mixer, ffn=ffn, **changes)
        assert model.routed_blocks.mixer_norm is not None
        assert model.routed_blocks.ffn_norm is not None
        by_layers, by_mixers = where_normalised(model)
        last = {path for path in layers(model, Linear) if path.endswith((".down", ".out"))}
        assert by_layers | by_mixers == last  # the sub-norm, once in each branch
        assert not by_layers & by_mixers
        assert model.routed_blocks.ffn.norm_epsilon is None


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer": "attention"},
        {"retention__decay": "paper"},
        {"retention__decay": "gated", "retention__normalization": "none"},
    ],
)
def test_with_norms_inside_the_size_of_the_residual_stream_reaches_no_branch(changes):
    config = toy.model_config(linear="ternary", quantization__normalize_input=True, ffn="swiglu", **changes)
    model = toy.make(config)
    block = jax.tree.map(lambda leaf: leaf[0], model.routed_blocks)
    position = jnp.arange(10, dtype=jnp.int32)[None]
    x = jnp.asarray(reference.normal(1, 1, 10, 16))

    def branches(x):
        state = None if config.mixer == "attention" else jnp.zeros((1, 2, 8, 8))
        y, _ = block.mixer(x, state, position)
        return y, block.ffn(x)[0]

    for got, want in zip(jax.jit(branches)(8 * x), jax.jit(branches)(x), strict=True):
        # Eight is a power of two: only epsilon can tell the two apart, and a code of 127 may be at a tie.
        reference.assert_close(got, want, atol=np.abs(want).max() / 127)
        assert np.abs(want).max() > 0.1


def bits_of(layer):
    return (layer.linear if isinstance(layer, KanLayer) else layer.config).activation_bits


@pytest.mark.parametrize("ffn", ["kan", "mlp", "swiglu"])
def test_only_the_last_matrix_of_a_branch_has_its_own_bits(ffn):
    for mixer in ("retention", "attention"):
        model = abstract(
            linear="ternary",
            quantization__activation_bits=4,
            quantization__down_activation_bits=8,
            ffn=ffn,
            mixer=mixer,
        )
        bits = {path: bits_of(layer) for path, layer in layers(model).items()}
        assert bits == {path: 8 if path.endswith((".down", ".out")) else 4 for path in bits}
        assert 8 in bits.values()


# --- What codes do in training -----------------------------------------------------------------------------------


def test_statistics_are_the_mean_of_all_quantised_matrices():
    config = toy.model_config(linear="ternary", kan__spline_linear="ternary", num_layers=3, first_dense_layers=1)
    old, new = toy.make(config, seed=0), toy.make(config, seed=1)
    got = jax.jit(weight_statistics)(old, new)
    zeros, flips, scales = [], [], []
    for (path, before), after in zip(layers(old).items(), layers(new).values(), strict=True):
        assert path.split(".")[-1] in {"query", "key", "value", "gate", "out", "up", "down"}
        pairs = [(before.kernel, after.kernel)] if isinstance(before, Linear) else [(before.base, after.base)]
        if isinstance(before, KanLayer):
            split = (before.features.num_basis, -1, before.spline[...].shape[-1])
            parts = [p.spline[...].reshape(*p.spline[...].shape[:-2], *split) for p in (before, after)]
            pairs.append(tuple(parts))
        for a, b in pairs:
            a, b = (np.asarray(w[...]).reshape(-1, *w[...].shape[-2:]) for w in (a, b))
            for one, other in zip(a, b, strict=True):
                codes, scale = reference.quantize_weight(other)
                zeros.append((codes == 0).mean())
                flips.append((reference.quantize_weight(one)[0] != codes).mean())
                scales.append(scale)
    for value, want in zip(got, (zeros, flips, scales), strict=True):
        reference.assert_close(value, np.mean(want), terms=len(want))
    assert weight_statistics(*[toy.make(toy.model_config(ffn="mlp"))] * 2) is None
