"""One ternary matrix of 1024 x 1024 on 2048 rows: training beside a dense one, and evaluation on its codes."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.measure import Case, compiled, forward_and_backward
from mixkabrn_jax.layers.linear import IntegerLinear, Linear, LinearConfig

ROWS, WIDTH = 2048, 1024


def cases(options):
    return {
        "ternary matrix, forward + backward": partial(_training, options),
        "ternary matrix, evaluation": partial(_evaluation, options),
    }


def _inputs(options):
    rows, dtype = (32768, jnp.bfloat16) if options.suite == "gpu" else (ROWS, jnp.float32)
    return [jax.random.normal(jax.random.key(seed), (rows, WIDTH), dtype) for seed in (0, 1)]


def _training(options):
    x, cotangent = _inputs(options)

    def contender(role, name, linear):
        graph, params = nnx.split(_linear(linear))
        run = forward_and_backward(lambda params, x: nnx.merge(graph, params)(x))
        return compiled(role, name, run, (params, x), cotangent)

    return Case([contender("ours", "ternary", "ternary"), contender("floor", "dense matrix", "dense")])


def _evaluation(options):
    x, _ = _inputs(options)

    def contender(role, name, layer):
        return compiled(role, name, lambda layer, x: layer(x), layer, x)

    ternary = _linear("ternary")
    return Case(
        [
            contender("ours", "on its codes", IntegerLinear(ternary)),
            contender("part", "quantised in float", ternary),
            contender("floor", "dense matrix", _linear("dense")),
        ]
    )


def _linear(linear):
    return Linear(WIDTH, WIDTH, LinearConfig(linear), rngs=nnx.Rngs(0))
