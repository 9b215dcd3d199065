"""How far decays let positions see, chunk by chunk: what the kernels of retention are told of them.

Letters: B batch, T time, I chunk, C position within a chunk, H head.
"""

from math import log
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl


class Reach(NamedTuple):
    """How much of what survives; as `ops.retention` has it. B is 1 in those that are the same for a whole batch."""

    total_BHT: jax.Array
    """Sums of log2 decays from the chunk's start through each position: a GPU's own exponential is that of base 2."""
    from_state_BHT: jax.Array
    """Of the state before the chunk, at each position."""
    to_state_BHT: jax.Array
    """Of each position, in the state after its chunk."""
    across_BHI: jax.Array
    """Of the state before a chunk, in the state after it."""

    @classmethod
    def of(cls, log_decay, segment_ids, length, chunk):
        """
        Args:
            log_decay: `[H]` or `[B, T, H]`; segment_ids: `[B, T]` int or None.
            length: T.
            chunk: positions of a chunk, in whole blocks; the last one is padded.
        """
        num_chunks = pl.cdiv(length, chunk)
        padding = num_chunks * chunk - length
        if log_decay.ndim == 1:
            first_I1 = jnp.arange(num_chunks)[:, None] * chunk
            # The last chunk's padding does not decay.
            steps_IC = jnp.minimum(first_I1 + jnp.arange(1, chunk + 1)[None], length) - first_I1
            total_BICH = (steps_IC[..., None].astype(log_decay.dtype) * log_decay[None, None])[None]
        else:
            log_decay = jnp.pad(log_decay, [(0, 0), (0, padding), (0, 0)])
            total_BICH = jnp.cumsum(log_decay.reshape(log_decay.shape[0], num_chunks, chunk, -1), axis=2)
        from_state_BICH = jnp.exp(total_BICH)
        to_state_BICH = jnp.exp(total_BICH[:, :, -1:] - total_BICH)
        across_BIH = from_state_BICH[:, :, -1]
        if segment_ids is not None:
            segment_BIC = jnp.pad(segment_ids, [(0, 0), (0, padding)], mode="edge").reshape(-1, num_chunks, chunk)
            before_BI = jnp.concatenate([segment_ids[:, :1], segment_BIC[:, :-1, -1]], axis=1)
            sees_state_BIC = segment_BIC == before_BI[..., None]
            reaches_end_BIC = segment_BIC == segment_BIC[..., -1:]
            from_state_BICH = from_state_BICH * sees_state_BIC[..., None]
            to_state_BICH = to_state_BICH * reaches_end_BIC[..., None]
            across_BIH = across_BIH * sees_state_BIC[..., -1:]
        by_head = (jnp.moveaxis(a, -1, 1) for a in (total_BICH / log(2), from_state_BICH, to_state_BICH, across_BIH))
        total, from_state, to_state, across = by_head
        return cls(*(a.reshape(*a.shape[:2], -1) for a in (total, from_state, to_state)), across)
