"""Several ways to compute one thing, timed in turns, so that what else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Contender(NamedTuple):
    """One way to compute it."""

    role: str
    """ours; floor, the least work it could be; peer; or part, a part of ours that is shown beside it."""
    name: str
    call: Callable[[], Any]
    """Computes it, and returns once it is there."""
    temporary_bytes: int | None = None
    """What the compiled program allocates on the way, besides inputs and outputs; None where nobody says."""
    scale: float = 1.0
    """Its time counts this many times: 16 for a peer that only fits a sixteenth of the rows."""


class Case(NamedTuple):
    """What is computed."""

    contenders: list[Contender]
    figures: dict[str, float] = {}  # noqa: RUF012 - never changed
    """Further figures of the case, known before it is timed."""
    agree: Callable[[], dict[str, float]] | None = None
    """The peers' largest differences from ours relative to the size, to be seen before anything is timed."""
    limit: float = 1e-3
    """What they may be."""


class Row(NamedTuple):
    """What was measured of one contender."""

    case: str
    role: str
    name: str
    milliseconds: float
    """The median of its turns."""
    ratio: float
    """Its time over ours."""
    temporary_bytes: int | None
    disagreement: float | None


CALLS_ON_GPU = 5
"""In a turn, one right after the other: a GPU's work is short beside what it takes to start it and to wait for it."""


def compiled(role: str, name: str, function, *args, scale: float = 1.0) -> Contender:
    """A JAX function of these arguments as a contender."""
    program = jax.jit(function).lower(*args).compile()
    memory = program.memory_analysis()
    temporary = None if memory is None else memory.temp_size_in_bytes
    calls = CALLS_ON_GPU if jax.default_backend() == "gpu" else 1

    def call():
        for _ in range(calls):
            out = program(*args)
        jax.block_until_ready(out)

    return Contender(role, name, call, temporary, scale / calls)


def forward_and_backward(function):
    """(arguments, cotangent) -> (value, gradients of all arguments)."""

    def run(args, cotangent):
        value, pullback = jax.vjp(function, *args)
        return value, pullback(cotangent)

    return run


def difference(got, want) -> float:
    """The largest difference relative to the largest value, over trees of arrays alike."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            raise ValueError(f"shapes {a.shape} and {b.shape} are not the same computation")
        worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)))
    return worst


def measure(name: str, case: Case, *, turns: int = 15, seconds: float = 40.0) -> list[Row]:
    """Times a case: one turn to warm up, then up to so many, as far as the seconds go (three at least).

    Raises: ValueError when a peer computes something else.
    """
    disagreements = case.agree() if case.agree else {}
    for peer, worst in disagreements.items():
        if not worst < case.limit:
            raise ValueError(f"{name}: {peer} is off by {worst:.1e} of ours: not the same computation")
    times = [[] for _ in case.contenders]
    for contender in case.contenders:
        contender.call()
    began = time.perf_counter()
    for turn in range(turns):
        if turn >= 3 and time.perf_counter() - began > seconds:
            break
        for contender, mine in zip(case.contenders, times, strict=True):
            start = time.perf_counter()
            contender.call()
            mine.append((time.perf_counter() - start) * contender.scale)
    medians = [statistics.median(mine) * 1e3 for mine in times]
    ours = next(m for c, m in zip(case.contenders, medians, strict=True) if c.role == "ours")
    return [
        Row(name, c.role, c.name, m, m / ours, c.temporary_bytes, disagreements.get(c.name))
        for c, m in zip(case.contenders, medians, strict=True)
    ]


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| case | what | ms | time over ours | temporary MB | off from ours by |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        memory = "" if row.temporary_bytes is None else f"{row.temporary_bytes / 1e6:.1f}"
        off = "" if row.disagreement is None else f"{row.disagreement:.0e}"
        lines.append(
            f"| {row.case} | {row.role}: {row.name} | {row.milliseconds:.3g} | {row.ratio:.2f} | {memory} | {off} |"
        )
    return "\n".join(lines)
