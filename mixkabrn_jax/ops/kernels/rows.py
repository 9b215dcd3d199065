"""Rows sorted by expert: functions of every entry, times that expert's matrices, in one launch.

y[r] = sum_g f_g(x[r]) @ w[expert of row r, g]. One identity function makes it a grouped product, B-splines make it a
KAN layer whose basis is never in memory: each kernel computes the f_g of the entries it holds, in registers.

Letters: R row, E expert, G function, D input width, F output width, I tile of rows.
"""

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from mixkabrn_jax.ops.kernels.blocks import Block, accumulator, block, block_size, dot, launch, load, split, store

# To be tuned by measurement. 128 rows by 128 columns of float32 sums are 64 registers a thread with 8 warps, and leave
# enough for the entries, the functions of them and addresses: nothing spills at the sizes of our models (Triton 3.9 for
# sm_90). With 64 of the summed width, three stages of both operands are 96 KiB in bfloat16: two programs share an SM.
ROWS = 128
"""Rows of a tile."""
WIDE = 128
"""Columns of a block of sums."""
DEEP = 64
"""Entries of the summed width at a time."""
NUM_WARPS = 8
NUM_STAGES = {2: 3, 4: 2, 8: 1}
"""Blocks of both operands under way at once, for the bytes of an entry."""
PROGRAMS = 264
"""Two for each SM of an H200: where a weight gradient has fewer blocks, its rows are split to have as many programs."""


class Functions(Protocol):
    """The f_g and their slopes; hashable, for it is a static argument of the kernels."""

    count: int
    """G."""

    def prepare(self, x: jax.Array):
        """What all g have in common, once for each block of entries."""

    def value(self, prepared, g) -> jax.Array:
        """f_g(x)."""

    def slope(self, prepared, g) -> jax.Array | float:
        """f_g'(x)."""


def rows_matmul(functions: Functions, x, w, group_sizes, *, interpret: bool | None) -> jax.Array:
    """y[r] = sum_g f_g(x[r]) @ w[expert of row r, g].

    Args:
        x: `[R, D]`, sorted by expert; w: `[E, G, D, F]`.
        group_sizes: `[E]` int, rows of each expert, or None where one expert has all rows. Rows past their sum give 0
            and get no gradient, whatever they hold.
    Returns: `[R, F]`, in the dtype of x and w combined, summed in float32.
    """
    dtype = jnp.result_type(x, w)
    if 0 in (*x.shape, *w.shape):  # no blocks to launch: sums of nothing
        return jnp.zeros((x.shape[0], w.shape[-1]), dtype)
    return _rows_matmul(functions, interpret, x.astype(dtype), w.astype(dtype), group_sizes)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rows_matmul(functions, interpret, x_RD, w_EGDF, group_sizes):
    (num_rows, d_in), d_out = x_RD.shape, w_EGDF.shape[-1]
    rows, wide = block_size(num_rows, ROWS), block_size(d_out, WIDE)
    tiles = _tiles(group_sizes, num_rows, rows)
    return launch(
        _values,
        (pl.cdiv(d_out, wide), tiles.expert_I.shape[0]),
        jax.ShapeDtypeStruct((num_rows, d_out), x_RD.dtype),
        *tiles,
        x_RD,
        w_EGDF,
        sizes=(rows, block_size(d_in, DEEP), wide),
        **_options(functions, interpret, x_RD.dtype),
    )


def _rows_matmul_forward(functions, interpret, x_RD, w_EGDF, group_sizes):
    return _rows_matmul(functions, interpret, x_RD, w_EGDF, group_sizes), (x_RD, w_EGDF, group_sizes)


