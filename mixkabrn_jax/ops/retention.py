"""Retention in three orders of one recurrence: S_t = gamma S_{t-1} + k_t v_t^T, y_t = q_t S_t.

`parallel`, `chunkwise` and `recurrent` agree to rounding in values, final state and gradients. All three are raw: the
caller scales keys, rotates them and normalises rows (`row_scale`). Source: Sun et al., Retentive Network (2023),
eq. 5 (parallel), 6 (recurrent), 7 (chunkwise), 8 (multi-scale decay).

Letters: B batch, T time, N chunk, C position in a chunk, H head, K key width, V value width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def log_decay(num_heads: int, first_exponent: float = 5.0) -> jax.Array:
    """log gamma_h = log(1 - 2^(-first_exponent - h)).

    By log1p: float32 `log(1 - 2^(-5-h))` is exactly 0, no decay at all, from h = 20 on.

    Returns: `[H]` in JAX's default float type, negative.
    """
    return jnp.log1p(-(2.0 ** (-first_exponent - jnp.arange(num_heads, dtype=float))))


def row_scale(position: jax.Array, log_decay: jax.Array) -> jax.Array:
    """1 / sqrt(sum_{s <= t} gamma^(t-s)): keeps a row's size independent of its position (Sun et al. 2023, eq. 5).

    Args:
        position: `[B, T]` int, counted from the start of the document.
        log_decay: `[H]`.
    Returns: `[B, T, H]`.
    """
    log_decay_11H = log_decay.reshape(1, 1, -1)
    terms_BT1 = (position + 1).astype(log_decay.dtype)[..., None]
    return jnp.sqrt(jnp.expm1(log_decay_11H) / jnp.expm1(terms_BT1 * log_decay_11H))


def lm_log_decay(num_heads: int) -> jax.Array:
    """log gamma_h with 1 - gamma_h from 1/32 to 1/512 in equal ratios, whatever the number of heads.

    The decay that the widespread RetNet port for language models offers beside the paper's.

    Returns: `[H]` in JAX's default float type, negative.
    """
    return jnp.log1p(-jnp.exp(jnp.linspace(jnp.log(1 / 32), jnp.log(1 / 512), num_heads)))


def skip(k: jax.Array, log_decay: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and decays for which positions with mask 0 (padding, anywhere) leave the recurrence as it was.

    Args:
        k: `[B, T, H, K]`; log_decay: `[H]` or `[B, T, H]`; mask: `[B, T]`, 1 or 0.
    Returns: (k, log_decay `[B, T, H]`).
    """
    is_kept_BT1 = mask.astype(bool)[..., None]
    log_decay_BTH = log_decay if log_decay.ndim == 3 else log_decay.reshape(1, 1, -1)
    return jnp.where(is_kept_BT1[..., None], k, 0), jnp.where(is_kept_BT1, log_decay_BTH, 0)


def parallel(q, k, v, log_decay, state=None, segment_ids=None):
    """All positions against all earlier ones: O(T^2) work, one step.

    Args:
        q, k: `[B, T, H, K]`; v: `[B, T, H, V]`.
        log_decay: `[H]`, or `[B, T, H]` for a decay that depends on the position (gated retention, padding).
        state: `[B, H, K, V]` float32 or None, the recurrence before the first position.
        segment_ids: `[B, T]` int or None; a position sees its own segment only. Segments are contiguous runs. An
            incoming state belongs to the first position's segment; the outgoing one holds the last position's only.
    Returns: `[B, T, H, V]` in v's dtype without a state; with one, (`[B, T, H, V]`, state `[B, H, K, V]`).
    """
    total_BTH = _total(log_decay, q.shape[1])
    score_BHTS = _dot("bthk,bshk->bhts", q, k) * _decay_mask(total_BTH)
    if segment_ids is not None:
        same_BTS = segment_ids[:, :, None] == segment_ids[:, None, :]
        score_BHTS = jnp.where(same_BTS[:, None], score_BHTS, 0)
    out_BTHV = _dot("bhts,bshv->bthv", score_BHTS.astype(v.dtype), v)
    if state is None:
        return out_BTHV.astype(v.dtype)
    first_B = None if segment_ids is None else segment_ids[:, 0]
    reach = _reach(total_BTH, segment_ids, first_B)
    cross_BTHV = _dot("bthk,bhkv->bthv", q, state) * reach.from_state_CH[..., None]
    added_BHKV = _dot("bthk,bthv->bhkv", k * reach.to_state_CH[..., None].astype(k.dtype), v)
    state = state * reach.across_H[..., None, None] + added_BHKV
    return (out_BTHV + cross_BTHV).astype(v.dtype), state


