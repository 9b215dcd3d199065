import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops.kernels import retention
from tests import reference
from tests.ops.kernels.small import compiled

B, T, H, K, V, CHUNK = 2, 43, 2, 18, 20, 32
"""With blocks of 16: two chunks of two blocks, the last not full; two blocks of keys and of values."""
LOG_DECAY = reference.log_decay(H, 1.0).astype(np.float32)
DOCUMENTS = np.array([[4] * 43, [7] * 5 + [1] * 15 + [2] * 20 + [9] * 3], np.int32)


def inputs(dtype=np.float32):
    q, k = reference.normal(0, B, T, H, K, dtype=dtype), reference.normal(1, B, T, H, K, dtype=dtype)
    return q, k, reference.normal(2, B, T, H, V, dtype=dtype), reference.normal(3, B, H, K, V)


def bars():
    return reference.normal(8, B, T, H, V), reference.normal(9, B, H, K, V)


def by_position():
    log_decay = -np.abs(reference.normal(7, B, T, H))
    log_decay[0, 4], log_decay[1, :, 1] = 0, -40.0  # keeps all; forgets all
    return log_decay


def chunkwise(q, k, v, log_decay, state, ids, chunk_size=CHUNK):
    return retention.chunkwise(q, k, v, log_decay, state, chunk_size=chunk_size, segment_ids=ids, interpret=True)


def run_and_pull_back(q, k, v, state, log_decay, ids, bars):
    """The decay is a constant here, as it is in most models."""
    out, vjp = jax.vjp(lambda q, k, v, state: chunkwise(q, k, v, log_decay, state, ids), q, k, v, state)
    return *out, *vjp(bars)


def run_and_pull_back_to_decays(q, k, v, state, log_decay, ids, bars):
    out, vjp = jax.vjp(lambda *a: chunkwise(*a[:3], a[4], a[3], ids), q, k, v, state, log_decay)
    return *out, *vjp(bars)


def check(run, log_decay, ids, decays):
    """Everything against the definition, and the gradient of some decays against differences of it."""
    q, k, v, state = inputs()
    out_bar, state_bar = bars()
    *got, decay_bar = run(*inputs(), log_decay, ids, bars())
    want = (
        *reference.retention(q, k, v, log_decay, state, ids),
        *reference.retention_gradient(q, k, v, log_decay, out_bar, state_bar, state, ids),
    )
    for got_one, want_one in zip(got, want, strict=True):
        # A sum over positions and over one of the two widths.
        reference.assert_close(got_one, want_one, terms=(T + 1) * V)
    for at in decays:
        ends = []
        for step in (1e-4, -1e-4):
            moved = log_decay.astype(np.float64)
            moved[at] += step
            out, final = reference.retention(q, k, v, moved, state, ids)
            ends.append((out * out_bar).sum() + (final * state_bar).sum())
        # A central difference, of order step^2; the gradient is one of sums as large as the terms of the loss.
        size = np.abs(out_bar * got[0]).sum() + np.abs(state_bar * got[1]).sum()
        assert abs(decay_bar[at] - (ends[0] - ends[1]) / 2e-4) <= 8 * np.finfo(np.float32).eps * T**0.5 * size


@functools.cache
def documents_run():
    return compiled(run_and_pull_back_to_decays, *inputs(), by_position(), DOCUMENTS, bars())


@given(cuts=st.lists(st.integers(1, T - 1), max_size=4))
@settings(max_examples=3)
def test_any_layout_of_documents_and_decays_has_the_values_and_gradients_of_the_definition(cuts):
    ids = np.stack([DOCUMENTS[1], np.cumsum(np.isin(np.arange(T), cuts))]).astype(np.int32)
    check(documents_run(), by_position(), ids, decays=((1, 7, 0), (0, T - 1, 1)))


@pytest.mark.slow
def test_constant_decays_have_the_values_and_gradients_of_the_definition():
    arguments = *inputs(), LOG_DECAY, None, bars()
    check(compiled(run_and_pull_back_to_decays, *arguments), LOG_DECAY, None, decays=range(H))


@pytest.mark.slow
def test_half_precision_keeps_its_states_in_single():
    q, k, v, state = inputs()
    q, k, v = (jnp.asarray(a, jnp.bfloat16) for a in (q, k, v))
    out_bar, state_bar = bars()
    arguments = q, k, v, state, LOG_DECAY, DOCUMENTS, (jnp.asarray(out_bar, jnp.bfloat16), state_bar)
    got = compiled(run_and_pull_back, *arguments)(*arguments)
    assert [a.dtype for a in got] == [jnp.bfloat16, jnp.float32, *[jnp.bfloat16] * 3, jnp.float32]
    want = (
        *reference.retention(q, k, v, LOG_DECAY, state, DOCUMENTS),
        *reference.retention_gradient(q, k, v, LOG_DECAY, *arguments[-1], state, DOCUMENTS),
    )
    for got_one, want_one in zip(got, want, strict=True):
        # Scores, decayed keys and states are rounded once each before they are summed in single.
        reference.assert_close(got_one, want_one, dtype=jnp.bfloat16)


@pytest.mark.parametrize("empty", [np.s_[:0], np.s_[:, :0]], ids=["no rows", "no positions"])
def test_of_nothing_the_outputs_are_empty_and_the_state_and_its_gradient_stay_as_they_were(empty):
    q, k, v, state = inputs()
    q, k, v = (jnp.asarray(a[empty]) for a in (q, k, v))
    rows = slice(q.shape[0])
    out_bar, state_bar = bars()
    given = q, k, v, state[rows], LOG_DECAY, None, (out_bar[empty], state_bar[rows])
    *got, decay_bar = run_and_pull_back_to_decays(*given)
    want = v, state[rows], q, k, v, state_bar[rows]
    for got_one, want_one in zip(got, want, strict=True):
        np.testing.assert_array_equal(got_one, want_one)
    np.testing.assert_array_equal(decay_bar, np.zeros(H))


def test_an_impossible_chunk_size_is_refused():
    with pytest.raises(ValueError, match="chunk_size=-1"):
        chunkwise(*inputs()[:3], LOG_DECAY, inputs()[3], None, chunk_size=-1)
