import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops import retention
from tests import reference

LOG_DECAY = reference.log_decay(3, 1.0).astype(np.float32)  # 0.5, 0.75, 0.875: the past fades, but is felt
SEGMENTS = {
    "one": [[4] * 13, [0] * 13],
    "two": [[0] * 5 + [1] * 8, [7] * 12 + [2]],
    "many": [[1, 1, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5], [9, 8, 8, 8, 8, 8, 7, 7, 7, 7, 7, 7, 7]],
}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    """One chunk after the other, whatever the size; layers' tests handle all chunks at once."""
    monkeypatch.setattr(retention, "CACHE_BYTES", 0)


def inputs(B=2, T=13, H=3, K=4, V=6, seed=0):
    q, k = reference.normal(seed, B, T, H, K), reference.normal(seed + 1, B, T, H, K)
    return q, k, reference.normal(seed + 2, B, T, H, V), reference.normal(seed + 3, B, H, K, V)


def terms(q, T=None):
    """Products summed into one output: each of the positions, and the state, over the key width."""
    return ((q.shape[1] if T is None else T) + 1) * q.shape[-1]


@functools.partial(jax.jit, static_argnames="chunk_size")
def chunkwise(q, k, v, log_decay, state, segment_ids=None, *, chunk_size):
    return retention.chunkwise(q, k, v, log_decay, state, chunk_size=chunk_size, segment_ids=segment_ids)


parallel = jax.jit(retention.parallel)


@jax.jit
def stepwise(q, k, v, log_decay, state):
    def step(state, token):
        out, state = retention.recurrent(*token, state)
        return state, out

    log_decay_BTH = jnp.broadcast_to(log_decay, q.shape[:3])
    state, out = jax.lax.scan(step, state, tuple(jnp.moveaxis(a, 1, 0) for a in (q, k, v, log_decay_BTH)))
    return jnp.moveaxis(out, 0, 1), state


@functools.partial(jax.jit, static_argnames="order")
def run(q, k, v, state, segment_ids, log_decay=LOG_DECAY, *, order):
    """One of the three orders: (out, state after); an integer is chunkwise with that chunk size."""
    if order == "parallel":
        return retention.parallel(q, k, v, log_decay, state, segment_ids)
    if order == "recurrent":
        return stepwise(q, k, v, log_decay, state)
    return retention.chunkwise(q, k, v, log_decay, state, chunk_size=order, segment_ids=segment_ids)


@functools.partial(jax.jit, static_argnames="order")
def pull_back(q, k, v, state, segment_ids, out_bar, state_bar, *, order):
    _, vjp = jax.vjp(lambda *a: run(*a, segment_ids, order=order), q, k, v, state)
    return vjp((out_bar, state_bar))


# --- Decay and row scale -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_decay_exponent", [5.0, 2.0])
def test_log_decay_is_that_of_one_minus_a_power_of_two(first_decay_exponent):
    got = np.asarray(retention.log_decay(32, first_decay_exponent=first_decay_exponent))
    np.testing.assert_allclose(got, reference.log_decay(32, first_decay_exponent), rtol=4 * np.finfo(np.float32).eps)
    np.testing.assert_array_equal(np.asarray(retention.log_decay(4)), np.asarray(retention.log_decay(4, 5.0)))


def test_far_heads_still_decay():
    got = np.asarray(retention.log_decay(32), np.float32)
    assert (got < 0).all()
    assert (np.diff(got) > 0).all()
    # From float32 log(1 - 2^-36) it would be exactly 0.
    np.testing.assert_allclose(got[-1], -(2.0**-36), rtol=1e-6)


def test_row_scale_is_one_over_the_root_of_the_sum_of_decays():
    position = np.array([[0, 1, 2, 500], [3, 0, 60, 199]])
    log_decay = reference.log_decay(32)
    got = retention.row_scale(jnp.array(position), jnp.array(log_decay, jnp.float32))
    want = reference.row_scale(position, log_decay)
    # The exponent (t + 1) log gamma is rounded; log gamma is too.
    np.testing.assert_allclose(got, want, rtol=16 * np.finfo(np.float32).eps)
    assert got.shape == (2, 4, 32)


