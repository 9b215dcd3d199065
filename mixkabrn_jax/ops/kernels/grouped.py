"""Rows sorted by expert, each times its own expert's matrix: `ops.grouped_matmul` as one kernel, without padding rows.

Every expert's rows are cut into tiles where they lie; nothing is gathered, and no matrix is copied for a tile.

Letters: R row, E expert, D input width, F output width, I tile of rows.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from mixkabrn_jax.ops.kernels.blocks import Block, accumulator, block, block_size, dot, launch, load, split, store

# On an H200, in bfloat16, 65536 rows of 64 experts of 768 x 768: the fastest of 70 settings; 1.3 times the time of one
# matrix for all rows.
ROWS = 64
"""Rows of a tile."""
WIDE = 128
"""Columns of a block of sums; rows too, where they are a matrix's gradient."""
DEEP = 64
"""Entries of the summed width at a time."""
NUM_WARPS = 4
NUM_STAGES = {2: 3, 4: 2, 8: 1}
"""Blocks of both operands under way at once, for the bytes of an entry."""
PROGRAMS = 264
"""Two for each SM of an H200: where a weight gradient has fewer blocks, its rows are split to have as many programs."""


def grouped_matmul(x: jax.Array, w: jax.Array, group_sizes: jax.Array, *, interpret: bool | None = None) -> jax.Array:
    """y[r] = x[r] @ w[expert of row r].

    Args:
        x: `[R, D]`, sorted by expert; w: `[E, D, F]`.
        group_sizes: `[E]` int, rows of each expert; rows past their sum give 0 and get no gradient, whatever they hold.
        interpret: as for `blocks.launch`.
    Returns: `[R, F]` in the dtype of x and w combined, summed in float32.
    Raises: ValueError for shapes that do not fit.
    """
    if x.ndim != 2 or w.ndim != 3 or x.shape[1] != w.shape[1] or group_sizes.shape != w.shape[:1]:
        raise ValueError(
            f"x {x.shape}, w {w.shape}, group_sizes {group_sizes.shape}: [R, D], [E, D, F], [E] are needed"
        )
    dtype = jnp.result_type(x, w)
    if 0 in (*x.shape, *w.shape):  # no blocks to launch: sums of nothing
        return jnp.zeros((x.shape[0], w.shape[-1]), dtype)
    return _grouped_matmul(interpret, x.astype(dtype), w.astype(dtype), group_sizes)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _grouped_matmul(interpret, x_RD, w_EDF, group_sizes_E):
    return _multiply(interpret, x_RD, w_EDF, group_sizes_E, transpose=False)


def _grouped_matmul_forward(interpret, x_RD, w_EDF, group_sizes_E):
    return _grouped_matmul(interpret, x_RD, w_EDF, group_sizes_E), (x_RD, w_EDF, group_sizes_E)


def _grouped_matmul_backward(interpret, residual, grad_RF):
    x_RD, w_EDF, group_sizes_E = residual
    grad_RD = _multiply(interpret, grad_RF, w_EDF, group_sizes_E, transpose=True)
    return grad_RD, _weight_gradients(interpret, x_RD, grad_RF, w_EDF, group_sizes_E), None


_grouped_matmul.defvjp(_grouped_matmul_forward, _grouped_matmul_backward)


def _multiply(interpret, a_RX, w_EDF, group_sizes_E, *, transpose):
    """a @ w, or a @ w^T, by expert: `[R, Y]`."""
    num_rows, x_width = a_RX.shape
    y_width = w_EDF.shape[1 if transpose else 2]
    rows, wide = block_size(num_rows, ROWS), block_size(y_width, WIDE)
    tiles = _tiles(group_sizes_E, num_rows, rows)
    return launch(
        _multiply_kernel,
        (pl.cdiv(y_width, wide), tiles.expert_I.shape[0]),
        jax.ShapeDtypeStruct((num_rows, y_width), a_RX.dtype),
        *tiles,
        a_RX,
        w_EDF,
        sizes=(rows, block_size(x_width, DEEP), wide),
        transpose=transpose,
        **_options(interpret, a_RX.dtype),
    )


