"""A law, and what trying it has shown."""

from collections.abc import Callable
from typing import NamedTuple


class Verdict(NamedTuple):
    """Whether the law held, and what was seen."""

    holds: bool
    seen: str


class Law(NamedTuple):
    """What ought to hold, and how to try it."""

    peer: str
    text: str
    theirs: Callable[[], Verdict]
    ours: Callable[[], Verdict]


def close(difference: float, size: float, limit: float = 1e-5) -> Verdict:
    """A difference of results that ought to be equal, relative to their size."""
    return Verdict(difference <= limit * size, f"off by {difference:.1e} of {size:.2g}")
