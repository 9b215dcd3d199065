"""What users of published BitNet code ran into, each as a law that holds here.

Of kyegomez/bitnet 0.2.5: binary in the name of ternary, a norm off by its width, attention scaled by the width, a
softmax over time, a swap of layers that forgets what was learnt. (A LoRA that cannot learn has no counterpart yet.)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers.linear import Linear, LinearConfig, effective_weight
from mixkabrn_jax.layers.norm import RMSNorm, rms_norm
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.models.quantize import quantize
from mixkabrn_jax.ops import attention
from mixkabrn_jax.training.losses import token_nats
from tests import reference, toy


def abstract(**changes):
    config = toy.model_config(**changes)
    return jax.eval_shape(lambda: LanguageModel(config, toy.VOCAB_SIZE, rngs=nnx.Rngs(0)))


def test_ternary_weights_are_ternary():
    """Three values in each matrix, zero among them, not the two of a sign."""
    for seed in range(3):
        w = effective_weight(jnp.array(reference.normal(seed, 3, 32, 16)), "ternary")
        for matrix in np.asarray(w):
            values = np.unique(matrix)
            assert values.size == 3
            np.testing.assert_array_equal(values, values[-1] * np.array([-1, 0, 1], np.float32))


@pytest.mark.parametrize("width", [4, 64, 1000])
def test_a_normalised_token_has_a_root_mean_square_of_one_at_any_width(width):
    x = 7 * reference.normal(0, 5, width)
    for y in (rms_norm(jnp.array(x), 1e-12), RMSNorm(width, epsilon=1e-12)(jnp.array(x))):
        reference.assert_close((np.asarray(y, np.float64) ** 2).mean(axis=-1), np.ones(5), terms=width)


@pytest.mark.parametrize("width", [4, 64])
def test_attention_is_scaled_by_the_root_of_the_key_width(width):
    """The second token weighs the first by the odds exp((q.k_0 - q.k_1) / sqrt(width))."""
    q, k = reference.normal(0, 1, 2, 1, width), reference.normal(1, 1, 2, 1, width)
    v = np.array([[[[0.0]], [[1.0]]]], np.float32)  # the output is the weight of the second token
    y = attention.causal(jnp.array(q), jnp.array(k), jnp.array(v), None)
    score = k[0, :, 0].astype(np.float64) @ q[0, 1, 0] / np.sqrt(width)
    reference.assert_close(y[0, 1, 0], [reference.softmax(score)[1]], terms=width)


def test_a_linear_layer_has_no_parameter_that_is_never_used():
    layer = Linear(6, 4, LinearConfig("ternary"), rngs=nnx.Rngs(0))
    gradients = jax.grad(lambda layer: jnp.sum(layer(jnp.ones((2, 6)))))(layer)
    assert [leaf.shape for leaf in jax.tree.leaves(gradients)] == [(6, 4)]
    assert all(leaf.any() for leaf in jax.tree.leaves(gradients))


def test_the_softmax_is_over_the_vocabulary():
    """A position's loss is its own logits' business: a softmax over time would share them out among positions."""
    logits, targets = reference.normal(0, 2, 5, 7), toy.tokens(1, 2, 5, vocab_size=7)
    per_position = -np.log(np.take_along_axis(reference.softmax(logits.astype(np.float64)), targets[..., None], -1))
    for t in range(5):
        mask = np.zeros((2, 5), np.float32)
        mask[:, t] = 1
        other = np.where(mask[..., None] > 0, logits, 9 * logits)
        got = (token_nats(jnp.array(other), jnp.array(targets)) * jnp.array(mask)).sum()
        reference.assert_close(got, per_position[:, t].sum(), terms=7)


def test_a_ternary_model_does_not_see_the_future():
    model = toy.make(toy.model_config(linear="ternary", ffn="mlp", num_experts=0, mixer="attention", num_layers=1))
    run = jax.jit(lambda model, tokens: model(tokens).logits_BTW)
    tokens = toy.tokens(0, 1, 8)
    before = run(model, tokens)
    for changed in range(1, 8):
        other = tokens.copy()
        other[:, changed:] = (other[:, changed:] + 1) % 29
        np.testing.assert_array_equal(run(model, other)[:, :changed], before[:, :changed])


def test_replacing_layers_keeps_what_was_learnt_and_skips_what_was_not_named():
    model = abstract(ffn="swiglu")
    replaced = quantize(model, "ternary", ["*.ffn.*"])
    pairs = zip(jax.tree.leaves(nnx.state(replaced)), jax.tree.leaves(nnx.state(model)), strict=True)
    assert all(new is old for new, old in pairs)
    linear = {path: layer.config.linear for path, layer in nnx.iter_modules(replaced) if isinstance(layer, Linear)}
    assert linear == {path: "ternary" if "ffn" in path else "dense" for path in linear}
    assert {"ternary", "dense"} == set(linear.values())