def test_row_scale_reaches_its_limit_without_overflow():
    got = retention.row_scale(jnp.array([[10**6, 2**30]]), jnp.array(reference.log_decay(3), jnp.float32))
    limit = np.sqrt(-np.expm1(reference.log_decay(3)))
    np.testing.assert_allclose(got, np.broadcast_to(limit, (1, 2, 3)), rtol=16 * np.finfo(np.float32).eps)


# --- Values ------------------------------------------------------------------------------------------------------


def test_parallel_is_the_definition():
    q, k, v, _ = inputs()
    want, _ = reference.retention(q, k, v, LOG_DECAY)
    reference.assert_close(parallel(q, k, v, LOG_DECAY), want, terms=terms(q))


@pytest.mark.parametrize("chunk_size", [5, 12, 14])
def test_chunkwise_is_the_definition_for_any_chunk_size(chunk_size):
    q, k, v, state = inputs()
    want, want_state = reference.retention(q, k, v, LOG_DECAY, state)
    got, got_state = chunkwise(q, k, v, LOG_DECAY, state, chunk_size=chunk_size)
    assert got_state.dtype == jnp.float32
    reference.assert_close(got, want, terms=terms(q))
    reference.assert_close(got_state, want_state, terms=terms(q))


@pytest.mark.parametrize("segments", SEGMENTS)
def test_chunks_that_fit_the_cache_are_handled_at_once_as_one_after_the_other(segments, monkeypatch):
    q, k, v, state = inputs()
    segment_ids, bars = np.array(SEGMENTS[segments], np.int32), (reference.normal(5, *v.shape), state)
    found = []
    for cache in (0, 2**23):
        monkeypatch.setattr(retention, "CACHE_BYTES", cache)

        def of(*args):
            return retention.chunkwise(*args, chunk_size=5, segment_ids=segment_ids, backend="cpu")

        def both(*args, of=of):
            out, pull = jax.vjp(lambda q, k, v, state: of(q, k, v, LOG_DECAY, state), *args)
            return out, pull(bars)

        found.append(jax.jit(both)(q, k, v, state))
        # Scores of one chunk of 5, or of all three.
        assert ("[1,2,3,5,5]" in str(jax.make_jaxpr(both)(q, k, v, state))) == (cache == 0)
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        reference.assert_close(a, b, terms=terms(q))


def test_recurrent_is_the_definition():
    q, k, v, state = inputs()
    want, want_state = reference.retention(q, k, v, LOG_DECAY, state)
    got, got_state = stepwise(q, k, v, LOG_DECAY, state)
    assert got_state.dtype == jnp.float32
    reference.assert_close(got, want, terms=terms(q))
    reference.assert_close(got_state, want_state, terms=terms(q))


@given(
    B=st.integers(1, 2),
    T=st.integers(1, 9),
    H=st.integers(1, 3),
    K=st.integers(1, 5),
    V=st.integers(1, 5),
    chunk_size=st.integers(1, 11),
    cut=st.integers(0, 9),
)
@settings(max_examples=4)
def test_the_three_orders_agree_on_any_shape_and_any_cut(B, T, H, K, V, chunk_size, cut):
    q, k, v, state = inputs(B, T, H, K, V)
    log_decay = reference.log_decay(H, 1.0).astype(np.float32)
    want, want_state = reference.retention(q, k, v, log_decay, state)
    # Without the state, taken away from the whole: the two are linear in what came before.
    alone, _ = reference.retention(q, k, v, log_decay)
    size = max(np.abs(want).max(), np.abs(alone).max())
    atol = reference.tolerance(size, terms(q))
    reference.assert_close(parallel(q, k, v, log_decay), alone, atol=atol)
    cut = min(cut, T)
    pieces = []
    for piece in (slice(0, cut), slice(cut, T)):
        if piece.start < piece.stop:
            out, state = chunkwise(q[:, piece], k[:, piece], v[:, piece], log_decay, state, chunk_size=chunk_size)
            pieces.append(out)
    reference.assert_close(np.concatenate(pieces, axis=1), want, atol=atol)
    reference.assert_close(state, want_state, terms=terms(q))


