"""Retention in three orders of one recurrence: S_t = gamma S_{t-1} + k_t v_t^T, y_t = q_t S_t.

`parallel`, `chunkwise` and `recurrent` agree to rounding in values, final state and gradients. All three are raw: the
caller scales keys, rotates them and normalises rows (`row_scale`). Source: Sun et al., Retentive Network (2023),
eq. 5 (parallel), 6 (recurrent), 7 (chunkwise), 8 (multi-scale decay).

Letters: B batch, T time, C position in a chunk, H head, K key width, V value width.
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
    """Parallel within chunks, recurrent between them: O(T C) work in T / C steps, any T.

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
    length = q.shape[1]
    chunk_size = min(chunk_size, length)
    num_chunks, tail = divmod(length, chunk_size)
    inputs = (q, k, v, segment_ids)
    carry = (state, None if segment_ids is None else segment_ids[:, 0])
    if num_chunks == 1 and not tail:
        out, carry = _chunk(carry, inputs, log_decay)
        return out, carry[0]
    main = num_chunks * chunk_size
    chunks = jax.tree.map(lambda a: _split_chunks(a[:, :main], num_chunks), inputs)
    carry, out = jax.lax.scan(lambda c, xs: _chunk(c, xs, log_decay)[::-1], carry, chunks)
    out = out.swapaxes(0, 1).reshape(v.shape[0], main, *v.shape[2:])
    if tail:
        out_tail, carry = _chunk(carry, jax.tree.map(lambda a: a[:, main:], inputs), log_decay)
        out = jnp.concatenate([out, out_tail], axis=1)
    return out, carry[0]


def recurrent(q, k, v, log_decay, state):
    """One position: O(1) work and memory at any length.

    Args:
        q, k: `[B, H, K]`; v: `[B, H, V]`; log_decay: `[H]`; state: `[B, H, K, V]` float32.
    Returns: (`[B, H, V]` in v's dtype, state `[B, H, K, V]`).
    """
    gamma_H = jnp.exp(log_decay).reshape(1, -1, 1, 1)
    state = gamma_H * state + k[..., :, None].astype(state.dtype) * v[..., None, :].astype(state.dtype)
    return jnp.einsum("bhk,bhkv->bhv", q.astype(state.dtype), state).astype(v.dtype), state


def _chunk(carry, chunk, log_decay_H):
    """One chunk given the state before it: the inner square, the part from the state, and the state after it."""
    state_BHKV, last_segment_B = carry
    q_BCHK, k_BCHK, v_BCHV, segment_BC = chunk
    length = q_BCHK.shape[1]
    inner_BCHV = parallel(q_BCHK, k_BCHK, v_BCHV, log_decay_H, segment_BC).astype(state_BHKV.dtype)

    steps_C = jnp.arange(length, dtype=log_decay_H.dtype)
    from_state_CH = jnp.exp((steps_C[:, None] + 1) * log_decay_H[None])
    to_state_CH = jnp.exp((length - 1 - steps_C[:, None]) * log_decay_H[None])
    if segment_BC is None:
        sees_state_BC11 = reaches_end_BC11 = keeps_state_B111 = 1
    else:
        sees_state_BC11 = (segment_BC == last_segment_B[:, None])[:, :, None, None]
        reaches_end_BC11 = (segment_BC == segment_BC[:, -1:])[:, :, None, None]
        keeps_state_B111 = sees_state_BC11[:, -1:]
        last_segment_B = segment_BC[:, -1]

    cross_BCHV = _dot("bchk,bhkv->bchv", q_BCHK, state_BHKV) * from_state_CH[None, :, :, None] * sees_state_BC11
    kept_BCHK = k_BCHK * (to_state_CH[None, :, :, None] * reaches_end_BC11).astype(k_BCHK.dtype)
    state_BHKV = state_BHKV * from_state_CH[-1].reshape(1, -1, 1, 1) * keeps_state_B111
    state_BHKV += _dot("bchk,bchv->bhkv", kept_BCHK, v_BCHV)
    return (inner_BCHV + cross_BCHV).astype(v_BCHV.dtype), (state_BHKV, last_segment_B)


def _decay_mask(log_decay_H, length):
    """gamma^(t-s) for s <= t, else 0. The exponent is clamped before exp: 0 * inf would give NaN gradients."""
    steps_T = jnp.arange(length, dtype=log_decay_H.dtype)
    distance_TS = steps_T[:, None] - steps_T[None, :]
    decay_HTS = jnp.exp(jnp.maximum(distance_TS, 0)[None] * log_decay_H[:, None, None])
    return jnp.where((distance_TS >= 0)[None], decay_HTS, 0)


def _dot(subscripts, a, b):
    """A product that accumulates in float32 (or better) whatever the operands' dtype."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.promote_types(jnp.result_type(a, b), jnp.float32))


def _split_chunks(a, num_chunks):
    """`[B, T, ...]` -> `[T / C, B, C, ...]`, chunks first for the scan."""
    return a.reshape(a.shape[0], num_chunks, -1, *a.shape[2:]).swapaxes(0, 1)
