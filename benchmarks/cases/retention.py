"""Retention alone against its length and against softmax attention, and one token of generation at any position."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import models
from benchmarks.measure import Case, compiled, forward_and_backward
from mixkabrn_jax.ops import attention, retention

BATCH, HEADS, KEY_WIDTH, VALUE_WIDTH = 1, 4, 64, 64


def cases(options):
    if options.suite == "gpu":
        return {}
    lengths = (1024, 2048, 4096)
    return {
        "retention by length": _by_length,
        **{f"retention and attention, T={length}": partial(_beside_attention, length) for length in lengths},
        "decoding one token": _decoding,
    }


def _by_length():
    first, *rest = 1024, 2048, 4096, 16384
    return Case([_retention("ours", f"T={first}", first), *(_retention("part", f"T={n}", n) for n in rest)])


def _beside_attention(length):
    ours = _retention("ours", "retention, chunkwise", length)
    return Case([ours, _attention("floor", "softmax attention", length)])


def _inputs(length):
    shapes = (KEY_WIDTH, KEY_WIDTH, VALUE_WIDTH, VALUE_WIDTH)
    return [jax.random.normal(jax.random.key(seed), (BATCH, length, HEADS, width)) for seed, width in enumerate(shapes)]


def _retention(role, name, length):
    *qkv, cotangent = _inputs(length)
    state = jnp.zeros((BATCH, HEADS, KEY_WIDTH, VALUE_WIDTH))

    def run(q, k, v):
        return retention.chunkwise(q, k, v, retention.log_decay(HEADS), state)[0]

    return compiled(role, name, forward_and_backward(run), qkv, cotangent)


def _attention(role, name, length):
    *qkv, cotangent = _inputs(length)
    return compiled(role, name, forward_and_backward(attention.causal), qkv, cotangent)


def _decoding():
    model = models.retnet(num_layers=4)
    state = model.init_state(1, None)
    bytes_of_state = sum(leaf.nbytes for leaf in jax.tree.leaves(state.mixers))
    tokens = np.zeros(1, np.int32)

    def at(role, position):
        here = state._replace(position_B=jnp.full(1, position, jnp.int32))
        return compiled(role, f"position {position:,}", lambda model, s: model.step(tokens, s), model, here)

    return Case([at("ours", 100), at("part", 100_000)], {"state bytes": bytes_of_state})