@pytest.mark.parametrize("strength", [-5.0, -30.0])
def test_a_strong_decay_over_many_positions_neither_overflows_nor_gives_nan(strength):
    # gamma^-T is not a float32 here: only differences of positions may be exponentiated, and only those of the past.
    q, k, v, state = inputs(1, 40, 1)
    log_decay = np.array([strength], np.float32)
    out_bar, state_bar = reference.normal(8, *v.shape), reference.normal(9, *state.shape)
    want, want_state = reference.retention(q, k, v, log_decay, state)
    want_bars = reference.retention_gradient(q, k, v, log_decay, out_bar, state_bar, state)
    (got, got_state), vjp = jax.vjp(lambda *a: chunkwise(*a[:3], log_decay, a[3], chunk_size=40), q, k, v, state)
    reference.assert_close(got, want, terms=terms(q))
    reference.assert_close(got_state, want_state, terms=terms(q))
    for got_bar, want_bar in zip(vjp((out_bar, state_bar)), want_bars, strict=True):
        reference.assert_close(got_bar, want_bar, terms=terms(q))
    want, _ = reference.retention(q, k, v, log_decay)
    want_bars = reference.retention_gradient(q, k, v, log_decay, out_bar)
    got, vjp = jax.vjp(lambda *a: parallel(*a, log_decay), q, k, v)
    reference.assert_close(got, want, terms=terms(q))
    for got_bar, want_bar in zip(vjp(out_bar), want_bars[:3], strict=True):
        reference.assert_close(got_bar, want_bar, terms=terms(q))


@pytest.mark.parametrize("order", ["recurrent", 4, "pallas"])
def test_no_state_is_the_empty_state(order):
    q, k, v, state = inputs()

    @jax.jit
    def start(q, k, v, state):
        if order == "recurrent":
            return retention.recurrent(q[:, 0], k[:, 0], v[:, 0], LOG_DECAY, state)
        how = {"chunk_size": 4} if order == 4 else {"chunk_size": 4, "backend": "pallas"}
        return retention.chunkwise(q, k, v, LOG_DECAY, state, **how)

    for dtype in (jnp.float32, jnp.bfloat16):
        qkv = [jnp.asarray(a, dtype) for a in (q, k, v)]
        want, got = start(*qkv, np.zeros_like(state)), start(*qkv, None)
        assert got[1].dtype == jnp.float32
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_states_are_accumulated_in_single_precision_whatever_the_inputs():
    q, k, v, state = inputs(1, 40, 3)
    q, k, v = (jnp.asarray(a, jnp.bfloat16) for a in (q, k, v))
    want, want_state = reference.retention(q, k, v, LOG_DECAY, state)
    got, got_state = stepwise(q, k, v, LOG_DECAY, jnp.asarray(state))
    assert got_state.dtype == jnp.float32
    reference.assert_close(got_state, want_state, terms=terms(q))
    reference.assert_close(got, want, dtype=jnp.bfloat16)
    # The chunk's keys may be weighted in their own precision, so that the products stay half precision ones.
    got, got_state = chunkwise(q, k, v, LOG_DECAY, jnp.asarray(state), chunk_size=16)
    assert got_state.dtype == jnp.float32
    assert got.dtype == jnp.bfloat16
    reference.assert_close(got_state, want_state, dtype=jnp.bfloat16)
    reference.assert_close(got, want, dtype=jnp.bfloat16)


