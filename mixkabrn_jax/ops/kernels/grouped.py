"""Rows sorted by expert, each times its own expert's matrix: `ops.grouped_matmul` as one kernel, without padding rows.

Letters: R row, E expert, D input width, F output width.
"""

from dataclasses import dataclass

import jax

from mixkabrn_jax.ops.kernels.rows import rows_matmul


def grouped_matmul(x: jax.Array, w: jax.Array, group_sizes: jax.Array, *, interpret: bool | None = None) -> jax.Array:
    """y[r] = x[r] @ w[expert of row r].

    Every expert's rows are cut into tiles where they lie; nothing is gathered, and no matrix is copied for a tile.

    Args:
        x: `[R, D]`, sorted by expert; w: `[E, D, F]`.
        group_sizes: `[E]` int, rows of each expert; rows past their sum give 0, whatever they hold.
        interpret: as for `blocks.launch`.
    Returns: `[R, F]` in the dtype of x and w combined, summed in float32.
    Raises: ValueError for shapes that do not fit.
    """
    if x.ndim != 2 or w.ndim != 3 or x.shape[1] != w.shape[1] or group_sizes.shape != w.shape[:1]:
        raise ValueError(
            f"x {x.shape}, w {w.shape}, group_sizes {group_sizes.shape}: [R, D], [E, D, F], [E] are needed"
        )
    return rows_matmul(_Identity(), x, w[:, None], group_sizes, interpret=interpret)


@dataclass(frozen=True)
class _Identity:
    """The one function f(x) = x."""

    count: int = 1

    def prepare(self, x):
        return x

    def value(self, x, g):  # noqa: ARG002
        return x

    def slope(self, x, g):  # noqa: ARG002
        return 1.0
