"""Windows of several sources, drawn by weight; which one a row comes from is a function of its position alone."""

import sys
from collections.abc import Sequence

import grain
import numpy as np

from mixkabrn_jax.data.packing import Windows

_UNIT = 1 << 20
"""Weights are told apart to about a millionth."""


class Mixture:
    """The windows of several sources, one source behind the other: as such they are validated on.

    For training, `order` draws from them by weight.
    """

    def __init__(self, parts: Sequence[Windows], names: Sequence[str], shares: Sequence[float]):
        """
        Args:
            names: of the parts, for people.
            shares: of the rows of training that each part gives; they add up to 1.
        """
        self.parts, self.names = tuple(parts), tuple(names)
        self._units = [max(round(share * _UNIT), 1) for share in shares]
        self._starts = np.cumsum([0, *map(len, parts)])
        self.sequence_length = parts[0].sequence_length
        self.padding = parts[0].padding

    @property
    def num_targets(self) -> int:
        """Of all parts."""
        return sum(part.num_targets for part in self.parts)

    def fingerprint(self) -> str:
        """Those of the parts, in order."""
        return "; ".join(part.fingerprint() for part in self.parts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """A window as of `Windows`; beyond the ends an IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} is not among the {len(self)} windows")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.parts[number][index - int(self._starts[number])]

    def order(self, seed: int) -> Sequence[dict[str, np.ndarray]]:
        """Endless windows: each part in an order of its own, again and again, interleaved as evenly as can be."""
        return _Interleaved(self, seed)

    def drawn(self, num_rows: int) -> list[int]:
        """How many of the first rows of `order` each part gave."""
        # Each takes its share, rounded up, of the rows that those before it left: from one row to the next exactly one
        # number rises, by one. (grain's own `mix` does the same with weights rounded to a hundredth of the smallest.)
        counts, left = [], sum(self._units)
        for unit in self._units:
            passed = num_rows * (left - unit) // left if left > unit else 0
            counts.append(num_rows - passed)
            num_rows, left = passed, left - unit
        return counts


class _Interleaved(Sequence):
    """Row i of a mixture: of the part whose number of drawn rows rises with it."""

    def __init__(self, mixture, seed):
        seeds = np.random.SeedSequence(seed).generate_state(len(mixture.parts))
        self._orders = [Shuffled(part, int(own)) for part, own in zip(mixture.parts, seeds, strict=True)]
        self._drawn = mixture.drawn

    def __len__(self):
        return sys.maxsize

    def __getitem__(self, i):
        before = self._drawn(i)
        (number,) = (n for n, (a, b) in enumerate(zip(before, self._drawn(i + 1), strict=True)) if a != b)
        return self._orders[number][before[number]]


class Shuffled(Sequence):
    """Endless windows, each epoch in an order of its own, computed from the seed and the position."""

    def __init__(self, windows: Windows, seed: int):
        # Through `seed`, which hashes it: given to `shuffle` itself, a run's second epoch would be in the order of the
        # first epoch of the run with the next seed. Of numbers: grain measures every element that passes through it,
        # which for windows takes longer than making them.
        self._order = grain.MapDataset.source(range(len(windows))).seed(seed).shuffle().repeat()
        self._windows = windows

    def __len__(self):
        return len(self._order)

    def __getitem__(self, i):
        return self._windows[self._order[i]]
