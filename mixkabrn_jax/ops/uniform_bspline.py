# ruff: noqa
"""temporary"""

from dataclasses import dataclass

from mixkabrn_jax.ops import bspline


@dataclass(frozen=True)
class UniformGrid:
    """g"""

    low: float = -3.0
    high: float = 3.0
    num_intervals: int = 3
    degree: int = 3
    extrapolation: str = "fade"

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: low < high is needed")
        if self.num_intervals < 1:
            raise ValueError(f"num_intervals={self.num_intervals}: at least 1 is needed")
        if not 0 <= self.degree <= 5:
            raise ValueError(f"degree={self.degree}: 0 to 5 is needed")
        if self.extrapolation not in bspline.OUTSIDE:
            raise ValueError(f"extrapolation={self.extrapolation!r}: one of {bspline.OUTSIDE} is needed")

    @property
    def num_basis(self):
        return self.num_intervals + self.degree

    def knots(self):
        return bspline.uniform_knots(self.low, self.high, self.num_intervals, self.degree)


def basis(x, g):
    return bspline.uniform_basis(x, g.low, g.high, g.num_intervals, g.degree, g.extrapolation)
