"""Retention in three orders of one recurrence: S_t = gamma S_{t-1} + k_t v_t^T, y_t = q_t S_t.

`parallel`, `chunkwise` and `recurrent` agree to rounding in values, final state and gradients. All three are raw: the
caller scales keys, rotates them and normalises rows (`row_scale`). Source: Sun et al., Retentive Network (2023),
eq. 5 (parallel), 6 (recurrent), 7 (chunkwise), 8 (multi-scale decay).

Letters: B batch, T time, I chunk or another part of the time, C position in a chunk and S an earlier one, H head,
K key width, V value width.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixkabrn_jax.ops.backend import resolve

CACHE_BYTES = 2**23
"""What a CPU works on at once: a part of a server's caches."""


def log_decay(num_heads: int, first_decay_exponent: float = 5.0) -> jax.Array:
    """log gamma_h = log(1 - 2^(-first_decay_exponent - h)).

    By log1p: float32 `log(1 - 2^(-5-h))` is exactly 0, no decay at all, from h = 20 on.

    Returns: `[H]` in JAX's default float type, negative.
    """
    return jnp.log1p(-(2.0 ** (-first_decay_exponent - jnp.arange(num_heads, dtype=float))))


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


def mask_padding(k: jax.Array, log_decay: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
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
    if not q.size or not v.size:
        return jnp.zeros_like(v) if state is None else (jnp.zeros_like(v), state)
    chunk = _chunks(q, k, v, log_decay, segment_ids, q.shape[1])
    if state is None:
        return _merge(_within(_heads_first(chunk)).swapaxes(2, 3), v)
    state, out_IBCHV = _run(state, chunk)
    return _merge(out_IBCHV, v), state


def chunkwise(q, k, v, log_decay, state=None, *, chunk_size: int = 0, segment_ids=None, backend: str = "auto"):
    """Parallel within chunks, recurrent between them: O(T C) work, any T. Scores are recomputed in the backward pass.

    Everything but the sum of chunk states, T / C small steps, is done for all chunks at once; on a CPU, where that
    would not fit the cache, one chunk comes after the other.

    Args:
        q, k, v, log_decay, segment_ids: as for `parallel`.
        state: `[B, H, K, V]` float32, the recurrence before the first position; None for an empty one.
        chunk_size: C, positions handled in parallel; 0 chooses it by the widths (`best_chunk_size`).
        backend: one of `backend.BACKENDS`; "pallas" is compiled on an NVIDIA GPU and interpreted (slowly) elsewhere.
    Returns: (`[B, T, H, V]` in v's dtype, state `[B, H, K, V]`).
    Raises: ValueError for a negative chunk size or an unknown backend.
    """
    if chunk_size < 0:
        raise ValueError(f"chunk_size={chunk_size}: at least 1 is needed, or 0 to choose it by the widths")
    state = _empty_state(k, v) if state is None else state
    backend = resolve(backend)
    if not q.size or not v.size:  # nothing is read, and nothing added to the state
        return jnp.zeros_like(v), state
    if backend == "pallas":
        from mixkabrn_jax.ops.kernels import retention as kernel  # a third of a second that others need not wait

        return kernel.chunkwise(q, k, v, log_decay, state, chunk_size=chunk_size, segment_ids=segment_ids)
    chunk_size = chunk_size or best_chunk_size(q.shape[-1], v.shape[-1])
    chunks = _chunks(q, k, v, log_decay, segment_ids, chunk_size)
    run = jax.checkpoint(_run)
    # Queries, keys, values, outputs, scores. At once where they fit, a tiny model's step spends a third less here.
    num_bytes = (2 * q.size + 2 * v.size + q.size // q.shape[-1] * chunk_size) * q.dtype.itemsize
    if backend == "cpu" and num_bytes > CACHE_BYTES:
        state, out_I1BCHV = jax.lax.scan(run, state, jax.tree.map(lambda a: a[:, None], chunks))
        out_IBCHV = out_I1BCHV[:, 0]
    else:
        state, out_IBCHV = run(state, chunks)
    return _merge(out_IBCHV, v), state


def carried(k, v, log_decay, segment_ids=None):
    """What a part of a sequence does to the state, whatever comes in: out = kept * in + added.

    For parts of one sequence that different devices hold: `incoming` puts them together.

    Args:
        k, v, log_decay, segment_ids: of the part, as for `parallel`.
    Returns: (kept `[B, H]`, 0 for a part with more than one segment; added `[B, H, K, V]`), float32 or better.
    """
    chunk = _heads_first(_chunks(k, k, v, log_decay, segment_ids, k.shape[1]))
    _, kept_IBH, added_IBHKV = _chunk_states(chunk)
    dtype = jnp.promote_types(v.dtype, jnp.float32)
    return jnp.broadcast_to(kept_IBH[0], (k.shape[0], k.shape[2])).astype(dtype), added_IBHKV[0].astype(dtype)


def incoming(kept, added, continues, index):
    """The state before part `index` of a sequence in I parts.

    Args:
        kept: `[I, B, H]`; added: `[I, B, H, K, V]`, of all parts, as `carried` gives them.
        continues: `[I, B]` bool, whether a part's first segment is the last one of the part before it.
        index: int, may be traced.
    Returns: `[B, H, K, V]`, 0 where a new segment begins.
    """
    state_BHKV = jnp.zeros_like(added[0])
    states = [state_BHKV]
    for kept_BH, added_BHKV, continues_B in zip(kept[:-1], added[:-1], continues[1:], strict=True):
        state_BHKV = state_BHKV * kept_BH[..., None, None] + added_BHKV
        state_BHKV = state_BHKV * continues_B[:, None, None, None]
        states.append(state_BHKV)
    return jax.lax.dynamic_index_in_dim(jnp.stack(states), index, keepdims=False)


def best_chunk_size(key_width: int, value_width: int) -> int:
    """Where the work on scores, C (K + V) a position, equals that on states, 2 K V; a power of two, 32 to 256.

    Smaller chunks do less of the first and more of the second; products of less than 32 rows are slow on any machine.
    """
    best = 2 * key_width * value_width / (key_width + value_width)
    return min(max(2 ** round(math.log2(best)), 32), 256)


def recurrent(q, k, v, log_decay, state=None):
    """One position: O(1) work and memory at any length.

    Args:
        q, k: `[B, H, K]`; v: `[B, H, V]`; log_decay: `[H]` or `[B, H]`; state: `[B, H, K, V]` float32, or
            None for an empty one.
    Returns: (`[B, H, V]` in v's dtype, state `[B, H, K, V]`).
    """
    state = _empty_state(k, v) if state is None else state
    gamma_BH11 = jnp.exp(log_decay).reshape(-1, q.shape[1], 1, 1)
    state = gamma_BH11 * state + k[..., :, None].astype(state.dtype) * v[..., None, :].astype(state.dtype)
    return jnp.einsum("bhk,bhkv->bhv", q.astype(state.dtype), state).astype(v.dtype), state


def _empty_state(k, v):
    """`[B, H, K, V]` of zeros, float32 or better."""
    dtype = jnp.promote_types(jnp.result_type(k, v), jnp.float32)
    return jnp.zeros((k.shape[0], *k.shape[-2:], v.shape[-1]), dtype)


class _Chunks(NamedTuple):
    """What chunks work on."""

    q: jax.Array
    """`[I, B, C, H, K]`, and `[I, B, H, C, K]` inside of `_run`, where every product is a batch of plain matrices: one
    chunk is turned around in the cache, which a whole sequence would not fit."""
    k: jax.Array
    v: jax.Array
    total: jax.Array
    """`[I, B or 1, H, C]`, sums of log decays from the chunk's start through each position."""
    segment: jax.Array | None
    """`[I, B, C]`."""
    before: jax.Array | None
    """`[I, B]`, the segment of the position before the chunk."""


def _chunks(q, k, v, log_decay, segment_ids, chunk_size):
    length = q.shape[1]
    chunk_size = min(chunk_size, length)
    num_chunks = -(-length // chunk_size)

    def split(a, mode="constant"):
        """`[B, T, ...]` -> `[I, B, C, ...]`, filled up at the end."""
        padding = num_chunks * chunk_size - length
        a = jnp.pad(a, [(0, 0), (0, padding)] + [(0, 0)] * (a.ndim - 2), mode=mode)
        return a.reshape(a.shape[0], num_chunks, chunk_size, *a.shape[2:]).swapaxes(0, 1)

    if log_decay.ndim == 1:
        step_IC = jnp.arange(num_chunks * chunk_size).reshape(num_chunks, -1)
        # The last chunk's padding does not decay.
        steps_IC = jnp.minimum(step_IC + 1, length) - step_IC[:, :1]
        total_IBHC = steps_IC[:, None, None].astype(log_decay.dtype) * log_decay.reshape(1, 1, -1, 1)
    else:
        total_IBHC = jnp.cumsum(split(log_decay), axis=2).swapaxes(2, 3)
    segment_IBC, before_IB = None, None
    if segment_ids is not None:
        segment_IBC = split(segment_ids, mode="edge")
        before_IB = jnp.concatenate([segment_ids[None, :, 0], segment_IBC[:-1, :, -1]])
    return _Chunks(split(q), split(k), split(v), total_IBHC, segment_IBC, before_IB)


def _run(state_BHKV, chunks):
    """I chunks: (state after them, outputs `[I, B, C, H, V]`)."""
    chunks = _heads_first(chunks)
    from_state_IBHC, across_IBH, added_IBHKV = _chunk_states(chunks)

    def advance(state_BHKV, chunk):
        across_BH, added_BHKV = chunk
        return state_BHKV * across_BH[..., None, None] + added_BHKV, state_BHKV

    steps = jax.tree.map(lambda a: a.astype(state_BHKV.dtype), (across_IBH, added_IBHKV))
    state_BHKV, state_IBHKV = jax.lax.scan(advance, state_BHKV, steps)
    cross_IBHCV = _dot("ibhck,ibhkv->ibhcv", chunks.q, state_IBHKV) * from_state_IBHC[..., None]
    return state_BHKV, (_within(chunks) + cross_IBHCV).swapaxes(2, 3)


def _chunk_states(chunks):
    """Of each chunk, heads first: the decay from the state before it to each position (`[I, B, H, C]`) and to the state
    after it (`[I, B, H]`), and what it adds to that (`[I, B, H, K, V]`)."""
    from_state_IBHC = jnp.exp(chunks.total)
    to_state_IBHC = jnp.exp(chunks.total[..., -1:] - chunks.total)
    across_IBH = from_state_IBHC[..., -1]
    if chunks.segment is not None:
        sees_state_IBC = chunks.segment == chunks.before[..., None]
        reaches_end_IBC = chunks.segment == chunks.segment[..., -1:]
        from_state_IBHC = from_state_IBHC * sees_state_IBC[:, :, None]
        to_state_IBHC = to_state_IBHC * reaches_end_IBC[:, :, None]
        across_IBH = across_IBH * sees_state_IBC[:, :, None, -1]
    k_IBHCK = chunks.k * to_state_IBHC[..., None].astype(chunks.k.dtype)
    return from_state_IBHC, across_IBH, _dot("ibhck,ibhcv->ibhkv", k_IBHCK, chunks.v)


def _heads_first(chunks):
    q, k, v = (a.swapaxes(2, 3) for a in (chunks.q, chunks.k, chunks.v))
    return chunks._replace(q=q, k=k, v=v)


def _within(chunks):
    """What the positions of a chunk see of each other: `[I, B, H, C, V]`."""
    score_IBHCS = _dot("ibhck,ibhsk->ibhcs", chunks.q, chunks.k) * _decay_mask(chunks.total)
    if chunks.segment is not None:
        same_IBCS = chunks.segment[..., :, None] == chunks.segment[..., None, :]
        score_IBHCS = jnp.where(same_IBCS[:, :, None], score_IBHCS, 0)
    return _dot("ibhcs,ibhsv->ibhcv", score_IBHCS.astype(chunks.v.dtype), chunks.v)


def _merge(out_IBCHV, v_BTHV):
    """As v is laid out, without what the last chunk was filled up with."""
    batch, length, *heads = v_BTHV.shape
    num_chunks, _, chunk_size, *_ = out_IBCHV.shape
    out_BTHV = out_IBCHV.swapaxes(0, 1).reshape(batch, num_chunks * chunk_size, *heads)
    return out_BTHV[:, :length].astype(v_BTHV.dtype)


def _decay_mask(total_C):
    """The product of the decays from s + 1 to c for s <= c, else 0: `[..., C, S]`.

    The exponents of the future are taken out before exp: 0 * inf would give NaN gradients.
    """
    exponent_CS = total_C[..., :, None] - total_C[..., None, :]
    step_C = jnp.arange(total_C.shape[-1])
    is_past_CS = (step_C[:, None] >= step_C[None, :]).reshape((1,) * (total_C.ndim - 1) + 2 * step_C.shape)
    return jnp.where(is_past_CS, jnp.exp(jnp.where(is_past_CS, exponent_CS, 0)), 0)


def _dot(subscripts, a, b):
    """A product that accumulates in float32 (or better) whatever the operands' dtype."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.promote_types(jnp.result_type(a, b), jnp.float32))
