"""One layer in a few words: the dataclasses have defaults, and what is left out means what one would guess."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers.attention import Attention
from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.heads import HeadsConfig
from mixkabrn_jax.layers.kan import Kan, KanLayer
from mixkabrn_jax.layers.linear import Linear, LinearConfig
from mixkabrn_jax.layers.mlp import Glu, Mlp
from mixkabrn_jax.layers.moe import MixtureOfExperts, MoeConfig, RouterConfig
from mixkabrn_jax.layers.retention import Retention, RetentionConfig
from tests import reference

D, B, T = 16, 2, 5
HEADS = HeadsConfig(2, 8, 8)
EXPERTS = functools.partial(Mlp, D, 8)

LAYERS = {
    "linear": lambda rngs: Linear(D, 32, rngs=rngs),
    "kan layer": lambda rngs: KanLayer(D, 5, rngs=rngs),
    "mlp": lambda rngs: Mlp(D, 32, rngs=rngs),
    "glu": lambda rngs: Glu(D, 32, rngs=rngs),
    "kan": lambda rngs: Kan(D, 32, rngs=rngs),
    "retention": lambda rngs: Retention(D, HEADS, rngs=rngs),
    "attention": lambda rngs: Attention(D, HEADS, rngs=rngs),
    "mixture": lambda rngs: MixtureOfExperts(D, MoeConfig(4, 2), EXPERTS, rngs=rngs),
    "mixture with shared experts": lambda rngs: MixtureOfExperts(D, MoeConfig(4, 2, 2), EXPERTS, rngs=rngs),
    "mixture with a capacity": lambda rngs: MixtureOfExperts(
        D, MoeConfig(4, 2, 1, RouterConfig(capacity_factor=1.0)), EXPERTS, rngs=rngs
    ),
    "mixture of kans": lambda rngs: MixtureOfExperts(D, MoeConfig(4, 2), functools.partial(Kan, D, 8), rngs=rngs),
}


def output(layer, x):
    y = layer(x)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize(
    "name",
    [
        "kan layer",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("linear", "glu", "retention", "attention", "mixture")
        ),
    ],
)
def test_a_layer_is_made_in_a_line_and_takes_an_array_of_numpy_outside_of_jit(name):
    layer, x = LAYERS[name](nnx.Rngs(0)), reference.normal(1, B, T, D)
    y = output(layer, x)
    assert y.shape[:2] == (B, T)
    assert y.dtype == jnp.float32
    assert np.isfinite(y).all()
    assert np.abs(y).max() > 0.01


def test_the_newcomer_s_layer_works():
    y = KanLayer(3, 5, rngs=nnx.Rngs(0))(reference.normal(1, 7, 3))
    assert y.shape == (7, 5)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("name", LAYERS)
def test_zero_rows_are_zero_rows_with_gradients_of_zero(name):
    layer, x = LAYERS[name](nnx.Rngs(0)), jnp.asarray(reference.normal(1, B, T, D))
    want = jax.eval_shape(output, layer, x).shape[1:]
    results = jax.jit(lambda layer, x: layer(x))(layer, x[:0])
    assert (results[0] if isinstance(results, tuple) else results).shape == (0, *want)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))
    graph, params, rest = nnx.split(layer, nnx.Param, ...)
    gradients = jax.jit(jax.grad(lambda params: jnp.sum(output(nnx.merge(graph, params, rest), x[:0]))))(params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("make", [LinearConfig, BranchConfig])
def test_an_unknown_number_format_is_refused_where_it_is_chosen(make):
    def layer(config):
        if isinstance(config, LinearConfig):
            return Linear(D, 8, config, rngs=nnx.Rngs(0))
        return Mlp(D, 8, config, rngs=nnx.Rngs(0))

    message = r"^linear='trinary': one of \('dense', 'ternary', 'binary'\) is needed"
    with pytest.raises(ValueError, match=message):
        layer(make(linear="trinary"))


@pytest.mark.parametrize("config", [RetentionConfig(), RetentionConfig(decay="gated", normalization="none")])
def test_a_retention_without_state_and_positions_is_one_with_the_empty_state_from_position_0(config):
    layer, x = Retention(D, HEADS, config, rngs=nnx.Rngs(0)), reference.normal(1, B, T, D)
    position = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    run = jax.jit(lambda layer, x, *rest: layer(x, *rest))
    want, want_state = run(layer, x, HEADS.empty_state(B), position)
    got, state = run(layer, x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(state, want_state)
    assert want_state.shape == (B, 2, 8, 8)
    assert np.abs(want_state).max() > 0.1


def test_an_attention_without_positions_counts_from_0():
    layer = Attention(D, HEADS, branch=BranchConfig("dense"), rngs=nnx.Rngs(0))
    x = reference.normal(1, B, T, D)
    position = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    run = jax.jit(lambda layer, x, *rest: layer(x, *rest)[0])
    np.testing.assert_array_equal(run(layer, x), run(layer, x, None, position))
    cache = HEADS.empty_cache(B, T, jnp.float32)
    reference.assert_close(run(layer, x, cache), run(layer, x), terms=200)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 8, 8), "num_heads=0: at least 1"),
        ((2, 8, 0), "value_width=0: at least 1"),
        ((2, 7, 8), "key_width=7: rotary pairs need an even width"),
    ],
)
def test_impossible_heads_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        HeadsConfig(*sizes)
