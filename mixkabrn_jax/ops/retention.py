"""Retention in three orders of one recurrence: S_t = gamma S_{t-1} + k_t v_t^T, y_t = q_t S_t.

`parallel`, `chunkwise` and `recurrent` agree to rounding in values, final state and gradients. All three are raw: the
caller scales keys, rotates them and normalises rows (`row_scale`). Source: Sun et al., Retentive Network (2023),
eq. 5 (parallel), 6 (recurrent), 7 (chunkwise), 8 (multi-scale decay).

Letters: B batch, T time, N chunk, C position in a chunk, H head, K key width, V value width.
"""

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


def parallel(q, k, v, log_decay, segment_ids=None):
    """All positions against all earlier ones: O(T^2) work, one step.

    Args:
        q, k: `[B, T, H, K]`; v: `[B, T, H, V]`; log_decay: `[H]`.
        segment_ids: `[B, T]` int or None; a position sees its own segment only. Segments are contiguous runs.
    Returns: `[B, T, H, V]` in v's dtype.
    """
    decay_HTS = _decay_mask(log_decay, q.shape[1])
    score_BHTS = _dot("bthk,bshk->bhts", q, k) * decay_HTS[None]
    if segment_ids is not None:
        same_BTS = segment_ids[:, :, None] == segment_ids[:, None, :]
        score_BHTS = jnp.where(same_BTS[:, None], score_BHTS, 0)
    return _dot("bhts,bshv->bthv", score_BHTS.astype(v.dtype), v).astype(v.dtype)


def chunkwise(q, k, v, log_decay, state, *, chunk_size: int, segment_ids=None):
    """Parallel within chunks, recurrent between them: O(T C) work, any T.

    Everything but the sum of chunk states, T / C small steps, is done for all chunks at once.

    Args:
        q, k: `[B, T, H, K]`; v: `[B, T, H, V]`; log_decay: `[H]`.
        state: `[B, H, K, V]` float32, the recurrence before the first position.
        chunk_size: C, positions handled in parallel.
        segment_ids: `[B, T]` int or None. The incoming state belongs to the first position's segment; the outgoing
            state holds the last position's segment only.
    Returns: (`[B, T, H, V]` in v's dtype, state `[B, H, K, V]`).
    Raises: ValueError for a chunk size below 1.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: at least 1 is needed")
    batch, length = q.shape[:2]
    chunk_size = min(chunk_size, length)
    num_chunks = -(-length // chunk_size)
    padding = num_chunks * chunk_size - length
    q, k, v = (_split(jnp.pad(a, ((0, 0), (0, padding), (0, 0), (0, 0))), num_chunks) for a in (q, k, v))

    step_C = jnp.arange(chunk_size, dtype=log_decay.dtype)
    length_N = jnp.full(num_chunks, chunk_size, log_decay.dtype).at[-1].add(-padding)
    from_state_CH = jnp.exp((step_C[:, None] + 1) * log_decay[None])
    to_state_NC = jnp.maximum(length_N[:, None] - 1 - step_C[None], 0)
    to_state_NCH = jnp.exp(to_state_NC[..., None] * log_decay.reshape(1, 1, -1))
    across_BNH = jnp.exp(length_N[:, None] * log_decay[None])[None]
    from_state_BNCH, to_state_BNCH = from_state_CH[None, None], to_state_NCH[None]
    flat_segments = None
    if segment_ids is not None:
        segment_BNC = _split(jnp.pad(segment_ids, ((0, 0), (0, padding)), mode="edge"), num_chunks)
        before_BN = jnp.concatenate([segment_ids[:, :1], segment_BNC[:, :-1, -1]], axis=1)
        sees_state_BNC = segment_BNC == before_BN[..., None]
        reaches_end_BNC = segment_BNC == segment_BNC[..., -1:]
        from_state_BNCH = from_state_BNCH * sees_state_BNC[..., None]
        to_state_BNCH = to_state_BNCH * reaches_end_BNC[..., None]
        across_BNH = across_BNH * sees_state_BNC[..., -1:]
        flat_segments = segment_BNC.reshape(-1, chunk_size)

    added_BNHKV = _dot("bnchk,bnchv->bnhkv", k * to_state_BNCH[..., None].astype(k.dtype), v)

    def advance(state_BHKV, chunk):
        across_BH, added_BHKV = chunk
        return state_BHKV * across_BH[..., None, None] + added_BHKV, state_BHKV

    across_BNH = jnp.broadcast_to(across_BNH, added_BNHKV.shape[:3])
    chunks = jax.tree.map(lambda a: a.swapaxes(0, 1).astype(state.dtype), (across_BNH, added_BNHKV))
    state, state_NBHKV = jax.lax.scan(advance, state, chunks)
    cross_BNCHV = _dot("bnchk,nbhkv->bnchv", q, state_NBHKV) * from_state_BNCH[..., None]
    flat = (batch * num_chunks, chunk_size)
    inner = parallel(*(a.reshape(*flat, *a.shape[3:]) for a in (q, k, v)), log_decay, flat_segments)
    out_BNCHV = inner.reshape(v.shape) + cross_BNCHV
    return out_BNCHV.reshape(batch, -1, *v.shape[3:])[:, :length].astype(v.dtype), state


def recurrent(q, k, v, log_decay, state):
    """One position: O(1) work and memory at any length.

    Args:
        q, k: `[B, H, K]`; v: `[B, H, V]`; log_decay: `[H]`; state: `[B, H, K, V]` float32.
    Returns: (`[B, H, V]` in v's dtype, state `[B, H, K, V]`).
    """
    gamma_H = jnp.exp(log_decay).reshape(1, -1, 1, 1)
    state = gamma_H * state + k[..., :, None].astype(state.dtype) * v[..., None, :].astype(state.dtype)
    return jnp.einsum("bhk,bhkv->bhv", q.astype(state.dtype), state).astype(v.dtype), state


def _decay_mask(log_decay_H, length):
    """gamma^(t-s) for s <= t, else 0. The exponent is clamped before exp: 0 * inf would give NaN gradients."""
    steps_T = jnp.arange(length, dtype=log_decay_H.dtype)
    distance_TS = steps_T[:, None] - steps_T[None, :]
    decay_HTS = jnp.exp(jnp.maximum(distance_TS, 0)[None] * log_decay_H[:, None, None])
    return jnp.where((distance_TS >= 0)[None], decay_HTS, 0)


def _dot(subscripts, a, b):
    """A product that accumulates in float32 (or better) whatever the operands' dtype."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.promote_types(jnp.result_type(a, b), jnp.float32))


def _split(a, num_chunks):
    """`[B, T, ...]` -> `[B, N, C, ...]`."""
    return a.reshape(a.shape[0], num_chunks, -1, *a.shape[2:])