def test_one_step_from_nothing_is_the_exact_outer_product():
    # Eight bits times eight bits: exact in float32. Not compiled, for XLA may skip a rounding that is asked for.
    q, k, v = (jnp.asarray(a[:, 0], jnp.bfloat16) for a in inputs()[:3])
    _, state = retention.recurrent(q, k, v, jnp.asarray(LOG_DECAY), jnp.zeros((2, 3, 4, 6)))
    want = np.asarray(k, np.float64)[..., :, None] * np.asarray(v, np.float64)[..., None, :]
    np.testing.assert_array_equal(state, want)


# --- Gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "name"),
    [("recurrent", "one"), *((order, name) for order in ("parallel", 1, 4, 13, 64) for name in SEGMENTS)],
)
def test_values_and_gradients_are_those_of_the_definition_documents_or_not(order, name):
    q, k, v, state = inputs()
    ids = np.array(SEGMENTS[name], np.int32)
    out_bar, state_bar = reference.normal(8, *v.shape), reference.normal(9, *state.shape)
    want, want_state = reference.retention(q, k, v, LOG_DECAY, state, ids)
    got, got_state = run(q, k, v, state, ids, order=order)
    reference.assert_close(got, want, terms=terms(q))
    reference.assert_close(got_state, want_state, terms=terms(q))
    want = reference.retention_gradient(q, k, v, LOG_DECAY, out_bar, state_bar, state, ids)
    got = pull_back(q, k, v, state, ids, out_bar, state_bar, order=order)
    for got_bar, want_bar in zip(got, want, strict=True):
        # A gradient sums over positions and over one of the two widths.
        reference.assert_close(got_bar, want_bar, terms=(q.shape[1] + 1) * max(q.shape[-1], v.shape[-1]))


@pytest.mark.parametrize("strength", [1.0, 40.0])
@pytest.mark.parametrize("order", ["parallel", 4, "recurrent"])
def test_the_gradient_of_the_decay_is_finite_and_right(order, strength):
    q, k, v, state = inputs()
    log_decay = (strength * LOG_DECAY).astype(np.float32)
    if order == "parallel":
        state = np.zeros_like(state)
    out_bar = reference.normal(8, *v.shape)

    def loss(log_decay):
        if order == "parallel":
            out = parallel(q, k, v, log_decay)
        elif order == "recurrent":
            out, _ = stepwise(q, k, v, log_decay, state)
        else:
            out, _ = chunkwise(q, k, v, log_decay, state, chunk_size=order)
        return (out * out_bar).sum()

    got = np.asarray(jax.grad(loss)(log_decay))
    for h in range(3):
        step = np.eye(3)[h] * 1e-4
        high, low = (
            (reference.retention(q, k, v, log_decay + s, state)[0] * out_bar)[:, :, h].sum() for s in (step, -step)
        )
        # One head at a time, whose many terms have either sign; a central difference of step 1e-4 is good to 1e-7.
        size = np.abs(out_bar).sum() * np.abs(v).max()
        assert abs(got[h] - (high - low) / 2e-4) <= 8 * np.finfo(np.float32).eps * size


@pytest.mark.parametrize("order", ["parallel", 4, 64])
def test_no_output_depends_on_a_later_token(order):
    q, k, v, state = inputs()
    ids = np.array(SEGMENTS["one"], np.int32)
    for t in (0, 3, 4, 7, 12):
        out_bar = np.zeros_like(v)
        out_bar[:, t] = 1
        for bar in pull_back(q, k, v, state, ids, out_bar, np.zeros_like(state), order=order)[:3]:
            np.testing.assert_array_equal(bar[:, t + 1 :], np.zeros_like(bar[:, t + 1 :]))
            assert (bar[:, t] != 0).all()


# --- Packed documents --------------------------------------------------------------------------------------------


