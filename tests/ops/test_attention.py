import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops import attention
from tests import reference

IDS = np.array([[5] * 4 + [3] * 5 + [6], [1] * 10])


def inputs(B=2, T=10, H=3, K=4, V=6, seed=0):
    q, k = reference.normal(seed, B, T, H, K), reference.normal(seed + 1, B, T, H, K)
    return q, k, reference.normal(seed + 2, B, T, H, V)


def terms(q):
    """A score sums K products, an output T of them, and the softmax exponentiates the former."""
    return q.shape[1] * q.shape[-1]


causal = jax.jit(attention.causal)


@jax.jit
def cached(q, k, v, cache, start):
    """T positions in a row, from `start` [B] on."""
    return attention.cached(q, k, v, cache, start[:, None] + jnp.arange(q.shape[1])[None])


@pytest.mark.parametrize("segment_ids", [None, IDS])
def test_causal_is_the_definition(segment_ids):
    q, k, v = inputs()
    want = reference.attention(q, k, v, segment_ids)
    reference.assert_close(causal(q, k, v, segment_ids), want, terms=terms(q))


@pytest.mark.parametrize("segment_ids", [None, IDS])
def test_gradients_are_those_of_the_definition(segment_ids):
    q, k, v = inputs()
    out_bar = reference.normal(7, *v.shape)
    want = reference.attention_gradient(q, k, v, out_bar, segment_ids)
    got = jax.vjp(lambda *a: causal(*a, segment_ids), *map(jnp.asarray, (q, k, v)))[1](jnp.asarray(out_bar))
    for got_bar, want_bar in zip(got, want, strict=True):
        reference.assert_close(got_bar, want_bar, terms=terms(q) * v.shape[-1])


def test_no_output_depends_on_a_later_token():
    out, vjp = jax.vjp(causal, *map(jnp.asarray, inputs(1)))
    for t in (0, 4, 9):
        out_bar = np.zeros(out.shape, np.float32)
        out_bar[:, t] = 1
        dq, dk, dv = vjp(jnp.asarray(out_bar))
        for bar in (dq, dk, dv):
            np.testing.assert_array_equal(bar[:, t + 1 :], np.zeros_like(bar[:, t + 1 :]))
        assert (dv[:, : t + 1] != 0).all()


def test_nothing_crosses_from_one_document_to_the_next():
    q, k, v = inputs(1)
    out, vjp = jax.vjp(lambda *a: causal(*a, IDS[:1]), *map(jnp.asarray, (q, k, v)))
    out_bar = np.zeros(out.shape, np.float32)
    out_bar[:, 4:9] = reference.normal(8, 1, 5, 3, 6)
    for bar in vjp(jnp.asarray(out_bar)):
        outside = np.delete(np.asarray(bar), np.arange(4, 9), axis=1)
        np.testing.assert_array_equal(outside, np.zeros_like(outside))
    for piece in (slice(0, 4), slice(4, 9), slice(9, 10)):
        alone = reference.attention(q[:, piece], k[:, piece], v[:, piece])
        reference.assert_close(out[:, piece], alone, terms=terms(q))


def test_large_scores_are_finite():
    q, k, v = inputs(1, 5)
    out, vjp = jax.vjp(causal, *map(jnp.asarray, (1e4 * q, 1e4 * k, v)))
    assert np.isfinite(out).all()
    assert all(np.isfinite(bar).all() for bar in vjp(jnp.ones_like(out)))


