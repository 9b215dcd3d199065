"""Causal softmax attention, the baseline of every ablation, and its cached form for generation.

Source: Vaswani et al., Attention Is All You Need (2017), eq. 1. Letters: B batch, T time, S source time, H head,
K key width, V value width. Keys and queries arrive rotated.
"""

import jax
import jax.numpy as jnp


def causal(q, k, v, segment_ids=None, first=0):
    """Every position attends to itself and the earlier positions of its segment.

    Args:
        q: `[B, T, H, K]`, of T of the S positions; k: `[B, S, H, K]`; v: `[B, S, H, V]`.
        segment_ids: `[B, S]` int or None.
        first: the first position of q; may be traced.
    Returns: `[B, T, H, V]` in v's dtype; the softmax is float32.
    """
    steps_T, steps_S = first + jnp.arange(q.shape[1]), jnp.arange(k.shape[1])
    mask_BTS = (steps_T[:, None] >= steps_S[None, :])[None]
    if segment_ids is not None:
        mask_BTS = mask_BTS & (jnp.take(segment_ids, steps_T, axis=1)[:, :, None] == segment_ids[:, None, :])
    return _attend(q, k, v, mask_BTS)


def cached(q, k, v, cache, position, mask=None):
    """T new positions attend to themselves and to everything written before them.

    Args:
        q, k: `[B, T, H, K]`; v: `[B, T, H, V]`.
        cache: (keys `[B, S, H, K]`, values `[B, S, H, V]`), filled below the first position.
        position: `[B, T]` int, increasing, where the new keys and values are written (below S: a write past the end
            is dropped); each sees all positions up to its own.
        mask: `[B, T]` or None; a position with 0 (padding) is not written.
    Returns: (`[B, T, H, V]` in v's dtype, the cache with the new positions).
    """
    keys_BSHK, values_BSHV = cache
    at_BT = position if mask is None else jnp.where(mask > 0, position, keys_BSHK.shape[1])
    rows_B1 = jnp.arange(q.shape[0])[:, None]
    keys_BSHK = keys_BSHK.at[rows_B1, at_BT].set(k.astype(keys_BSHK.dtype), mode="drop")
    values_BSHV = values_BSHV.at[rows_B1, at_BT].set(v.astype(values_BSHV.dtype), mode="drop")
    mask_BTS = position[:, :, None] >= jnp.arange(keys_BSHK.shape[1]).reshape(1, 1, -1)
    return _attend(q, keys_BSHK, values_BSHV, mask_BTS).astype(v.dtype), (keys_BSHK, values_BSHV)


def _attend(q_BTHK, k_BSHK, v_BSHV, mask_BTS):
    score_type = jnp.promote_types(q_BTHK.dtype, jnp.float32)
    score_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK, preferred_element_type=score_type)
    score_BHTS = jnp.where(mask_BTS[:, None], score_BHTS * q_BTHK.shape[-1] ** -0.5, -jnp.inf)
    weight_BHTS = jax.nn.softmax(score_BHTS, axis=-1).astype(v_BSHV.dtype)
    return jnp.einsum("bhts,bshv->bthv", weight_BHTS, v_BSHV)