def test_packed_documents_are_the_same_documents_alone():
    q, k, v, state = inputs()
    zero = np.zeros_like(state)
    ids = np.array([[5] * 4 + [3] * 7 + [6] * 2] * 2, np.int32)
    together, finals = zip(*(run(q, k, v, zero, ids, order=order) for order in ("parallel", 4, 64)), strict=True)
    for piece in (slice(0, 4), slice(4, 11), slice(11, 13)):
        alone, final = stepwise(q[:, piece], k[:, piece], v[:, piece], LOG_DECAY, zero)
        for out in together:
            reference.assert_close(out[:, piece], alone, terms=terms(q))
    for last in finals:
        reference.assert_close(last, final, terms=terms(q))


@pytest.mark.parametrize("order", ["parallel", 1, 4, 64])
def test_nothing_crosses_from_one_document_to_the_next(order):
    q, k, v, state = inputs()
    ids = np.array([[5] * 4 + [3] * 7 + [6] * 2] * 2, np.int32)
    out_bar = np.zeros_like(v)
    out_bar[:, 4:11] = 1
    *middle, state_bar = pull_back(q, k, v, state, ids, out_bar, np.zeros_like(state), order=order)
    for bar in middle:
        outside = np.delete(np.asarray(bar), np.arange(4, 11), axis=1)
        np.testing.assert_array_equal(outside, np.zeros_like(outside))
    np.testing.assert_array_equal(state_bar, np.zeros_like(state))
    last = pull_back(q, k, v, state, ids, np.zeros_like(v), np.ones_like(state), order=order)
    for bar in last[1:3]:
        np.testing.assert_array_equal(bar[:, :11], np.zeros_like(bar[:, :11]))
        assert (bar[:, 11:] != 0).all()
    np.testing.assert_array_equal(last[3], np.zeros_like(state))


def test_a_row_of_one_document_is_a_row_without_documents():
    q, k, v, state = inputs()
    ids = np.array(SEGMENTS["one"], np.int32)
    plain = chunkwise(q, k, v, LOG_DECAY, state, chunk_size=4)
    for got, want in zip(run(q, k, v, state, ids, order=4), plain, strict=True):
        reference.assert_close(got, want, terms=terms(q))


# --- Decays of each position, and padding -------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["parallel", 4, 64, "recurrent"])
def test_a_decay_for_each_position_is_the_definition_with_gradients(order):
    q, k, v, state = inputs()
    log_decay = -np.abs(reference.normal(7, 2, 13, 3))
    log_decay[0, 4], log_decay[1, :, 2] = 0, -40.0  # keeps all; forgets all
    out_bar, state_bar = reference.normal(8, *v.shape), reference.normal(9, *state.shape)
    want, want_state = reference.retention(q, k, v, log_decay, state)
    got, got_state = run(q, k, v, state, None, log_decay, order=order)
    reference.assert_close(got, want, terms=terms(q))
    reference.assert_close(got_state, want_state, terms=terms(q))
    _, vjp = jax.vjp(lambda *a: run(*a[:4], None, a[4], order=order), q, k, v, state, log_decay)
    *got, decay_bar = vjp((out_bar, state_bar))
    for got_bar, want_bar in zip(
        got, reference.retention_gradient(q, k, v, log_decay, out_bar, state_bar, state), strict=True
    ):
        reference.assert_close(got_bar, want_bar, terms=(q.shape[1] + 1) * max(q.shape[-1], v.shape[-1]))
    # Of the decay by a central difference: smooth, so of order step^2.
    for at in ((0, 4, 0), (0, 12, 1), (1, 0, 0)):
        ends = []
        for step in (1e-4, -1e-4):
            moved = log_decay.astype(np.float64)
            moved[at] += step
            out, final = reference.retention(q, k, v, moved, state)
            ends.append((out * out_bar).sum() + (final * state_bar).sum())
        size = np.abs(out_bar).sum() * np.abs(want).max()
        assert abs(decay_bar[at] - (ends[0] - ends[1]) / 2e-4) <= 8 * np.finfo(np.float32).eps * size