def test_softmax_is_single_precision_whatever_the_inputs():
    # Equal scores over 300 positions: summed in bfloat16, ones would stop adding up at 256.
    T = 300
    zeros = jnp.zeros((1, T, 1, 2), jnp.bfloat16)
    out = causal(zeros, zeros, jnp.ones((1, T, 1, 3), jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    reference.assert_close(out, np.ones((1, T, 1, 3)), atol=float(jnp.finfo(jnp.bfloat16).eps))
    # Scores of 128 and a little: in bfloat16, whose numbers lie 1 apart there, the little would be lost.
    little = np.linspace(-2, 2, 9)
    q = jnp.asarray(np.tile([16.0, 1.0], (1, 9, 1, 1)), jnp.bfloat16)
    k = jnp.asarray(np.stack([np.full(9, 16.0), little], axis=-1)[None, :, None], jnp.bfloat16)
    v = jnp.asarray(reference.normal(9, 1, 9, 1, 4), jnp.bfloat16)
    want = reference.attention(*(np.asarray(a, np.float64) for a in (q, k, v)))
    # The weights and the result are rounded.
    reference.assert_close(causal(q, k, v), want, atol=2 * float(jnp.finfo(jnp.bfloat16).eps) * np.abs(want).max())


def empty_cache(q, v, S):
    B, _, H, K = q.shape
    # Rubbish where nothing is written: it must not be seen.
    return np.full((B, S, H, K), 7, np.float32), np.full((B, S, H, v.shape[-1]), -7, np.float32)


@pytest.mark.parametrize(("pieces", "S"), [([10], 10), ([1] * 10, 16), ([4, 3, 1, 1, 1], 16), ([1, 9], 10)])
def test_prefill_in_pieces_and_steps_is_causal_on_the_whole(pieces, S):
    q, k, v = inputs()
    want = reference.attention(q, k, v)
    cache = empty_cache(q, v, S)
    start, outs = 0, []
    for length in pieces:
        piece = slice(start, start + length)
        out, cache = cached(q[:, piece], k[:, piece], v[:, piece], cache, np.full((2,), start, np.int32))
        outs.append(out)
        start += length
    reference.assert_close(np.concatenate(outs, axis=1), want, terms=terms(q))
    assert cache[0].shape == (2, S, 3, 4)
    np.testing.assert_array_equal(cache[0][:, :10], k)
    np.testing.assert_array_equal(cache[1][:, :10], v)
    np.testing.assert_array_equal(cache[0][:, 10:], np.full((2, S - 10, 3, 4), 7.0))


@given(first=st.integers(1, 6), second=st.integers(1, 6))
@settings(max_examples=5)
def test_rows_of_a_batch_may_stand_at_different_positions(first, second):
    q, k, v = inputs()
    cache = empty_cache(q, v, 12)
    _, cache = cached(q, k, v, cache, jnp.zeros((2,), jnp.int32))
    # Both rows go back, each to its own position, and are given two other tokens.
    starts = np.array([first, second], np.int32)
    q2, k2, v2 = inputs(2, 2, seed=20)
    out, (k_cache, v_cache) = cached(q2, k2, v2, cache, jnp.array(starts))
    for b, start in enumerate(starts):
        whole = [
            np.concatenate([old[b : b + 1, :start], new[b : b + 1]], axis=1)
            for old, new in zip((q, k, v), (q2, k2, v2), strict=True)
        ]
        want = reference.attention(*whole)[:, start:]
        reference.assert_close(out[b : b + 1], want, terms=terms(q))
        np.testing.assert_array_equal(k_cache[b, start : start + 2], k2[b])
        np.testing.assert_array_equal(v_cache[b, start : start + 2], v2[b])
        np.testing.assert_array_equal(k_cache[b, :start], k[b, :start])


def test_cached_queries_do_not_see_later_tokens_of_their_own_piece():
    q, k, v = map(jnp.asarray, inputs(1, 5))
    cache = empty_cache(q, v, 8)
    out, vjp = jax.vjp(lambda q, k, v: cached(q, k, v, cache, jnp.array([2]))[0], q, k, v)
    for t in (0, 3):
        out_bar = np.zeros(out.shape, np.float32)
        out_bar[:, t] = 1
        for bar in vjp(jnp.asarray(out_bar)):
            np.testing.assert_array_equal(bar[:, t + 1 :], np.zeros_like(bar[:, t + 1 :]))