def _rows_matmul_backward(functions, interpret, residual, grad_RF):
    x_RD, w_EGDF, group_sizes = residual
    (num_rows, d_in), (num_experts, num_functions, _, d_out) = x_RD.shape, w_EGDF.shape
    rows = block_size(num_rows, ROWS)
    options = _options(functions, interpret, x_RD.dtype)

    # Several functions add a second block of sums and one of entries to the registers: blocks half as wide.
    wide = block_size(d_in, WIDE if functions.count == 1 else WIDE // 2)
    tiles = _tiles(group_sizes, num_rows, rows)
    grad_RD = launch(
        _input_gradients,
        (pl.cdiv(d_in, wide), tiles.expert_I.shape[0]),
        jax.ShapeDtypeStruct(x_RD.shape, x_RD.dtype),
        *tiles,
        x_RD,
        w_EGDF,
        grad_RF,
        sizes=(rows, wide, block_size(d_out, DEEP)),
        **options,
    )

    wide_in, wide_out = block_size(d_in, WIDE), block_size(d_out, WIDE)
    num_blocks = pl.cdiv(d_out, wide_out), pl.cdiv(d_in, wide_in), num_experts * num_functions
    rows = block_size(num_rows, DEEP)  # the summed axis here
    parts = min(pl.cdiv(PROGRAMS, num_blocks[0] * num_blocks[1] * num_blocks[2]), pl.cdiv(num_rows, 8 * rows))
    end_E = jnp.array([num_rows]) if group_sizes is None else jnp.cumsum(group_sizes)
    start_E = jnp.array([0]) if group_sizes is None else end_E - group_sizes
    grad_EGDF_of_part = launch(
        _weight_gradients,
        (*num_blocks[:2], num_blocks[2] * parts),
        jax.ShapeDtypeStruct((parts, *w_EGDF.shape), w_EGDF.dtype if parts == 1 else accumulator(w_EGDF.dtype)),
        start_E.astype(jnp.int32),
        end_E.astype(jnp.int32),
        x_RD,
        grad_RF,
        sizes=(rows, wide_in, wide_out),
        **options,
    )
    grad_EGDF = grad_EGDF_of_part[0] if parts == 1 else grad_EGDF_of_part.sum(axis=0).astype(w_EGDF.dtype)
    return grad_RD, grad_EGDF, None


_rows_matmul.defvjp(_rows_matmul_forward, _rows_matmul_backward)


def _options(functions, interpret, dtype):
    stages = NUM_STAGES[jnp.dtype(dtype).itemsize]
    return {"functions": functions, "interpret": interpret, "num_warps": NUM_WARPS, "num_stages": stages}


class _Tiles(NamedTuple):
    """Whose rows a tile holds, where they start, and where the expert's rows end; int32.

    Rows past the sum of all groups belong to an expert E that is not there; tiles to spare hold no rows.
    """

    expert_I: jax.Array
    start_I: jax.Array
    end_I: jax.Array


def _tiles(group_sizes, num_rows, rows):
    if group_sizes is None:
        start_I = jnp.arange(0, num_rows, rows, dtype=jnp.int32)
        return _Tiles(jnp.zeros_like(start_I), start_I, jnp.full_like(start_I, num_rows))
    num_experts = group_sizes.shape[0]
    size_E = jnp.concatenate([group_sizes, num_rows - jnp.sum(group_sizes, keepdims=True)]).astype(jnp.int32)
    end_E = jnp.cumsum(size_E)
    tile_count_E = -(-size_E // rows)
    tile_end_E = jnp.cumsum(tile_count_E)
    # A group wastes less than one tile.
    tile_I = jnp.arange(num_rows // rows + num_experts + 1, dtype=jnp.int32)
    # Binary search is a loop of small kernels: most of the time of a grouped product on a GPU.
    expert_I = jnp.searchsorted(tile_end_E, tile_I, side="right", method="compare_all")
    expert_I = jnp.minimum(expert_I, num_experts).astype(jnp.int32)
    tile_within_I = tile_I - (tile_end_E - tile_count_E)[expert_I]
    return _Tiles(expert_I, (end_E - size_E)[expert_I] + tile_within_I * rows, end_E[expert_I])


def _values(expert_ref, start_ref, end_ref, x_ref, w_ref, out_ref, *, functions, sizes):
    """One tile of rows, one block of F."""
    rows, deep, wide = sizes
    num_experts, num_functions, d_in, d_out = w_ref.shape
    tile = pl.program_id(1)
    expert = expert_ref[tile]
    row, out = Block(start_ref[tile], rows, end_ref[tile]), block(pl.program_id(0), wide, d_out)

    def add_inputs(d, total):
        inputs = block(d, deep, d_in)
        prepared = functions.prepare(load(x_ref, row, inputs))

        def add_function(g, total):
            value = functions.value(prepared, g).astype(w_ref.dtype)
            return total + dot(value, load(w_ref, expert, g, inputs, out))

        return jax.lax.fori_loop(0, num_functions, add_function, total)

    steps = (expert < num_experts).astype(jnp.int32) * pl.cdiv(d_in, deep)
    total = jax.lax.fori_loop(0, steps, add_inputs, jnp.zeros((rows, wide), accumulator(w_ref.dtype)))
    store(out_ref, total, row, out)


def _input_gradients(expert_ref, start_ref, end_ref, x_ref, w_ref, grad_ref, out_ref, *, functions, sizes):
    """One tile of rows, one block of D: sum_g f_g'(x) (grad @ w_g^T)."""
    rows, wide, deep = sizes
    num_experts, num_functions, d_in, d_out = w_ref.shape
    tile = pl.program_id(1)
    expert = expert_ref[tile]
    row, inputs = Block(start_ref[tile], rows, end_ref[tile]), block(pl.program_id(0), wide, d_in)
    prepared = functions.prepare(load(x_ref, row, inputs))
    nothing = jnp.zeros((rows, wide), accumulator(w_ref.dtype))

    def add_function(g, total):
        def add_outputs(f, along):
            out = block(f, deep, d_out)
            return along + dot(load(grad_ref, row, out), load(w_ref, expert, g, inputs, out), transpose_b=True)

        along = jax.lax.fori_loop(0, pl.cdiv(d_out, deep), add_outputs, nothing)
        return total + along * functions.slope(prepared, g)

    steps = (expert < num_experts).astype(jnp.int32) * num_functions
    total = jax.lax.fori_loop(0, steps, add_function, nothing)
    store(out_ref, total, row, inputs)


def _weight_gradients(start_ref, end_ref, x_ref, grad_ref, out_ref, *, functions, sizes):
    """One function of one expert, one block of D, one of F, one part of the expert's rows: f_g(x)^T @ grad."""
    rows, wide_in, wide_out = sizes
    num_parts, num_experts, num_functions, d_in, d_out = out_ref.shape
    program, g = split(pl.program_id(2), num_functions)
    part, expert = split(program, num_experts)
    inputs, out = block(pl.program_id(1), wide_in, d_in), block(pl.program_id(0), wide_out, d_out)
    start, end = start_ref[expert], end_ref[expert]
    num_tiles, _ = split(end - start + (rows - 1), rows)
    tiles_each, _ = split(num_tiles + (num_parts - 1), num_parts)
    first = part * tiles_each

    def add_rows(i, total):
        row = Block(start + (first + i) * rows, rows, end)
        value = functions.value(functions.prepare(load(x_ref, row, inputs)), g).astype(grad_ref.dtype)
        return total + dot(value, load(grad_ref, row, out), transpose_a=True)

    steps = jnp.clip(num_tiles - first, 0, tiles_each)
    total = jax.lax.fori_loop(0, steps, add_rows, jnp.zeros((wide_in, wide_out), accumulator(grad_ref.dtype)))
    store(out_ref, total, part, expert, g, inputs, out)
