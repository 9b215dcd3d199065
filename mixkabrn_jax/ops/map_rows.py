"""A function of rows, some rows at a time, so that what it makes on the way fits a CPU's cache."""

import math

import jax
import jax.numpy as jnp

from mixkabrn_jax.ops.backend import resolve

BLOCK_BYTES = 2**21
"""What a block may make on the way: the second-level cache of one core of a server, where blocks of half and of twice
the size are no faster either."""


def map_rows(function, x: jax.Array, row_bytes: int, *, backend: str = "auto") -> jax.Array:
    """function(x), in blocks of rows on a CPU; elsewhere all at once. Recomputed in the backward pass, not kept for it.

    Args:
        function: `[C, D]` -> `[C, F]` for any C, each row from its own row; it may close over what is differentiated.
        x: `[..., D]`.
        row_bytes: what the function makes on the way for one row.
        backend: one of `backend.BACKENDS`.
    Returns: `[..., F]`.
    Raises: ValueError for an unknown backend.
    """
    num_rows = math.prod(x.shape[:-1])
    x_RD = x.reshape(num_rows, x.shape[-1])
    num_blocks = 1
    if resolve(backend) == "cpu":
        num_blocks = max(-(-num_rows * row_bytes // BLOCK_BYTES), 1)
    block = max(-(-num_rows // num_blocks), 1)
    num_blocks = max(-(-num_rows // block), 1)  # of no rows, one block without any
    function = jax.checkpoint(function)
    if num_blocks == 1:
        y_RF = function(x_RD)
    else:
        x_RD = jnp.pad(x_RD, ((0, num_blocks * block - num_rows), (0, 0)))
        y_ICF = jax.lax.map(function, x_RD.reshape(num_blocks, block, -1))
        y_RF = y_ICF.reshape(num_blocks * block, -1)[:num_rows]
    return y_RF.reshape(*x.shape[:-1], y_RF.shape[-1])
