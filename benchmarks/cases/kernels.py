"""The accelerator kernels beside the plain operations, the bare products, and flash-linear-attention, in bfloat16."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.measure import CALLS_ON_GPU, Case, Contender, compiled, forward_and_backward
from mixkabrn_jax.ops import retention
from mixkabrn_jax.ops.grouped_matmul import grouped_matmul
from mixkabrn_jax.ops.kernels import grouped
from mixkabrn_jax.ops.kernels.retention import best_blocks

BATCH, LENGTH, HEADS = 8, 4096, 16
ROWS, WIDTH, EXPERTS = 65536, 768, 64


def cases(options):
    if options.suite != "gpu":
        return {}
    return {
        f"kernel: grouped product, {EXPERTS} experts": _grouped,
        **{f"kernel: retention, K = V = {width}": partial(_retention, options, width) for width in (64, 128, 256)},
    }


def _grouped():
    x, w = _normal((ROWS, WIDTH), (EXPERTS, WIDTH, WIDTH))
    # Rows as uneven as a router leaves them.
    sizes = jnp.bincount(jax.random.randint(jax.random.key(2), (ROWS,), 0, EXPERTS), length=EXPERTS)

    def contender(role, name, function, *args):
        return compiled(role, name, forward_and_backward(function), args, jnp.ones((ROWS, WIDTH), x.dtype))

    return Case(
        [
            contender("ours", "kernel", partial(grouped.grouped_matmul, group_sizes=sizes, interpret=False), x, w),
            contender("part", "jax.lax.ragged_dot", partial(grouped_matmul, group_sizes=sizes, method="ragged"), x, w),
            contender("floor", "one matrix", jnp.matmul, x, w[0]),
        ],
        {"flops": 6.0 * ROWS * WIDTH**2},
    )


def _retention(options, width):
    tokens = (BATCH, LENGTH, HEADS, width)
    qkv = _normal(tokens, tokens, tokens)
    state = jnp.zeros((BATCH, HEADS, width, width))

    def contender(role, name, **how):
        def run(q, k, v):
            return retention.chunkwise(q, k, v, retention.log_decay(HEADS), state, **how)[0]

        return compiled(role, name, forward_and_backward(run), qkv, jnp.ones(tokens, jnp.bfloat16))

    sizes = (64, 128, 256)
    contenders = [contender("ours", "kernel", backend="pallas")]
    contenders += [contender("part", f"kernel, chunks of {size}", backend="pallas", chunk_size=size) for size in sizes]
    contenders += [contender("part", "plain operations", backend="gpu")]
    if options.peers and importlib.util.find_spec("fla") is not None:
        contenders.append(_fla(tokens))
    # Within a chunk half of the products are enough: its future is not needed.
    chunk_size = best_blocks(width, jnp.bfloat16).rows
    return Case(contenders, {"flops": 3.0 * BATCH * LENGTH * HEADS * (2 * chunk_size * width + 4 * width**2)})


def _fla(shape):
    import torch
    from fla.ops.retention import chunk_retention

    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    bar = torch.ones(shape, device="cuda", dtype=torch.bfloat16)

    def call():
        for _ in range(CALLS_ON_GPU):
            torch.autograd.grad(chunk_retention(q, k, v)[0], (q, k, v), bar)
        torch.cuda.synchronize()

    return Contender("peer", "flash-linear-attention", call, scale=1 / CALLS_ON_GPU)


def _normal(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return tuple(jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, shapes, strict=True))