@pytest.mark.parametrize("order", ["parallel", 3, 64, "recurrent"])
@pytest.mark.parametrize("by_position", [False, True])
def test_padding_anywhere_leaves_the_recurrence_as_it_was(order, by_position):
    q, k, v, state = inputs()
    mask = np.ones((2, 13), np.int32)
    mask[0, :4], mask[1, 9:], mask[1, 2] = 0, 0, 0
    log_decay = -np.abs(reference.normal(7, 2, 13, 3)) if by_position else LOG_DECAY
    masked_k, masked_decay = jax.jit(retention.mask_padding)(k, log_decay, mask)
    got, got_state = run(q, masked_k, v, state, None, masked_decay, order=order)

    def total(k):
        return run(q, retention.mask_padding(k, log_decay, mask)[0], v, state, None, order=order)[0].sum()

    bar = jax.grad(total)(k)
    assert not np.asarray(bar)[mask == 0].any()
    for b in range(2):
        keep = mask[b] == 1
        tokens = (a[b : b + 1, keep] for a in (q, k, v))
        decay = log_decay[b : b + 1, keep] if by_position else log_decay
        want, want_state = reference.retention(*tokens, decay, state[b : b + 1])
        reference.assert_close(got[b : b + 1, keep], want, terms=terms(q))
        reference.assert_close(got_state[b : b + 1], want_state, terms=terms(q))


