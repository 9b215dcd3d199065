"""B-splines on equally spaced knots in closed form: every basis function is the same bump, shifted.

With u the distance to a bump's centre in steps of the grid and p the degree, the bump is
1/p! sum_j (-1)^j C(p+1, j) max((p+1)/2 - j - |u|, 0)^p (Schoenberg 1946).

Letters: D input feature, G basis function.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixkabrn_jax.ops import bspline


class Position(NamedTuple):
    """Where inputs lie, in steps from the start of the grid, in float32 or better."""

    free: jax.Array
    held: jax.Array
    """Held at the point beyond which the bumps change no more, or are left for a straight line."""


@dataclass(frozen=True)
class UniformGrid:
    """Where splines live: equal intervals from `low` to `high`, and how the splines go on outside of them.

    Raises: ValueError for an empty or infinite range, no interval, a degree that is not 0 to 5, or an unknown
        extrapolation. Each message begins with the field's name.
    """

    low: float = -3.0
    """Left end."""
    high: float = 3.0
    """Right end."""
    num_intervals: int = 3
    """Between the ends."""
    degree: int = 3
    """Of the polynomial pieces: 3 is cubic."""
    extrapolation: str = "fade"
    """One of `bspline.EXTRAPOLATIONS`."""

    def __post_init__(self):
        bspline.check_grid(self.low, self.high, self.num_intervals, self.degree)
        if not 0 <= self.degree <= 5:
            raise ValueError(f"degree={self.degree}: 0 to 5 is needed")
        bspline.check_extrapolation(self.extrapolation)

    @property
    def num_basis(self) -> int:
        """G, basis functions."""
        return self.num_intervals + self.degree

    @property
    def steps_per_unit(self) -> float:
        """How many intervals a distance of 1 has."""
        return self.num_intervals / (self.high - self.low)

    def knots(self) -> jax.Array:
        """`[M]`, with `degree` more of them beyond each end."""
        return bspline.uniform_knots(self.low, self.high, self.num_intervals, self.degree)

    def locate(self, x: jax.Array) -> Position:
        """The positions of inputs of any shape."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # a bf16 position would be a hundredth of a step off
        free = (x - self.low) * self.steps_per_unit
        free = jnp.where(x == self.high, self.num_intervals, free)  # whatever the rounding
        # Where splines fade, every bump is 0 one step beyond the outermost support; there powers of |x| = 1e30 stay
        # finite.
        margin = self.degree + 1 if self.extrapolation == "fade" else 0
        return Position(free, bspline.clip(free, -margin, self.num_intervals + margin))

    def value(self, position: Position, g) -> jax.Array:
        """Function g at these positions."""
        held = position.held
        if self.degree == 0:  # a box has no slope to meet its neighbour with: its edges are half open, the last closed
            is_last = (g == self.num_intervals - 1) & (held == g + 1)
            value = ((held >= g) & ((held < g + 1) | is_last)).astype(held.dtype)
        else:
            value = self._powers(jnp.abs(held - self._centre(g)), self.degree) / math.factorial(self.degree)
        if self.extrapolation == "linear":
            below, above = self._beyond(position)
            value = value + below * self._end_slope(g)
            # The grid is its own mirror image, and so are the slopes at its two ends.
            value = value - above * self._end_slope(self.num_basis - 1 - g)
        return value

    def slope(self, position: Position, g) -> jax.Array:
        """The slope of function g in 1/step."""
        held = position.held
        offset = held - self._centre(g)
        distance = jnp.abs(offset)
        if self.degree == 0:
            slope = jnp.zeros_like(held)
        elif self.degree == 1:
            slope = jnp.where(distance < 1, -jnp.sign(offset), 0)
        else:
            slope = -jnp.sign(offset) * self._powers(distance, self.degree - 1) / math.factorial(self.degree - 1)
        if self.extrapolation != "fade":
            below, above = self._beyond(position)
            first, last = 0.0, 0.0
            if self.extrapolation == "linear":
                first, last = self._end_slope(g), -self._end_slope(self.num_basis - 1 - g)
            slope = jnp.where(below < 0, first, jnp.where(above > 0, last, slope))
        return slope

    def _beyond(self, position):
        """Steps below the grid, negative, and steps above it; 0 elsewhere."""
        return jnp.minimum(position.free, 0), jnp.maximum(position.free - self.num_intervals, 0)

    def _centre(self, g):
        return g - (self.degree - 1) / 2

    def _powers(self, distance, power):
        terms = (
            (-1) ** j * math.comb(self.degree + 1, j) * jnp.maximum((self.degree + 1) / 2 - j - distance, 0) ** power
            for j in range(self.degree // 2 + 1)
        )
        return sum(terms)

    def _end_slope(self, g):
        """Slope in 1/step of function g at the grid's first point, seen from inside.

        The bump of one degree less half a step before it, less that half a step behind it.
        """
        if self.degree == 0:
            return 0.0

        def bump(u):  # half open
            if self.degree == 1:
                return float(-0.5 <= u < 0.5)
            heights = (max(self.degree / 2 - j - abs(u), 0) for j in range(self.degree))
            terms = ((-1) ** j * math.comb(self.degree, j) * h ** (self.degree - 1) for j, h in enumerate(heights))
            return sum(terms) / math.factorial(self.degree - 1)

        return bump(0.5 - self._centre(g)) - bump(-0.5 - self._centre(g))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def basis(x: jax.Array, grid: UniformGrid) -> jax.Array:
    """`bspline.basis` on the knots of a `UniformGrid`, basis-major.

    G comes before D, unlike in `bspline.basis`: whole slabs of D are then written in turn, and
    `[..., G * D] @ [G * D, F]` needs no transpose (on a CPU 2-4 times faster than D before G, and 3-4 times faster than
    the recursion).

    Args:
        x: `[..., D]`.
    Returns: `[..., G, D]`, G = num_intervals + degree, in x's dtype.
    """
    position = grid.locate(x)
    return bspline.slabs([grid.value(position, g).astype(x.dtype) for g in range(grid.num_basis)])


def _basis_forward(x, grid):
    return basis(x, grid), x


def _basis_backward(grid, x, grad):
    """Needs x alone: slopes are as cheap as values, and `[..., G, D]` is read once and kept nowhere."""
    position = grid.locate(x)
    total = jnp.zeros_like(position.held)
    for g in range(grid.num_basis):
        total = total + grad[..., g, :].astype(total.dtype) * grid.slope(position, g)
    return ((total * grid.steps_per_unit).astype(x.dtype),)


basis.defvjp(_basis_forward, _basis_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def weighted_basis(x: jax.Array, weight: jax.Array, grid: UniformGrid) -> jax.Array:
    """`basis(x, grid)` times a weight for each input, written once.

    A product behind `basis` would have XLA make every function anew for each number that it writes: on a CPU ten times
    as long.

    Args:
        x, weight: `[..., D]`.
    Returns: `[..., G, D]` in x's dtype.
    """
    position = grid.locate(x)
    return bspline.slabs([(weight * grid.value(position, g)).astype(x.dtype) for g in range(grid.num_basis)])


def _weighted_forward(x, weight, grid):
    return weighted_basis(x, weight, grid), (x, weight)


def _weighted_backward(grid, residual, grad):
    x, weight = residual
    position = grid.locate(x)
    by_x = by_weight = jnp.zeros_like(position.held)
    for g in range(grid.num_basis):
        grad_g = grad[..., g, :].astype(by_x.dtype)
        by_x = by_x + grad_g * grid.slope(position, g)
        by_weight = by_weight + grad_g * grid.value(position, g)
    return (by_x * weight * grid.steps_per_unit).astype(x.dtype), by_weight.astype(weight.dtype)


weighted_basis.defvjp(_weighted_forward, _weighted_backward)
