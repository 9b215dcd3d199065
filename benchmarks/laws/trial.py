"""A law, and what trying it has shown."""

from collections.abc import Callable
from typing import NamedTuple


class Trial(NamedTuple):
    """Whether the law held, and what was seen."""

    holds: bool
    seen: str


class Law(NamedTuple):
    """What ought to hold, and how to try it."""

    peer: str
    text: str
    theirs: Callable[[], Trial]
    ours: Callable[[], Trial]


def close(difference: float, size: float, limit: float = 1e-5) -> Trial:
    """A difference of results that ought to be equal, relative to their size."""
    return Trial(difference <= limit * size, f"off by {difference:.1e} of {size:.2g}")