@given(
    documents=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    chunk_size=st.integers(1, 9),
    by_position=st.booleans(),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
@settings(max_examples=6)
def test_any_layout_of_documents_with_any_decay_is_the_definition(documents, chunk_size, by_position, dtype):
    q, k, v, state = inputs(T=sum(documents))
    q, k, v = (jnp.asarray(a, dtype) for a in (q, k, v))
    ids = np.repeat([np.arange(len(documents))] * 2, documents, axis=1).astype(np.int32)
    log_decay = -np.abs(reference.normal(7, *q.shape[:3])) if by_position else LOG_DECAY
    want, want_state = reference.retention(q, k, v, log_decay, state, ids)
    n = terms(q) if dtype == jnp.float32 else 1
    for order in ("parallel", chunk_size):
        out, final = run(q, k, v, state, ids, log_decay, order=order)
        assert (out.dtype, final.dtype) == (dtype, jnp.float32)
        reference.assert_close(out, want, terms=n, dtype=dtype)
        reference.assert_close(final, want_state, terms=n, dtype=dtype)


def test_lm_decay_goes_from_one_in_32_to_one_in_512():
    got = 1 - np.exp(np.asarray(retention.lm_log_decay(5), np.float64))
    np.testing.assert_allclose(got, [1 / 32, 1 / 64, 1 / 128, 1 / 256, 1 / 512], rtol=1e-4)


# --- The recurrence itself, from a peer --------------------------------------------------------------------------


def peers_numbers(dtype, close):
    z = reference.golden("retention_op")
    K = z["q"].shape[-1]
    q, k, v, state = (np.asarray(a, dtype) for a in (z["q"] * K**-0.5, z["k"], z["v"], z["initial_state"]))
    log_decay = jnp.asarray(retention.log_decay(q.shape[2]), dtype)
    close(parallel(q, k, v, log_decay), z["o"])
    for run in (stepwise, parallel, *(functools.partial(chunkwise, chunk_size=c) for c in (7, 64))):
        out, final = run(q, k, v, log_decay, np.zeros_like(state))
        close(out, z["o"])
        close(final, z["final_state"])
        out, final = run(q, k, v, log_decay, state)
        close(out, z["o_from_state"])
        close(final, z["final_state_from_state"])


def test_the_three_orders_are_the_peers_numbers():
    rounding = terms(reference.golden("retention_op")["q"])
    peers_numbers(np.float32, functools.partial(reference.assert_close, terms=rounding))


@pytest.mark.usefixtures("x64")
def test_the_three_orders_are_the_peers_numbers_in_double_precision():
    peers_numbers(np.float64, lambda got, want: np.testing.assert_allclose(got, want, atol=1e-10, rtol=0))


@pytest.mark.parametrize(("widths", "size"), [((64, 64), 64), ((64, 128), 64), ((128, 256), 128), ((8, 8), 32)])
def test_the_chunk_size_follows_the_widths(widths, size):
    assert retention.best_chunk_size(*widths) == size
    q, k, v, log_decay, state = (
        jnp.zeros(s) for s in ((1, 99, 1, widths[0]),) * 2 + ((1, 99, 1, widths[1]), (1,), (1, 1, *widths))
    )

    def program(size):
        return str(jax.make_jaxpr(lambda q: retention.chunkwise(q, k, v, log_decay, state, chunk_size=size))(q))

    assert program(0) == program(size) != program(16)


@pytest.mark.parametrize(("parts", "gated"), [(2, True), pytest.param(4, False, marks=pytest.mark.slow)])
def test_states_of_the_parts_of_a_sequence_compose(parts, gated):
    """What devices that hold one part each exchange: chunkwise from each part's incoming state is that of the whole."""
    batch, length, heads, key_width, value_width = 3, 16, 2, 4, 6
    q, k = (reference.normal(seed, batch, length, heads, key_width) for seed in (0, 1))
    v = reference.normal(2, batch, length, heads, value_width)
    log_decay = retention.log_decay(heads)
    if gated:
        log_decay = jax.nn.log_sigmoid(reference.normal(3, batch, length, heads))
    segments = np.ones((batch, length), np.int32)
    segments[1, 8:] = 2  # begins with a part
    segments[2, 3:], segments[2, 5:], segments[2, 13:] = 2, 3, 4
    start = jnp.zeros((batch, heads, key_width, value_width))

    def whole(q, k, v):
        return retention.chunkwise(q, k, v, log_decay, start, chunk_size=3, segment_ids=segments)[0]

    def composed(q, k, v):
        def part(a, at):
            return jnp.split(a, parts, axis=1)[at]

        decays = [log_decay if log_decay.ndim == 1 else part(log_decay, at) for at in range(parts)]
        ids = np.split(segments, parts, axis=1)
        carried = [retention.carried(part(k, at), part(v, at), decays[at], ids[at]) for at in range(parts)]
        kept, added = (jnp.stack(a) for a in zip(*carried, strict=True))
        continues = jnp.stack([ids[at][:, 0] == ids[at - 1][:, -1] for at in range(parts)])
        outputs = []
        for at in range(parts):
            state = retention.incoming(kept, added, continues, at)
            now = (part(a, at) for a in (q, k, v))
            outputs.append(retention.chunkwise(*now, decays[at], state, chunk_size=3, segment_ids=ids[at])[0])
        return jnp.concatenate(outputs, axis=1)

    @jax.jit
    def both(*qkv):
        return [f(*qkv) for f in (composed, whole)], [
            jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2))(*qkv) for f in (composed, whole)
        ]

    (got, want), grads = both(q, k, v)
    reference.assert_close(got, want, terms=length * key_width)
    for got, want in zip(*grads, strict=True):
        reference.assert_close(got, want, terms=length**2 * key_width)


@pytest.mark.parametrize("form", [retention.parallel, retention.chunkwise])
@pytest.mark.parametrize("shape", [(0, 5), (2, 0)], ids=["no rows", "no positions"])
def test_of_nothing_the_output_is_empty_and_the_state_stays_as_it_was(form, shape):
    q = k = jnp.ones((*shape, 3, 4))
    v, state = jnp.ones((*shape, 3, 6)), jnp.ones((shape[0], 3, 4, 6))
    out, after = form(q, k, v, jnp.asarray(LOG_DECAY), state)
    np.testing.assert_array_equal(out, v)
    np.testing.assert_array_equal(after, state)
