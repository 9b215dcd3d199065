"""Rows sorted by expert, each times its own expert's matrix.

`jax.lax.ragged_dot` is dense over experts on a CPU (E times the work), so the product is ours. Letters: R row,
E expert, D input width, F output width, C row within a tile.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

METHODS = ("block", "dense")


def grouped_matmul(x: jax.Array, w: jax.Array, group_sizes: jax.Array, *, method: str = "block", tile: int = 128):
    """y[r] = x[r] @ w[expert of row r].

    Args:
        x: `[R, D]`, sorted by expert; w: `[E, D, F]`.
        group_sizes: `[E]` int, rows of each expert; rows past their sum give 0.
        method: "block" pads every expert's rows to whole tiles and multiplies tile by tile: at most R + E * tile
            rows of work whatever E. "dense" multiplies every row by every expert: the oracle.
        tile: rows in a tile of "block".
    Returns: `[R, F]`.
    Raises: ValueError for an unknown method or shapes that do not fit.
    """
    if x.ndim != 2 or w.ndim != 3 or x.shape[1] != w.shape[1] or group_sizes.shape != w.shape[:1]:
        raise ValueError(
            f"x {x.shape}, w {w.shape}, group_sizes {group_sizes.shape}: [R, D], [E, D, F], [E] are needed"
        )
    if method == "block":
        return _block(x, w, _tiles(group_sizes, x.shape[0], tile))
    if method == "dense":
        row_R = jnp.arange(x.shape[0])[:, None]
        end_E = jnp.cumsum(group_sizes)[None]
        mine_RE = (row_R >= end_E - group_sizes[None]) & (row_R < end_E)
        x = jnp.where(row_R < end_E[:, -1:], x, 0)
        return jnp.einsum("rd,edf,re->rf", x, w, mine_RE.astype(x.dtype))
    raise ValueError(f"method={method!r}: one of {METHODS} is needed")


class _Tiles(NamedTuple):
    """Where rows go: an index one past the end stands for nothing, and reads as 0."""

    row_of_slot_IC: jax.Array
    slot_of_row_R: jax.Array
    expert_of_tile_I: jax.Array


def _tiles(group_sizes_E, num_rows, tile):
    num_experts = group_sizes_E.shape[0]
    tile = min(tile, num_rows)
    num_tiles = num_rows // tile + num_experts
    row_end_E = jnp.cumsum(group_sizes_E)
    row_start_E = row_end_E - group_sizes_E
    tile_count_E = -(-group_sizes_E // tile)
    tile_end_E = jnp.cumsum(tile_count_E)
    tile_start_E = tile_end_E - tile_count_E

    tile_I = jnp.arange(num_tiles)
    expert_I = jnp.minimum(jnp.searchsorted(tile_end_E, tile_I, side="right"), num_experts - 1)
    first_row_I = row_start_E[expert_I] + (tile_I - tile_start_E[expert_I]) * tile
    row_IC = first_row_I[:, None] + jnp.arange(tile)[None]
    row_IC = jnp.where(row_IC < row_end_E[expert_I][:, None], row_IC, num_rows)

    row_R = jnp.arange(num_rows)
    expert_R = jnp.minimum(jnp.searchsorted(row_end_E, row_R, side="right"), num_experts - 1)
    slot_R = tile_start_E[expert_R] * tile + row_R - row_start_E[expert_R]
    slot_R = jnp.where(row_R < row_end_E[-1], slot_R, num_tiles * tile)
    return _Tiles(row_IC, slot_R, expert_I)


@jax.custom_vjp
def _block(x_RD, w_EDF, tiles):
    y_ICF = jnp.einsum("icd,idf->icf", _to_slots(x_RD, tiles), w_EDF[tiles.expert_of_tile_I])
    return _to_rows(y_ICF, tiles)


def _block_forward(x_RD, w_EDF, tiles):
    return _block(x_RD, w_EDF, tiles), (x_RD, w_EDF, tiles)


def _block_backward(residual, grad_RF):
    x_RD, w_EDF, tiles = residual
    grad_ICF = _to_slots(grad_RF, tiles)
    grad_ICD = jnp.einsum("icf,idf->icd", grad_ICF, w_EDF[tiles.expert_of_tile_I])
    wide = jnp.promote_types(w_EDF.dtype, jnp.float32)  # many tiles are summed
    grad_IDF = jnp.einsum("icd,icf->idf", _to_slots(x_RD, tiles), grad_ICF, preferred_element_type=wide)
    grad_EDF = jax.ops.segment_sum(grad_IDF, tiles.expert_of_tile_I, w_EDF.shape[0], indices_are_sorted=True)
    return _to_rows(grad_ICD, tiles), grad_EDF.astype(w_EDF.dtype), None


_block.defvjp(_block_forward, _block_backward)


def _to_slots(x_RD, tiles):
    return x_RD.at[tiles.row_of_slot_IC].get(mode="fill", fill_value=0)


def _to_rows(y_ICF, tiles):
    return y_ICF.reshape(-1, y_ICF.shape[-1]).at[tiles.slot_of_row_R].get(mode="fill", fill_value=0)
