"""Inputs and weights at the edge of sense: values and gradients stay finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import toy

LENGTH = 9
FULL = {"linear": "ternary", "num_layers": 1}


@functools.cache
def model(dtype):
    return toy.make(toy.model_config(compute_dtype=dtype, **FULL))


@jax.jit
def loss_and_gradient(model, tokens, segment_ids):
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        output = nnx.merge(graph, params, rest)(tokens, segment_ids_BT=segment_ids)
        picked = jnp.take_along_axis(jax.nn.log_softmax(output.logits_BTW), tokens[..., None], axis=-1)
        # A sum that gives every output its say: logits, recurrent states, balance.
        parts = (jnp.mean(picked), *jax.tree.leaves((output.state.mixers, output.balance)))
        return sum(jnp.mean(part) for part in parts)

    return jax.value_and_grad(loss)(params)


def scaled(model, factor, where):
    """The model with the parameters whose path holds one of the words multiplied."""

    def scale(path, leaf):
        return leaf * factor if any(word in jax.tree_util.keystr(path) for word in where) else leaf

    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(scale, state))


EVERYTHING = ("",)
CASES = {
    "as it is": lambda model: model,
    "all weights zero": lambda model: scaled(model, 0.0, EVERYTHING),
    "embeddings of size 1e4": lambda model: scaled(model, 1e4, ["embedding"]),
    "norm scales of 1e4": lambda model: scaled(model, 1e4, ["scale"]),
    "embeddings zero": lambda model: scaled(model, 0.0, ["embedding"]),
    "a router that sends all to the same": lambda model: scaled(model, 0.0, ["router"]),
}


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_finite(case, dtype):
    tokens = toy.tokens(0, 2, LENGTH)
    segment_ids = np.array([np.arange(1, LENGTH + 1), [1] * (LENGTH - 1) + [0]], np.int32)  # documents of one byte
    for text in (tokens, np.zeros_like(tokens)):
        value, gradient = loss_and_gradient(CASES[case](model(dtype)), text, segment_ids)
        assert np.isfinite(value)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            assert np.isfinite(np.asarray(leaf, np.float32)).all(), jax.tree_util.keystr(path)


@pytest.mark.parametrize("mixer", ["retention", "attention"])
def test_a_single_token_has_finite_gradients(mixer):
    small = toy.make(toy.model_config(mixer=mixer, ffn="mlp", num_experts=0, num_layers=1))
    value, gradient = loss_and_gradient(small, toy.tokens(0, 1, 1), np.ones((1, 1), np.int32))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_an_expert_without_tokens_has_a_gradient_of_zero():
    full = model("float32")
    router = full.routed_blocks.ffn.router[...]
    graph, state = nnx.split(full)
    state["routed_blocks"]["ffn"]["bias_E"] = state["routed_blocks"]["ffn"]["bias_E"].replace(
        jnp.zeros(router.shape[:1] + router.shape[-1:]).at[:, 0].set(-1e9)
    )
    _, gradient = loss_and_gradient(nnx.merge(graph, state), toy.tokens(0, 2, LENGTH), np.ones((2, LENGTH), np.int32))
    experts = jax.tree.leaves(gradient["routed_blocks"]["ffn"]["experts"])
    assert not any(np.asarray(leaf)[:, 0].any() for leaf in experts)
    assert all(np.asarray(leaf)[:, 1:].any() for leaf in experts)
