"""What a KAN layer makes of each input before its matrix product: the functions on the edges, and what they own."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.variables import Buffer
from mixkabrn_jax.ops import bases, bspline, uniform_bspline
from mixkabrn_jax.ops.uniform_bspline import UniformGrid

BASES = ("bspline", "chebyshev", "fourier", "rbf", "rational")
KNOTS = ("uniform", "adaptive")
INITS = ("variance", "pykan", "glorot", "lecun")
SPLINE_LINEAR_TYPES = ("dense", "ternary", "int4", "int8")


@dataclass(frozen=True)
class KanConfig:
    """The functions on the edges of a KAN layer, how they start, and what of them is trained."""

    basis: str = "bspline"
    """One of `BASES`."""
    knots: str = "uniform"
    """"uniform": shared by all edges, constant, basis in closed form. "adaptive": a `Buffer` for each input, moved to
    follow its samples, basis by Cox-de Boor."""
    grid: UniformGrid = UniformGrid()
    """Where the functions live; adaptive knots start there."""
    rational_groups: int = 8
    """Groups of features with one rational function each, where basis is "rational"."""
    init: str = "variance"
    """"variance": of `spline_share`. "lecun": variance 1 / fan-in of each of the two matrices; "glorot": 2 / (fan-in +
    fan-out); both as if every feature had unit power. "pykan": base U(-1, 1) / sqrt(D), splines through small noise."""
    spline_share: float = 0.5
    """The part of the output's initial variance that comes from the splines, 0 to 1, where init is "variance"."""
    train_base: bool = True
    """Whether the base is trained: a part that is not is a `Buffer`, saved, without gradient."""
    train_spline: bool = True
    """Whether the splines are trained, or the functions that stand in for them."""
    spline_linear: str = "dense"
    """Number format of the splines' coefficients; but for "dense", with a scale for each basis function: "ternary" as
    matrices have it, "int4" and "int8" up to the largest coefficient."""

    def __post_init__(self):
        for field, known in (
            ("basis", BASES),
            ("knots", KNOTS),
            ("init", INITS),
            ("spline_linear", SPLINE_LINEAR_TYPES),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r}: one of {known} is needed")
        if self.rational_groups < 1:
            raise ValueError(f"rational_groups={self.rational_groups}: at least 1 is needed")
        if not 0 <= self.spline_share <= 1:
            raise ValueError(f"spline_share={self.spline_share}: 0 to 1 is needed")
        for field, only in (("knots", "adaptive"), ("init", "pykan")):
            if getattr(self, field) == only and self.basis != "bspline":
                raise ValueError(f"{field}={only!r}: basis='bspline' is needed, not {self.basis!r}")


class OutsideGrid(NamedTuple):
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

    def __init__(self, d_in: int, config: KanConfig = KanConfig(), num_experts: int = 0):
        """
        Args:
            num_experts: 0, or the leading dimension of what it owns.
        """
        experts = (num_experts,) if num_experts else ()

        def repeated(kind, count, row):
            # float32 whatever the compute dtype: in bfloat16 neighbouring knots would fall on each other.
            row = jnp.asarray(row, jnp.float32)
            return kind(jnp.broadcast_to(row, (*experts, count, *row.shape)))

        has_knots = config.basis == "bspline" and config.knots == "adaptive"
        self.knots_DM = repeated(Buffer, d_in, config.grid.knots()) if has_knots else None
        rational, kind = config.basis == "rational", nnx.Param if config.train_spline else Buffer
        self.numerator_PG = repeated(kind, config.rational_groups, bases.GELU[0]) if rational else None
        self.denominator_PG = repeated(kind, config.rational_groups, bases.GELU[1]) if rational else None
        self.config = config

    @property
    def num_basis(self) -> int:
        """G, the number of functions on one edge."""
        return 1 if self.config.basis == "rational" else self.config.grid.num_basis

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., G, D]` in x's dtype; with experts, rows `[R, D]` sorted by expert."""
        basis, grid = self.config.basis, self.config.grid
        if basis == "chebyshev":
            return bases.chebyshev(x, grid.num_basis)
        if basis == "fourier":
            return bases.fourier(x, grid.low, grid.high, grid.num_basis)
        if basis == "rbf":
            return bases.gaussian_rbf(x, grid.low, grid.high, grid.num_basis)
        if basis == "rational":
            numerator = _of_rows(self.numerator_PG, x, group_sizes_E)
            denominator = _of_rows(self.denominator_PG, x, group_sizes_E)
            return bases.group_rational(x, numerator, denominator)[..., None, :]
        if self.knots_DM is None:
            return uniform_bspline.basis(x, grid)
        knots = _of_rows(self.knots_DM, x, group_sizes_E)
        wide = x.astype(jnp.promote_types(x.dtype, knots.dtype))
        return bspline.by_function(wide, knots, grid.degree, grid.extrapolation).astype(x.dtype)

    def weighted(self, x, weight):
        """These functions times a weight for each input: `[..., D]`, `[..., D]` -> `[..., G, D]`."""
        if self.config.basis == "bspline" and self.knots_DM is None:
            return uniform_bspline.weighted_basis(x, weight, self.config.grid)
        return self(x) * weight[..., None, :]

    def outside_grid(self, x, group_sizes_E=None, row_mask=None) -> OutsideGrid | None:
        """How many inputs lie outside their grid; None where there are no splines.

        Args:
            x: `[..., D]`, or rows `[R, D]` sorted by expert.
            row_mask: `[...]` or None; 0 leaves a row out: padding, or one that no choice fills.
        """
        if self.config.basis != "bspline":
            return None
        degree, low, high = self.config.grid.degree, self.config.grid.low, self.config.grid.high
        if self.knots_DM is not None:
            knots = _of_rows(self.knots_DM, x, group_sizes_E)
            ends = knots[..., degree], knots[..., -degree - 1]
            low, high = (end if end.ndim == x.ndim else end.reshape((1,) * (x.ndim - 1) + (-1,)) for end in ends)
        # By rows first: a float32 that counts one by one stops at 2^24.
        beyond = jnp.sum((x < low) | (x > high), axis=-1, dtype=jnp.float32)
        if row_mask is None:
            return OutsideGrid(jnp.sum(beyond), jnp.full((), x.size, jnp.float32))
        row_mask = (row_mask > 0).astype(jnp.float32)
        return OutsideGrid(jnp.sum(beyond * row_mask), x.shape[-1] * jnp.sum(row_mask))


def _of_rows(variable, x, group_sizes_E):
    """What each row of x is to be met with: its expert's part, or the whole for all."""
    value = variable[...]
    if group_sizes_E is None:
        return value
    expert_R = jnp.searchsorted(jnp.cumsum(group_sizes_E), jnp.arange(x.shape[0]), side="right")
    return value[jnp.minimum(expert_R, value.shape[0] - 1)]
