"""Rows sorted by expert, each times its own expert's matrix.

`jax.lax.ragged_dot` is dense over experts on a CPU (E times the work) and on a GPU, so the product is ours. Letters:
R row, E expert, D input width, F output width, C row within a tile, I tile.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixkabrn_jax.ops.backend import resolve

METHODS = ("loop", "block", "ragged", "kernel", "dense")
_METHOD_OF_BACKEND = {"cpu": "loop", "gpu": "block", "tpu": "ragged", "pallas": "kernel"}


def grouped_matmul(
    x: jax.Array,
    w: jax.Array,
    group_sizes: jax.Array,
    *,
    method: str | None = None,
    backend: str = "auto",
    tile: int = 0,
) -> jax.Array:
    """y[r] = x[r] @ w[expert of row r].

    Args:
        x: `[R, D]`, sorted by expert; w: `[E, D, F]`.
        group_sizes: `[E]` int, rows of each expert; rows past their sum give 0.
        method: None chooses by the backend. "loop" goes through each expert's rows in tiles, as many as there are: for
            a CPU. "block" pads every expert's rows to whole tiles and multiplies all tiles at once, at most
            R + E * tile rows of work whatever E: for a GPU. "ragged" is `jax.lax.ragged_dot`: for a TPU. "kernel" is
            that of `ops.kernels`, compiled on an NVIDIA GPU and interpreted (slowly) elsewhere. "dense" multiplies
            every row by every expert: the oracle.
        backend: one of `backend.BACKENDS`: "cpu" loops, "gpu" has blocks, "tpu" is ragged, "pallas" the kernel.
        tile: rows in a tile of "loop" and "block"; 0 chooses by the mean number of rows of an expert.
    Returns: `[R, F]`.
    Raises: ValueError for an unknown method or backend, or shapes that do not fit.
    """
    if x.ndim != 2 or w.ndim != 3 or x.shape[1] != w.shape[1] or group_sizes.shape != w.shape[:1]:
        raise ValueError(
            f"x {x.shape}, w {w.shape}, group_sizes {group_sizes.shape}: [R, D], [E, D, F], [E] are needed"
        )
    if method is None:
        method = _METHOD_OF_BACKEND[resolve(backend)]
    if method not in METHODS:
        raise ValueError(f"method={method!r}: one of {METHODS} is needed")
    if not x.size or not w.size:  # sums of nothing
        return jnp.zeros((x.shape[0], w.shape[2]), jnp.result_type(x, w))
    if method == "loop":
        return map_groups(_multiply, w, x, group_sizes, tile=tile)
    if method == "block":
        return _block(x, w, _slots(group_sizes, x.shape[0], tile or 128))
    if method == "ragged":
        return jax.lax.ragged_dot(x, w, group_sizes)
    if method == "kernel":
        from mixkabrn_jax.ops.kernels import grouped  # a third of a second that others need not wait

        return grouped.grouped_matmul(x, w, group_sizes)
    row_R = jnp.arange(x.shape[0])[:, None]
    end_E = jnp.cumsum(group_sizes)[None]
    mine_RE = (row_R >= end_E - group_sizes[None]) & (row_R < end_E)
    x = jnp.where(row_R < end_E[:, -1:], x, 0)
    return jnp.einsum("rd,edf,re->rf", x, w, mine_RE.astype(x.dtype))


def _multiply(w_DF, x_CD):
    return x_CD @ w_DF


def map_groups(function, weights, x: jax.Array, group_sizes: jax.Array, *, tile: int = 0) -> jax.Array:
    """y[r] = function(weights of row r's expert, x[r]), tile after tile of each expert's rows.

    Work grows with the rows there are, whatever the experts' number and load, and what the function makes on the way
    exists for one tile; the backward pass makes it again. For a CPU: the number of turns is known when it runs only.

    Args:
        function: (weights of one expert, `[C, D]`) -> `[C, F]`, each row from its own row; differentiable, and free of
            traced values other than its arguments.
        weights: any tree of arrays with a leading dimension E.
        x: `[R, D]`, sorted by expert.
        group_sizes: `[E]` int, rows of each expert; rows past their sum give 0.
        tile: rows in a tile; 0 chooses by the mean number of rows of an expert.
    Returns: `[R, F]`.
    """
    num_rows, num_experts = x.shape[0], group_sizes.shape[0]
    if not num_rows:
        out = jax.eval_shape(function, jax.tree.map(lambda a: a[0], weights), x)
        return jnp.zeros(out.shape, out.dtype)
    if not tile:
        # Large tiles multiply best, but an expert's last one is half empty on average.
        tile = min(max(1 << max((num_rows // num_experts).bit_length() - 1, 0), 32), 256)
    return _map_groups(function, min(tile, num_rows), weights, x, group_sizes)


class _Tile(NamedTuple):
    """Neighbouring rows, of which those of one expert count."""

    first: jax.Array
    mask_C1: jax.Array

    @classmethod
    def of(cls, index, start, end, tile, num_rows):
        """The tile of this index among those of the expert with rows start to end."""
        wanted = start + index * tile
        first = jnp.minimum(wanted, num_rows - tile)  # the last one would reach past the last row
        row_C = first + jnp.arange(tile)
        return cls(first, ((row_C >= wanted) & (row_C < end))[:, None])

    def read(self, rows):
        return jax.lax.dynamic_slice_in_dim(rows, self.first, self.mask_C1.shape[0])

    def read_own(self, rows):
        """0 where a row does not count."""
        return jnp.where(self.mask_C1, self.read(rows), 0)

    def write(self, rows, new):
        return jax.lax.dynamic_update_slice_in_dim(
            rows, jnp.where(self.mask_C1, new, self.read(rows)), self.first, axis=0
        )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _map_groups(function, tile, weights, x_RD, group_sizes_E):
    num_rows = x_RD.shape[0]

    def expert(y_RF, group):
        weights, start, end = group

        def turn(index, y_RF):
            rows = _Tile.of(index, start, end, tile, num_rows)
            return rows.write(y_RF, function(weights, rows.read(x_RD)))

        return jax.lax.fori_loop(0, -(-(end - start) // tile), turn, y_RF), None

    one = jax.tree.map(lambda leaf: leaf[0], weights)
    y_CF = jax.eval_shape(function, one, x_RD[:tile])
    y_RF = jnp.zeros((num_rows, *y_CF.shape[1:]), y_CF.dtype)
    return jax.lax.scan(expert, y_RF, (weights, *_bounds(group_sizes_E)))[0]


def _map_groups_forward(function, tile, weights, x_RD, group_sizes_E):
    return _map_groups(function, tile, weights, x_RD, group_sizes_E), (weights, x_RD, group_sizes_E)


def _map_groups_backward(function, tile, residual, grad_RF):
    weights, x_RD, group_sizes_E = residual
    num_rows = x_RD.shape[0]

    def expert(grad_RD, group):
        weights, start, end = group

        def turn(index, grads):
            grad_RD, total = grads
            rows = _Tile.of(index, start, end, tile, num_rows)
            # What other rows hold must not matter: not even 0 times NaN.
            pullback = jax.vjp(function, weights, rows.read_own(x_RD))[1]
            grad_weights, grad_CD = pullback(rows.read_own(grad_RF))
            return rows.write(grad_RD, grad_CD), jax.tree.map(jnp.add, total, grad_weights)

        # Sums of many tiles are float32 or better.
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), weights)
        return jax.lax.fori_loop(0, -(-(end - start) // tile), turn, (grad_RD, zeros))

    grad_RD, grad_weights = jax.lax.scan(expert, jnp.zeros_like(x_RD), (weights, *_bounds(group_sizes_E)))
    return jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grad_weights, weights), grad_RD, None


_map_groups.defvjp(_map_groups_forward, _map_groups_backward)


def _bounds(group_sizes_E):
    """First row of each expert, and the one after its last."""
    end_E = jnp.cumsum(group_sizes_E)
    return end_E - group_sizes_E, end_E


class _Slots(NamedTuple):
    """Where rows go: an index one past the end stands for nothing, and reads as 0."""

    row_of_slot_IC: jax.Array
    slot_of_row_R: jax.Array
    expert_of_tile_I: jax.Array


def _slots(group_sizes_E, num_rows, tile):
    num_experts = group_sizes_E.shape[0]
    tile = min(tile, num_rows)
    num_tiles = num_rows // tile + num_experts
    row_start_E, row_end_E = _bounds(group_sizes_E)
    tile_count_E = -(-group_sizes_E // tile)
    tile_start_E, tile_end_E = _bounds(tile_count_E)

    tile_I = jnp.arange(num_tiles)
    expert_I = jnp.minimum(jnp.searchsorted(tile_end_E, tile_I, side="right"), num_experts - 1)
    first_row_I = row_start_E[expert_I] + (tile_I - tile_start_E[expert_I]) * tile
    row_IC = first_row_I[:, None] + jnp.arange(tile)[None]
    row_IC = jnp.where(row_IC < row_end_E[expert_I][:, None], row_IC, num_rows)

    row_R = jnp.arange(num_rows)
    expert_R = jnp.minimum(jnp.searchsorted(row_end_E, row_R, side="right"), num_experts - 1)
    slot_R = tile_start_E[expert_R] * tile + row_R - row_start_E[expert_R]
    slot_R = jnp.where(row_R < row_end_E[-1], slot_R, num_tiles * tile)
    return _Slots(row_IC, slot_R, expert_I)


@jax.custom_vjp
def _block(x_RD, w_EDF, slots):
    y_ICF = jnp.einsum("icd,idf->icf", _to_slots(x_RD, slots), w_EDF[slots.expert_of_tile_I])
    return _to_rows(y_ICF, slots)


def _block_forward(x_RD, w_EDF, slots):
    return _block(x_RD, w_EDF, slots), (x_RD, w_EDF, slots)


def _block_backward(residual, grad_RF):
    x_RD, w_EDF, slots = residual
    grad_ICF = _to_slots(grad_RF, slots)
    grad_ICD = jnp.einsum("icf,idf->icd", grad_ICF, w_EDF[slots.expert_of_tile_I])
    wide = jnp.promote_types(w_EDF.dtype, jnp.float32)  # many tiles are summed
    grad_IDF = jnp.einsum("icd,icf->idf", _to_slots(x_RD, slots), grad_ICF, preferred_element_type=wide)
    grad_EDF = jax.ops.segment_sum(grad_IDF, slots.expert_of_tile_I, w_EDF.shape[0], indices_are_sorted=True)
    return _to_rows(grad_ICD, slots), grad_EDF.astype(w_EDF.dtype), None


_block.defvjp(_block_forward, _block_backward)


def _to_slots(x_RD, slots):
    return x_RD.at[slots.row_of_slot_IC].get(mode="fill", fill_value=0)


def _to_rows(y_ICF, slots):
    return y_ICF.reshape(-1, y_ICF.shape[-1]).at[slots.slot_of_row_R].get(mode="fill", fill_value=0)
