"""Chunkwise retention as kernels: `ops.retention.chunkwise` without its scores or decays in memory, and its gradients.

Two kernels do all of the work, for each is its own transpose. With a_t, b_t, c_t standing for queries, keys, values or
gradients of outputs:

- states: S <- across S + sum_t reach_t a_t b_t^T, chunk after chunk, forwards (keys and values) or backwards (queries
  and gradients: what later chunks want of the state);
- reads: y_t = sum_s decay_ts (a_t . b_s) c_s + reach_t a_t S, over the past of the chunk or over its future. Outputs
  read (q, k, v), and the gradients of q, k and v read (dy, v, k), (v, dy, q) and (k, q, dy).

The backward pass keeps q, k, v and the first state only, and computes the chunk states again. Sources: Sun et al.,
Retentive Network (2023), eq. 7; Yang et al., Gated Linear Attention Transformers (2024), sec. 4 and appendix C (states
in registers, the decay's gradient from those of q and k).

Letters: B batch, T time, I chunk, H head, K key width, V value width; X and Y the widths of a and of c.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental import pallas as pl

from mixkabrn_jax.ops.kernels.blocks import Block, accumulator, block, block_size, dot, launch, load, split, store
from mixkabrn_jax.ops.kernels.reach import Reach

DEEP = 64
"""Entries of a contracted width at a time: any width fits in shared memory."""


class Blocks(NamedTuple):
    """What one program holds. Triton keeps its sums in registers: 64 x 64 of float32 are 32 a thread with 4 warps."""

    rows: int
    """Positions of a block; a chunk is one or more."""
    columns: int
    """Outputs at each position; scores are computed again for each block of them."""
    state: int
    """Keys, and values, of the state that is carried along, all chunks of a head one after the other."""
    num_warps: int
    """Of a program that reads; one that carries a state has 4."""
    num_stages: int
    """Blocks of operands under way at once."""


# On an H200 in bfloat16, batch 8, 4096 positions, 16 heads of 64, 128 and 256: the fastest of 100 to 180 settings each.
NARROW = Blocks(rows=64, columns=128, state=64, num_warps=4, num_stages=3)
WIDE = Blocks(rows=128, columns=256, state=128, num_warps=8, num_stages=3)
EXACT = Blocks(rows=64, columns=128, state=64, num_warps=4, num_stages=2)
"""float32, whose blocks are twice as large in shared memory."""


def best_blocks(width: int, dtype) -> Blocks:
    """For heads whose larger width, of keys or values, is this one."""
    if jnp.dtype(dtype).itemsize > 2:
        return EXACT
    return WIDE if width > NARROW.columns else NARROW


def chunkwise(q, k, v, log_decay, state, *, chunk_size: int = 0, segment_ids=None, interpret: bool | None = None):
    """The contract of `ops.retention.chunkwise`: outputs, final state, and gradients of all inputs but segments.

    A chunk is one or more blocks of positions, `chunk_size` in whole blocks. Larger chunks have fewer states in memory
    and more work within them. States are accumulated in float32 and read in the dtype of q, k and v.

    Args:
        q, k: `[B, T, H, K]`; v: `[B, T, H, V]`.
        log_decay: `[H]` or `[B, T, H]`.
        state: `[B, H, K, V]` float32, the recurrence before the first position.
        chunk_size: positions between two states that are kept; 0 for one block, which is fastest.
        segment_ids: `[B, T]` int or None; a position sees its own segment only.
        interpret: as for `blocks.launch`.
    Returns: (`[B, T, H, V]` in v's dtype, state `[B, H, K, V]`).
    Raises: ValueError for a negative chunk size.
    """
    if chunk_size < 0:
        raise ValueError(f"chunk_size={chunk_size}: at least 1 is needed, or 0 for the fastest")
    if 0 in (*q.shape, *v.shape):  # no blocks to launch: nothing is read, and nothing added to the state
        return jnp.zeros_like(v), state
    dtype = jnp.result_type(q, k, v)
    blocks = best_blocks(max(q.shape[-1], v.shape[-1]), dtype)
    chunk_size = min(chunk_size or blocks.rows, q.shape[1])
    blocks = blocks._replace(rows=block_size(chunk_size, blocks.rows))
    static = _Static(blocks, max(1, chunk_size // blocks.rows), interpret)
    inputs = (a.astype(dtype) for a in (q, k, v))
    out_BTHV, state = _chunkwise(static, *inputs, log_decay, state, segment_ids)
    return out_BTHV.astype(v.dtype), state


class _Static(NamedTuple):
    blocks: Blocks
    blocks_per_chunk: int
    """Of `blocks.rows` positions, in a chunk."""
    interpret: bool | None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunkwise(static, q, k, v, log_decay, state, segment_ids):
    reach = Reach.of(log_decay, segment_ids, q.shape[1], static.blocks.rows * static.blocks_per_chunk)
    state_BIHKV, final = _states(static, k, v, reach.to_state_BHT, reach.across_BHI, state, reverse=False)
    out = _read(static, q, k, v, reach, segment_ids, state_BIHKV, of_keys=False, reverse=False)
    return out, final


def _chunkwise_forward(static, q, k, v, log_decay, state, segment_ids):
    decay_is_trained = log_decay.perturbed
    q, k, v, log_decay, state = (a.value for a in (q, k, v, log_decay, state))
    segment_ids = None if segment_ids is None else segment_ids.value
    out, final = _chunkwise(static, q, k, v, log_decay, state, segment_ids)
    # A residual that is None says that nobody asks for the decay's gradient.
    return (out, final), (q, k, v, log_decay, state, segment_ids, final if decay_is_trained else None)


def _chunkwise_backward(static, residual, bars):
    q, k, v, log_decay, state, segment_ids, final = residual
    out_bar, final_bar = (jnp.zeros(a.shape, a.dtype) if isinstance(a, SymbolicZero) else a for a in bars)
    reach = Reach.of(log_decay, segment_ids, q.shape[1], static.blocks.rows * static.blocks_per_chunk)
    forth, back = {"reverse": False}, {"reverse": True}
    state_BIHKV, _ = _states(static, k, v, reach.to_state_BHT, reach.across_BHI, state, **forth)
    wanted_BIHKV, state_bar = _states(static, q, out_bar, reach.from_state_BHT, reach.across_BHI, final_bar, **back)
    # Rounded to half precision they would leave little of the decay's gradient, their difference.
    dtype = q.dtype if final is None else accumulator(q.dtype)
    read = partial(_read, static, reach=reach, segment_ids=segment_ids)
    q_bar = read(out_bar, v, k, states=state_BIHKV, of_keys=True, dtype=dtype, **forth)
    k_bar = read(v, out_bar, q, states=wanted_BIHKV, of_keys=True, dtype=dtype, **back)
    v_bar = read(k, q, out_bar, states=wanted_BIHKV, of_keys=False, **back)
    decay_bar = None
    if final is not None:
        # Outputs and the final state grow with the total decay up to their own position, and fall with that up to
        # the position of the key: q . dq is the one, k . dk the other.
        total_bar_BTH = jnp.sum(q * q_bar - k * k_bar, axis=-1)
        end_BH = jnp.sum(final * final_bar, axis=(2, 3)).astype(total_bar_BTH.dtype)
        total_bar_BTH = total_bar_BTH.at[:, -1].add(end_BH)
        decay_bar = jnp.cumsum(total_bar_BTH, axis=1, dtype=total_bar_BTH.dtype)
        decay_bar = total_bar_BTH + decay_bar[:, -1:] - decay_bar
        if log_decay.ndim == 1:
            decay_bar = jnp.sum(decay_bar, axis=(0, 1))
        decay_bar = decay_bar.astype(log_decay.dtype)
    return q_bar.astype(q.dtype), k_bar.astype(k.dtype), v_bar, decay_bar, state_bar, None


_chunkwise.defvjp(_chunkwise_forward, _chunkwise_backward, symbolic_zeros=True)


def _states(static, a_BTHX, b_BTHY, reach_BHT, across_BHI, first_BHXY, *, reverse):
    """The state before each chunk, `[B, I, H, X, Y]` in a's dtype, and the state after the last one.

    In reverse, before and after are seen from the end.
    """
    (batch, _, heads, x_width), y_width = a_BTHX.shape, b_BTHY.shape[-1]
    x_size, y_size = (block_size(width, static.blocks.state) for width in (x_width, y_width))
    return launch(
        _states_kernel,
        (pl.cdiv(x_width, x_size) * pl.cdiv(y_width, y_size), heads, batch),
        (
            jax.ShapeDtypeStruct((batch, across_BHI.shape[-1], *first_BHXY.shape[1:]), a_BTHX.dtype),
            jax.ShapeDtypeStruct(first_BHXY.shape, first_BHXY.dtype),
        ),
        *(a_BTHX, b_BTHY, reach_BHT, across_BHI, first_BHXY),
        sizes=(static.blocks.rows, x_size, y_size),
        blocks_per_chunk=static.blocks_per_chunk,
        reverse=reverse,
        interpret=static.interpret,
        num_warps=4,
        num_stages=static.blocks.num_stages,
    )


def _states_kernel(
    a_ref, b_ref, reach_ref, across_ref, first_ref, states_ref, last_ref, *, sizes, blocks_per_chunk, reverse
):
    """One block of the state of one head, all chunks."""
    rows, x_size, y_size = sizes
    length, num_chunks = a_ref.shape[1], across_ref.shape[-1]
    h, b = pl.program_id(1), pl.program_id(2)
    reached = jnp.minimum(b, reach_ref.shape[0] - 1)
    y_blocks = pl.cdiv(b_ref.shape[-1], y_size)
    x, y = split(pl.program_id(0), y_blocks)
    x, y = block(x, x_size, a_ref.shape[-1]), block(y, y_size, b_ref.shape[-1])

    def advance(i, state):
        n = num_chunks - 1 - i if reverse else i
        store(states_ref, state, b, n, h, x, y)

        def add_block(j, state):
            at = block(n * blocks_per_chunk + j, rows, length)
            reach = load(reach_ref, reached, h, Block(at.start, rows, None))
            a = (load(a_ref, b, at, h, x) * reach[:, None]).astype(b_ref.dtype)
            return state + dot(a, load(b_ref, b, at, h, y), transpose_a=True)

        return jax.lax.fori_loop(0, blocks_per_chunk, add_block, state * across_ref[reached, h, n])

    state = load(first_ref, b, h, x, y).astype(accumulator(a_ref.dtype))
    store(last_ref, jax.lax.fori_loop(0, num_chunks, advance, state), b, h, x, y)


def _read(static, a, b, c, reach, segment_ids, states, *, of_keys, reverse, dtype=None):
    """sum_s decay_ts (a_t . b_s) c_s + reach_t a_t S: `[B, T, H, Y]`, in `dtype` or that of c.

    Args:
        a, b: `[B, T, H, X]`; c: `[B, T, H, Y]`.
        states: `[B, I, H, K, V]`.
        of_keys: Y is K, so that states are transposed.
        reverse: s runs over the future of t, not over its past, and from the state after the chunk.
    """
    batch, length, heads, y_width = c.shape
    y_size = block_size(y_width, static.blocks.columns)
    reach_BHT = reach.to_state_BHT if reverse else reach.from_state_BHT
    segments = () if segment_ids is None else (segment_ids.astype(jnp.int32),)
    return launch(
        _read_kernel,
        (pl.cdiv(length, static.blocks.rows) * pl.cdiv(y_width, y_size), heads, batch),
        jax.ShapeDtypeStruct(c.shape, c.dtype if dtype is None else dtype),
        *(a, b, c, reach.total_BHT, reach_BHT, states, *segments),
        sizes=(static.blocks.rows, block_size(a.shape[-1], DEEP), y_size),
        blocks_per_chunk=static.blocks_per_chunk,
        of_keys=of_keys,
        reverse=reverse,
        interpret=static.interpret,
        num_warps=static.blocks.num_warps,
        num_stages=static.blocks.num_stages,
    )


def _read_kernel(
    a_ref, b_ref, c_ref, total_ref, reach_ref, states_ref, *refs, sizes, blocks_per_chunk, of_keys, reverse
):
    """One block of positions of one head, one block of Y."""
    *segment_refs, out_ref = refs
    rows, x_size, y_size = sizes
    _, length, _, x_width = a_ref.shape
    h, b = pl.program_id(1), pl.program_id(2)
    decays = jnp.minimum(b, total_ref.shape[0] - 1)
    y_blocks = pl.cdiv(c_ref.shape[-1], y_size)
    i, y = split(pl.program_id(0), y_blocks)
    y = block(y, y_size, c_ref.shape[-1])
    chunk, _ = split(i, blocks_per_chunk)
    x_steps = pl.cdiv(x_width, x_size)
    here = block(i, rows, length)
    # Padded to whole chunks, unlike positions.
    total_here = load(total_ref, decays, h, Block(here.start, rows, None))

    def add_state(n, total):
        x = block(n, x_size, x_width)
        state = load(states_ref, b, chunk, h, *((y, x) if of_keys else (x, y)))
        return total + dot(load(a_ref, b, here, h, x), state, transpose_b=of_keys)

    total = jnp.zeros((rows, y_size), accumulator(a_ref.dtype))
    total = jax.lax.fori_loop(0, x_steps, add_state, total)
    reached = jnp.minimum(b, reach_ref.shape[0] - 1)
    total = total * load(reach_ref, reached, h, Block(here.start, rows, None))[:, None]

    def add_block(j, total):
        there = block(j, rows, length)

        def add_scores(n, score):
            x = block(n, x_size, x_width)
            return score + dot(load(a_ref, b, here, h, x), load(b_ref, b, there, h, x), transpose_b=True)

        score = jax.lax.fori_loop(0, x_steps, add_scores, jnp.zeros((rows, rows), total.dtype))
        exponent = total_here[:, None] - load(total_ref, decays, h, Block(there.start, rows, None))[None]
        steps = here.positions()[:, None] - there.positions()[None]
        exponent, steps = (-exponent, -steps) if reverse else (exponent, steps)
        score = score * jnp.exp2(jnp.where(steps >= 0, exponent, 0))  # a future's exponent may be huge
        seen = steps >= 0
        for segment_ref in segment_refs:
            seen &= load(segment_ref, b, here)[:, None] == load(segment_ref, b, there)[None]
        score = jnp.where(seen, score, 0).astype(c_ref.dtype)
        return total + dot(score, load(c_ref, b, there, h, y))

    num_blocks = pl.cdiv(length, rows)
    first = i if reverse else chunk * blocks_per_chunk
    last = jnp.minimum((chunk + 1) * blocks_per_chunk, num_blocks) if reverse else i + 1
    store(out_ref, jax.lax.fori_loop(first, last, add_block, total), b, here, h, y)
