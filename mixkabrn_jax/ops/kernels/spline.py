"""A layer of uniform B-splines as one kernel: B(x) C without B(x) in memory, forward and backward.

The basis is G times as large as the input and cheap to compute: each program makes the piece it multiplies, in
registers. Sources: Liu et al., KAN (2024), eq. 2.10; the closed form of the basis is that of `ops.uniform_bspline`.

Letters: R row, E expert, D input width, G basis function, F output width.
"""

from dataclasses import dataclass

import jax

from mixkabrn_jax.ops.kernels.rows import rows_matmul
from mixkabrn_jax.ops.uniform_bspline import UniformGrid


def spline_matmul(
    x: jax.Array,
    coef: jax.Array,
    group_sizes: jax.Array | None = None,
    *,
    grid: UniformGrid,
    interpret: bool | None = None,
) -> jax.Array:
    """`uniform_bspline.basis(x, grid)`, reshaped to `[R, G * D]`, times `coef`.

    Args:
        x: `[R, D]`; with experts, sorted by expert.
        coef: `[G * D, F]`, or `[E, G * D, F]` for experts; row g * D + d is function g of input d, G = num_intervals +
            degree.
        group_sizes: `[E]` int, rows of each expert; rows past their sum give 0, whatever they hold.
        grid: where the splines live.
        interpret: as for `blocks.launch`.
    Returns: `[R, F]` in the dtype of x and coef combined, summed in float32.
    Raises: ValueError for shapes that do not fit.
    """
    functions = _Splines(grid)
    fits = x.ndim == 2 and coef.shape[-2] == functions.count * x.shape[-1]
    experts = coef.shape[:-2]
    if not fits or experts != (() if group_sizes is None else group_sizes.shape) or len(experts) > 1:
        sizes = None if group_sizes is None else group_sizes.shape
        raise ValueError(
            f"x {x.shape}, coef {coef.shape}, group_sizes {sizes}: [R, D], [{functions.count} * D, F] and None, or "
            f"[R, D], [E, {functions.count} * D, F] and [E] are needed"
        )
    coef_EGDF = coef.reshape(*(experts or (1,)), functions.count, x.shape[-1], coef.shape[-1])
    return rows_matmul(functions, x, coef_EGDF, group_sizes, interpret=interpret)


@dataclass(frozen=True)
class _Splines:
    """The basis functions of a grid, and their slopes by the input."""

    grid: UniformGrid

    @property
    def count(self) -> int:
        return self.grid.num_basis

    def prepare(self, x):
        return self.grid.locate(x)

    def value(self, position, g):
        return self.grid.value(position, g, divide=_by_reciprocal)

    def slope(self, position, g):
        return self.grid.slope(position, g, divide=_by_reciprocal) * self.grid.steps_per_unit


def _by_reciprocal(numerator, denominator):
    return numerator * (1 / denominator)