def _multiply_kernel(expert_ref, start_ref, end_ref, a_ref, w_ref, out_ref, *, sizes, transpose):
    """One tile of rows, one block of Y."""
    rows, deep, wide = sizes
    x_width, y_width = a_ref.shape[1], out_ref.shape[1]
    tile = pl.program_id(1)
    expert = expert_ref[tile]
    row, y = Block(start_ref[tile], rows, end_ref[tile]), block(pl.program_id(0), wide, y_width)

    def add(i, total):
        x = block(i, deep, x_width)
        w = load(w_ref, expert, *((y, x) if transpose else (x, y)))
        return total + dot(load(a_ref, row, x), w, transpose_b=transpose)

    steps = (expert < w_ref.shape[0]).astype(jnp.int32) * pl.cdiv(x_width, deep)
    total = jax.lax.fori_loop(0, steps, add, jnp.zeros((rows, wide), accumulator(w_ref.dtype)))
    store(out_ref, total, row, y)


def _weight_gradients(interpret, x_RD, grad_RF, w_EDF, group_sizes_E):
    (num_rows, d_in), (num_experts, _, d_out) = x_RD.shape, w_EDF.shape
    wide_in, wide_out = block_size(d_in, WIDE), block_size(d_out, WIDE)
    num_blocks = pl.cdiv(d_out, wide_out), pl.cdiv(d_in, wide_in)
    rows = block_size(num_rows, DEEP)  # the summed axis here
    parts = min(pl.cdiv(PROGRAMS, num_blocks[0] * num_blocks[1] * num_experts), pl.cdiv(num_rows, 8 * rows))
    end_E = jnp.cumsum(group_sizes_E)
    grad_PEDF = launch(
        _weight_gradients_kernel,
        (*num_blocks, num_experts * parts),
        jax.ShapeDtypeStruct((parts, *w_EDF.shape), w_EDF.dtype if parts == 1 else accumulator(w_EDF.dtype)),
        (end_E - group_sizes_E).astype(jnp.int32),
        end_E.astype(jnp.int32),
        x_RD,
        grad_RF,
        sizes=(rows, wide_in, wide_out),
        **_options(interpret, x_RD.dtype),
    )
    return grad_PEDF[0] if parts == 1 else grad_PEDF.sum(axis=0).astype(w_EDF.dtype)


def _weight_gradients_kernel(start_ref, end_ref, x_ref, grad_ref, out_ref, *, sizes):
    """One expert, one block of D, one of F, one part of the expert's rows: x^T @ grad."""
    rows, wide_in, wide_out = sizes
    num_parts, num_experts, d_in, d_out = out_ref.shape
    part, expert = split(pl.program_id(2), num_experts)
    inputs, out = block(pl.program_id(1), wide_in, d_in), block(pl.program_id(0), wide_out, d_out)
    start, end = start_ref[expert], end_ref[expert]
    num_tiles, _ = split(end - start + (rows - 1), rows)
    tiles_each, _ = split(num_tiles + (num_parts - 1), num_parts)
    first = part * tiles_each

    def add_rows(i, total):
        row = Block(start + (first + i) * rows, rows, end)
        return total + dot(load(x_ref, row, inputs), load(grad_ref, row, out), transpose_a=True)

    steps = jnp.clip(num_tiles - first, 0, tiles_each)
    total = jax.lax.fori_loop(0, steps, add_rows, jnp.zeros((wide_in, wide_out), accumulator(grad_ref.dtype)))
    store(out_ref, total, part, expert, inputs, out)


def _options(interpret, dtype):
    return {"interpret": interpret, "num_warps": NUM_WARPS, "num_stages": NUM_STAGES[jnp.dtype(dtype).itemsize]}


class _Tiles(NamedTuple):
    """Whose rows a tile holds, where they start, and where the expert's rows end; int32.

    Rows past the sum of all groups belong to an expert E that is not there; tiles to spare hold no rows.
    """

    expert_I: jax.Array
    start_I: jax.Array
    end_I: jax.Array


def _tiles(group_sizes_E, num_rows, rows):
    num_experts = group_sizes_E.shape[0]
    size_E = jnp.concatenate([group_sizes_E, num_rows - jnp.sum(group_sizes_E, keepdims=True)]).astype(jnp.int32)
    end_E = jnp.cumsum(size_E)
    tile_count_E = -(-size_E // rows)
    tile_end_E = jnp.cumsum(tile_count_E)
    # A group wastes less than one tile.
    tile_I = jnp.arange(num_rows // rows + num_experts + 1, dtype=jnp.int32)
    # Not by binary search, which is a loop of small kernels: it took half of a grouped product's time on a GPU.
    expert_I = jnp.searchsorted(tile_end_E, tile_I, side="right", method="compare_all")
    expert_I = jnp.minimum(expert_I, num_experts).astype(jnp.int32)
    tile_within_I = tile_I - (tile_end_E - tile_count_E)[expert_I]
    return _Tiles(expert_I, (end_E - size_E)[expert_I] + tile_within_I * rows, end_E[expert_I])
