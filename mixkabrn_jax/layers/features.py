"""What a KAN layer makes of each input before its matrix product: the functions on the edges, and what they own.

Letters: D input feature, G basis function, M knot, P group of features, R row of a grouped matrix, E expert.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.variables import Buffer
from mixkabrn_jax.ops import bases, bspline, uniform_bspline
from mixkabrn_jax.ops.uniform_bspline import UniformGrid

BASES = ("bspline", "chebyshev", "fourier", "rbf", "rational")
KNOTS = ("uniform", "adaptive")


class Outside(NamedTuple):
    """Inputs of splines, counted; counts of several layers, experts or batches add up field by field."""

    outside: jax.Array
    """Those outside their grid, float32 `[]`."""
    inputs: jax.Array
    """All of them, float32 `[]`."""

    def share(self) -> jax.Array:
        """The part that lies outside; 0 where there are no inputs."""
        return self.outside / jnp.maximum(self.inputs, 1)


class Features(nnx.Module):
    """The functions of all edges that leave an input; it owns adaptive knots or rational coefficients, if any.

    Other bases than B-splines have as many functions as the splines would, so that a comparison is one at equal
    parameters; a rational is one function with its own coefficients.
    """

    def __init__(
        self,
        d_in: int,
        *,
        grid: UniformGrid,
        basis: str,
        knots: str,
        rational_groups: int,
        trained: bool,
        num_experts: int,
    ):
        """
        Args:
            basis: one of `BASES`.
            knots: one of `KNOTS`; adaptive ones start uniform, in `knots_DM`, and are moved by `refinement`.
            rational_groups: groups of features with one rational function each.
            trained: whether rational coefficients are parameters; else they are `Buffer`s.
            num_experts: 0, or the leading dimension of what it owns.
        """
        experts = (num_experts,) if num_experts else ()

        def repeated(kind, count, row):
            # float32 whatever the compute dtype: in bfloat16 neighbouring knots would fall on each other.
            row = jnp.asarray(row, jnp.float32)
            return kind(jnp.broadcast_to(row, (*experts, count, *row.shape)))

        self.knots_DM = repeated(Buffer, d_in, grid.knots()) if basis == "bspline" and knots == "adaptive" else None
        rational, kind = basis == "rational", nnx.Param if trained else Buffer
        self.numerator_PK = repeated(kind, rational_groups, bases.GELU[0]) if rational else None
        self.denominator_PK = repeated(kind, rational_groups, bases.GELU[1]) if rational else None
        self.grid, self.basis = grid, basis

    @property
    def num_basis(self) -> int:
        """G."""
        return 1 if self.basis == "rational" else self.grid.num_basis

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., G, D]` in x's dtype; with experts, rows `[R, D]` sorted by expert."""
        grid = self.grid
        if self.basis == "chebyshev":
            return bases.chebyshev(x, grid.num_basis)
        if self.basis == "fourier":
            return bases.fourier(x, grid.low, grid.high, grid.num_basis)
        if self.basis == "rbf":
            return bases.gaussian_rbf(x, grid.low, grid.high, grid.num_basis)
        if self.basis == "rational":
            numerator = _of_rows(self.numerator_PK, x, group_sizes_E)
            denominator = _of_rows(self.denominator_PK, x, group_sizes_E)
            return bases.group_rational(x, numerator, denominator)[..., None, :]
        if self.knots_DM is None:
            return uniform_bspline.basis(x, grid)
        knots = _of_rows(self.knots_DM, x, group_sizes_E)
        wide = x.astype(jnp.promote_types(x.dtype, knots.dtype))
        return jnp.swapaxes(bspline.basis(wide, knots, grid.degree, grid.extrapolation), -1, -2).astype(x.dtype)

    def outside(self, x, group_sizes_E=None, weights=None) -> Outside | None:
        """How many inputs lie outside their grid; None where there are no splines.

        Args:
            x: `[..., D]`, or rows `[R, D]` sorted by expert.
            weights: `[...]` or None, 0 leaves a row (padding, or room that no choice fills) out.
        """
        if self.basis != "bspline":
            return None
        low, high = self.grid.low, self.grid.high
        if self.knots_DM is not None:
            knots = _of_rows(self.knots_DM, x, group_sizes_E)
            ends = knots[..., self.grid.degree], knots[..., -self.grid.degree - 1]
            low, high = (end if end.ndim == x.ndim else end.reshape((1,) * (x.ndim - 1) + (-1,)) for end in ends)
        # By rows first: a float32 that counts one by one stops at 2^24.
        beyond = jnp.sum((x < low) | (x > high), axis=-1, dtype=jnp.float32)
        if weights is None:
            return Outside(jnp.sum(beyond), jnp.full((), x.size, jnp.float32))
        weights = (weights > 0).astype(jnp.float32)
        return Outside(jnp.sum(beyond * weights), x.shape[-1] * jnp.sum(weights))


def _of_rows(variable, x, group_sizes_E):
    """What each row of x is to be met with: its expert's part, or the whole for all."""
    value = variable[...]
    if group_sizes_E is None:
        return value
    expert_R = jnp.searchsorted(jnp.cumsum(group_sizes_E), jnp.arange(x.shape[0]), side="right")
    return value[jnp.minimum(expert_R, value.shape[0] - 1)]