def chunkwise(q, k, v, log_decay, state, *, chunk_size: int, segment_ids=None):
    """Parallel within chunks, recurrent between them: O(T C) work, any T.

    Everything but the sum of chunk states, T / C small steps, is done for all chunks at once.

    Args:
        q, k, v, log_decay, segment_ids: as for `parallel`.
        state: `[B, H, K, V]` float32, the recurrence before the first position.
        chunk_size: C, positions handled in parallel.
    Returns: (`[B, T, H, V]` in v's dtype, state `[B, H, K, V]`).
    Raises: ValueError for a chunk size below 1.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: at least 1 is needed")
    batch, length = q.shape[:2]
    chunk_size = min(chunk_size, length)
    num_chunks = -(-length // chunk_size)
    q, k, v = (_split(a, num_chunks, chunk_size) for a in (q, k, v))
    flat = (batch * num_chunks, chunk_size)
    if log_decay.ndim == 1:
        flat_decay = log_decay
        step_NC = jnp.arange(num_chunks * chunk_size).reshape(num_chunks, -1)
        # The last chunk's padding does not decay.
        steps_NC = jnp.minimum(step_NC + 1, length) - step_NC[:, :1]
        total_BNCH = (steps_NC[..., None].astype(log_decay.dtype) * log_decay.reshape(1, 1, -1))[None]
    else:
        log_decay = _split(log_decay, num_chunks, chunk_size)
        flat_decay = log_decay.reshape(*flat, -1)
        total_BNCH = jnp.cumsum(log_decay, axis=2)
    segment_BNC, before_BN, flat_segments = None, None, None
    if segment_ids is not None:
        segment_BNC = _split(segment_ids, num_chunks, chunk_size, mode="edge")
        before_BN = jnp.concatenate([segment_ids[:, :1], segment_BNC[:, :-1, -1]], axis=1)
        flat_segments = segment_BNC.reshape(flat)
    reach = _reach(total_BNCH, segment_BNC, before_BN)

    added_BNHKV = _dot("bnchk,bnchv->bnhkv", k * reach.to_state_CH[..., None].astype(k.dtype), v)

    def advance(state_BHKV, chunk):
        across_BH, added_BHKV = chunk
        return state_BHKV * across_BH[..., None, None] + added_BHKV, state_BHKV

    across_BNH = jnp.broadcast_to(reach.across_H, added_BNHKV.shape[:3])
    chunks = jax.tree.map(lambda a: a.swapaxes(0, 1).astype(state.dtype), (across_BNH, added_BNHKV))
    state, state_NBHKV = jax.lax.scan(advance, state, chunks)
    cross_BNCHV = _dot("bnchk,nbhkv->bnchv", q, state_NBHKV) * reach.from_state_CH[..., None]
    inner = parallel(*(a.reshape(*flat, *a.shape[3:]) for a in (q, k, v)), flat_decay, segment_ids=flat_segments)
    out_BNCHV = inner.reshape(v.shape) + cross_BNCHV
    return out_BNCHV.reshape(batch, -1, *v.shape[3:])[:, :length].astype(v.dtype), state


def recurrent(q, k, v, log_decay, state):
    """One position: O(1) work and memory at any length.

    Args:
        q, k: `[B, H, K]`; v: `[B, H, V]`; log_decay: `[H]` or `[B, H]`; state: `[B, H, K, V]` float32.
    Returns: (`[B, H, V]` in v's dtype, state `[B, H, K, V]`).
    """
    gamma_BH11 = jnp.exp(log_decay).reshape(-1, q.shape[1], 1, 1)
    state = gamma_BH11 * state + k[..., :, None].astype(state.dtype) * v[..., None, :].astype(state.dtype)
    return jnp.einsum("bhk,bhkv->bhv", q.astype(state.dtype), state).astype(v.dtype), state


class _Reach(NamedTuple):
    """How much of what survives in a chunk; leading dimensions are those of the chunks, or 1."""

    from_state_CH: jax.Array
    """Of the state before the chunk, at each position."""
    to_state_CH: jax.Array
    """Of each position, in the state after the chunk."""
    across_H: jax.Array
    """Of the state before the chunk, in the state after it."""


def _reach(total_CH, segment_C, before):
    """
    Args:
        total_CH: `[..., C, H]`, sums of log decays from the chunk's start through each position.
        segment_C: `[..., C]` or None; before: `[...]`, the segment of the position before the chunk.
    """
    from_state_CH = jnp.exp(total_CH)
    to_state_CH = jnp.exp(total_CH[..., -1:, :] - total_CH)
    across_H = from_state_CH[..., -1, :]
    if segment_C is not None:
        sees_state_C = segment_C == before[..., None]
        reaches_end_C = segment_C == segment_C[..., -1:]
        from_state_CH = from_state_CH * sees_state_C[..., None]
        to_state_CH = to_state_CH * reaches_end_C[..., None]
        across_H = across_H * sees_state_C[..., -1:]
    return _Reach(from_state_CH, to_state_CH, across_H)


def _total(log_decay, length):
    """Sums of log decays through each position: `[1, T, H]` from `[H]`, `[B, T, H]` from its like."""
    if log_decay.ndim == 3:
        return jnp.cumsum(log_decay, axis=1)
    return (jnp.arange(1, length + 1, dtype=log_decay.dtype)[:, None] * log_decay[None])[None]


def _decay_mask(total_BTH):
    """The product of the decays from s + 1 to t for s <= t, else 0, as `[B, H, T, S]`.

    The exponents of the future are taken out before exp: 0 * inf would give NaN gradients.
    """
    total_BHT = total_BTH.swapaxes(1, 2)
    exponent_BHTS = total_BHT[..., :, None] - total_BHT[..., None, :]
    steps_T = jnp.arange(total_BTH.shape[1])
    is_past_11TS = (steps_T[:, None] >= steps_T[None, :])[None, None]
    return jnp.where(is_past_11TS, jnp.exp(jnp.where(is_past_11TS, exponent_BHTS, 0)), 0)


def _dot(subscripts, a, b):
    """A product that accumulates in float32 (or better) whatever the operands' dtype."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.promote_types(jnp.result_type(a, b), jnp.float32))


def _split(a, num_chunks, chunk_size, mode="constant"):
    """`[B, T, ...]` -> `[B, N, C, ...]`, filled up at the end."""
    padding = num_chunks * chunk_size - a.shape[1]
    a = jnp.pad(a, [(0, 0), (0, padding)] + [(0, 0)] * (a.ndim - 2), mode=mode)
    return a.reshape(a.shape[0], num_chunks, chunk_size, *a.shape[2:])
