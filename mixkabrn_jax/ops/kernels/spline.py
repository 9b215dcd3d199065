"""A layer of uniform B-splines as one kernel: B(x) C without B(x) in memory, forward and backward.

The basis is G times as large as the input and cheap to compute: each program makes the piece it multiplies, in
registers. Sources: Liu et al., KAN (2024), eq. 2.10; the closed form of the basis is that of `ops.bspline`.

Letters: R row, E expert, D input width, G basis function, F output width.
"""

from dataclasses import dataclass
from math import comb, factorial, prod

import jax
import jax.numpy as jnp

from mixkabrn_jax.ops import bspline
from mixkabrn_jax.ops.kernels.rows import rows_matmul


def spline_matmul(
    x: jax.Array,
    coef: jax.Array,
    group_sizes: jax.Array | None = None,
    *,
    low: float,
    high: float,
    num_intervals: int,
    degree: int,
    outside: str = "fade",
    interpret: bool | None = None,
) -> jax.Array:
    """`bspline.uniform_basis(x, ...)`, reshaped to `[R, G * D]`, times `coef`.

    Args:
        x: `[R, D]`; with experts, sorted by expert.
        coef: `[G * D, F]`, or `[E, G * D, F]` for experts; row g * D + d is function g of input d, G = num_intervals +
            degree.
        group_sizes: `[E]` int, rows of each expert; rows past their sum give 0, whatever they hold.
        low, high, num_intervals, degree, outside: as for `bspline.uniform_basis`.
        interpret: as for `tiles.launch`.
    Returns: `[R, F]` in the dtype of x and coef combined, summed in float32.
    Raises: ValueError for shapes that do not fit, an empty range, no interval, a negative degree or an unknown choice
        outside.
    """
    bspline.uniform_knots(low, high, num_intervals, degree)
    bspline.check_outside(outside)
    bumps = _Bumps(low, high, num_intervals, degree, outside)
    fits = x.ndim == 2 and coef.shape[-2] == bumps.count * x.shape[-1]
    experts = coef.shape[:-2]
    if not fits or experts != (() if group_sizes is None else group_sizes.shape) or len(experts) > 1:
        sizes = None if group_sizes is None else group_sizes.shape
        raise ValueError(
            f"x {x.shape}, coef {coef.shape}, group_sizes {sizes}: [R, D], [{bumps.count} * D, F] and None, or "
            f"[R, D], [E, {bumps.count} * D, F] and [E] are needed"
        )
    coef_EGDF = coef.reshape(*(experts or (1,)), bumps.count, x.shape[-1], coef.shape[-1])
    return rows_matmul(bumps, x, coef_EGDF, group_sizes, interpret=interpret)


@dataclass(frozen=True)
class _Bumps:
    """The uniform basis functions: one bump, shifted."""

    low: float
    high: float
    num_intervals: int
    degree: int
    outside: str

    @property
    def count(self) -> int:
        return self.num_intervals + self.degree

    def prepare(self, x):
        """Position in steps from the grid's start, held where nothing changes any more, and as it was."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # a bf16 position would move the knots
        free = (x - self.low) * (self.num_intervals / (self.high - self.low))
        if self.degree == 0:
            at_end = x == self.high if self.outside == "fade" else free >= self.num_intervals
            held = free if self.outside == "fade" else jnp.maximum(free, 0)
            return jnp.where(at_end, self.num_intervals - 1, jnp.floor(held)), free
        # Where splines fade, every bump is 0 one step beyond the outermost support.
        margin = self.degree + 1 if self.outside == "fade" else 0
        held = jnp.minimum(jnp.maximum(free, -margin), self.num_intervals + margin)
        return held, free

    def value(self, prepared, g):
        held, free = prepared
        if self.degree == 0:
            return (held == g.astype(held.dtype)).astype(held.dtype)
        value = self._powers(jnp.abs(self._distance(held, g)), self.degree)
        if self.outside == "linear":
            value += jnp.minimum(free, 0) * self._end_slope(g, held.dtype)
            value -= jnp.maximum(free - self.num_intervals, 0) * self._end_slope(self.count - 1 - g, held.dtype)
        return value

    def slope(self, prepared, g):
        held, free = prepared
        if self.degree == 0:
            return 0.0
        distance = self._distance(held, g)
        slope = self._powers(jnp.abs(distance), self.degree - 1)
        slope = jnp.where(distance > 0, -slope, jnp.where(distance < 0, slope, 0))
        if self.outside != "fade":
            first, last = 0.0, 0.0
            if self.outside == "linear":
                first, last = self._end_slope(g, held.dtype), -self._end_slope(self.count - 1 - g, held.dtype)
            slope = jnp.where(free < 0, first, jnp.where(free > self.num_intervals, last, slope))
        return slope * (self.num_intervals / (self.high - self.low))

    def _distance(self, position, g):
        return position - (g.astype(position.dtype) - (self.degree - 1) / 2)

    def _powers(self, distance, power):
        """1/power! sum_j (-1)^j C(degree + 1, j) max((degree + 1) / 2 - j - |u|, 0)^power; a 0 to the power 0 is 0.

        The factors are multiplied out here: for a GPU a division is ten operations.
        """
        terms = []
        for j in range(self.degree // 2 + 1):
            height = (self.degree + 1) / 2 - j - distance
            height = jnp.maximum(height, 0) if power else (height > 0).astype(distance.dtype)
            terms.append((-1) ** j * comb(self.degree + 1, j) / factorial(power) * prod([height] * max(power, 1)))
        return sum(terms[1:], terms[0])

    def _end_slope(self, g, dtype):
        """Slope in 1/step of function g at the first point of the grid, seen from inside; g may be traced."""
        total = jnp.zeros((), dtype)
        for i in range(self.degree + 1):  # all others begin inside
            total = jnp.where(g == i, self._first_slope(i), total).astype(dtype)
        return total

    def _first_slope(self, g):
        """The same as a Python number: the bump of one degree less half a step before, less that half a step behind."""

        def lower(u):
            if self.degree == 1:
                return float(-0.5 <= u < 0.5)
            heights = (max(self.degree / 2 - j - abs(u), 0) for j in range(self.degree + 1))
            signed = ((-1) ** j * comb(self.degree, j) * h ** (self.degree - 1) for j, h in enumerate(heights))
            return sum(signed) / factorial(self.degree - 1)

        centre = g - (self.degree - 1) / 2
        return lower(0.5 - centre) - lower(-0.5 - centre)
