"""Time the accelerator kernels against the plain ops on an NVIDIA GPU, forward and forward with backward, in bfloat16.

Run with `python -m benchmarks.gpu_kernels`; flash-linear-attention's retention is timed too where it is installed.
"""

import functools
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixkabrn_jax.ops import bspline, retention
from mixkabrn_jax.ops.grouped_matmul import grouped_matmul
from mixkabrn_jax.ops.kernels import grouped, spline
from mixkabrn_jax.ops.kernels import retention as retention_kernels

REPEATS = 20
BATCH, LENGTH, HEADS = 8, 4096, 16
ROWS, WIDTH, EXPERTS = 65536, 768, 64
GRID = {"low": -2.0, "high": 2.0, "num_intervals": 5, "degree": 3}


class Case(NamedTuple):
    name: str
    functions: dict[str, tuple[Callable, tuple[jax.Array, ...]]]
    """Who computes it, how, and from what; gradients are taken of all arguments. The kernel comes first."""
    flops: float
    """Of the products of one forward pass: what a table divides a time by."""


def cases() -> Iterator[Case]:
    """One at a time, so that only one's arguments are in memory."""
    yield spline_case()
    yield grouped_case()
    for width in (64, 128, 256):
        for chunk_size in (64, 128, 256):
            yield retention_case(width, chunk_size)


def spline_case() -> Case:
    """Splines, also against the bare product of a basis that is already in memory, as if it had cost nothing."""
    num_basis = GRID["num_intervals"] + GRID["degree"]
    x, coef = _normal((ROWS, WIDTH), (num_basis * WIDTH, WIDTH))

    def basis(x):
        return bspline.uniform_basis(x, *GRID.values()).reshape(ROWS, -1)

    functions = {
        "kernel": (functools.partial(spline.spline_matmul, **GRID, interpret=False), (x, coef)),
        "plain op": (lambda x, coef: basis(x) @ coef, (x, coef)),
        "product alone": (jnp.matmul, (jax.jit(basis)(x), coef)),
    }
    return Case("splines", functions, 2.0 * ROWS * num_basis * WIDTH * WIDTH)


def grouped_case() -> Case:
    x, w = _normal((ROWS, WIDTH), (EXPERTS, WIDTH, WIDTH))
    # Rows as uneven as a router leaves them.
    sizes = jnp.bincount(jax.random.binomial(jax.random.key(2), EXPERTS - 1, 0.5, (ROWS,)).astype(int), length=EXPERTS)
    functions = {
        "kernel": (functools.partial(grouped.grouped_matmul, group_sizes=sizes, interpret=False), (x, w)),
        "plain op": (functools.partial(grouped_matmul, group_sizes=sizes), (x, w)),
        "one matrix": (jnp.matmul, (x, w[0])),
    }
    return Case(f"grouped, {EXPERTS} experts", functions, 2.0 * ROWS * WIDTH**2)


def retention_case(width: int, chunk_size: int) -> Case:
    """Keys and values of one width; the products within a chunk count half, for its future is not needed."""
    tokens = (BATCH, LENGTH, HEADS, width)
    q, k, v = _normal(tokens, tokens, tokens)
    state = jnp.zeros((BATCH, HEADS, width, width))
    log_decay = retention.log_decay(HEADS)

    def ours(q, k, v):
        return retention_kernels.chunkwise(q, k, v, log_decay, state, chunk_size=chunk_size, interpret=False)[0]

    def plain(q, k, v):
        return retention.chunkwise(q, k, v, log_decay, state, chunk_size=chunk_size)[0]

    flops = BATCH * LENGTH * HEADS * (2.0 * chunk_size * width + 4.0 * width**2)
    functions = {"kernel": (ours, (q, k, v)), "plain op": (plain, (q, k, v))}
    return Case(f"retention, K = V = {width}, chunks of {chunk_size}", functions, flops)


def fla_retention(width: int) -> tuple[Callable, Callable] | None:
    """Forward, and forward with backward, of flash-linear-attention's chunkwise retention; None where it is not."""
    if importlib.util.find_spec("fla") is None or importlib.util.find_spec("torch") is None:
        return None
    torch, fla = importlib.import_module("torch"), importlib.import_module("fla.ops.retention")
    shape = (BATCH, LENGTH, HEADS, width)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    bar = torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    def forward():
        with torch.no_grad():
            fla.chunk_retention(q, k, v)
        torch.cuda.synchronize()

    def both():
        torch.autograd.grad(fla.chunk_retention(q, k, v)[0], (q, k, v), bar)
        torch.cuda.synchronize()

    return forward, both


def runs(function: Callable, arguments: tuple[jax.Array, ...]) -> tuple[Callable, Callable]:
    """Forward, and forward with backward, compiled; each runs to its end."""

    def pull_back(*arguments):
        out, vjp = jax.vjp(function, *arguments)
        return vjp(jnp.ones_like(out))

    compiled = (jax.jit(f).lower(*arguments).compile() for f in (function, pull_back))
    forward, both = (functools.partial(_to_the_end, f, arguments) for f in compiled)
    return forward, both


def milliseconds(run: Callable) -> float:
    """Median of `REPEATS` runs after two that do not count."""
    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def main():
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    print("| case | who | forward ms | Tflop/s | forward and backward ms |\n|---|---|---|---|---|")
    for case in cases():
        for who, (function, arguments) in case.functions.items():
            _row(case.name, who, runs(function, arguments), case.flops)
    for width in (64, 128, 256):
        peer = fla_retention(width)
        if peer is not None:
            _row(f"retention, K = V = {width}", "flash-linear-attention", peer, retention_case(width, 64).flops)


def _row(name, who, timed, flops):
    forward, both = (milliseconds(run) for run in timed)
    print(f"| {name} | {who} | {forward:.2f} | {flops / forward / 1e9:.0f} | {both:.2f} |", flush=True)


def _to_the_end(function, arguments):
    jax.block_until_ready(function(*arguments))


def _normal(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return tuple(jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, shapes, strict=True))


if __name__ == "__main__":
    main()
