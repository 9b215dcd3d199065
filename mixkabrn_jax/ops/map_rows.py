"""A function of rows, some rows at a time, so that what it makes on the way fits a CPU's cache."""

import math

import jax
import jax.numpy as jnp

from mixkabrn_jax.ops.backend import resolve

BLOCK_BYTES = 2**21
"""What a block may make on the way: the second-level cache of one core of a server, where blocks of half and of twice
the size are no faster either."""


def map_rows(function, rows, row_bytes: int, *, backend: str = "auto") -> jax.Array:
    """function(rows), in blocks of rows on a CPU; elsewhere all at once. Recomputed in the backward pass, not kept.

    Args:
        function: `[C, D]` -> `[C, F]` for any C, each row from its own row; it may close over what is differentiated.
        rows: `[..., D]`; or a tree of arrays `[R, ...]`, which the function is given C rows of.
        row_bytes: what the function makes on the way for one row.
        backend: one of `backend.BACKENDS`.
    Returns: `[..., F]`.
    Raises: ValueError for an unknown backend.
    """
    shape = None
    if jax.tree_util.all_leaves([rows]):  # one array, of JAX or of NumPy
        shape = rows.shape[:-1]
        rows = rows.reshape(math.prod(shape), rows.shape[-1])
    num_rows = len(jax.tree.leaves(rows)[0])
    num_blocks = 1
    if resolve(backend) == "cpu":
        num_blocks = max(-(-num_rows * row_bytes // BLOCK_BYTES), 1)
    block = max(-(-num_rows // num_blocks), 1)
    num_blocks = max(-(-num_rows // block), 1)  # of no rows, one block without any
    function = jax.checkpoint(function)
    if num_blocks == 1:
        y_RF = function(rows)
    else:
        padding = num_blocks * block - num_rows

        def split(a):
            a = jnp.pad(a, [(0, padding)] + [(0, 0)] * (a.ndim - 1))
            return a.reshape(num_blocks, block, *a.shape[1:])

        y_ICF = jax.lax.map(function, jax.tree.map(split, rows))
        y_RF = y_ICF.reshape(num_blocks * block, -1)[:num_rows]
    return y_RF if shape is None else y_RF.reshape(*shape, y_RF.shape[-1])
