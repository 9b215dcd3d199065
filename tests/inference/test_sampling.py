import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax.inference.sampling import Sampling, filtered, penalized, sample
from tests import reference

W = 11
filtered = jax.jit(filtered, static_argnums=1)
sample = jax.jit(sample, static_argnums=2)
KEYS = jax.random.split(jax.random.key(0), 20)


def slow(logits, sampling):
    """One row, one token after the other: which tokens are left, and the float64 logits over the temperature."""
    logits = np.asarray(logits, np.float64) / sampling.temperature
    left = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        left = left[: sampling.top_k]
    if sampling.top_p < 1:
        probability = reference.softmax(logits[left])
        kept, total = [], 0.0
        for token, p in zip(left, probability, strict=True):
            if total >= sampling.top_p:
                break
            kept.append(token)
            total += p
        left = np.array(kept)
    probability = reference.softmax(logits[left])
    left = left[probability >= sampling.min_p * probability.max()]
    return set(left.tolist()), logits


@given(
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 4, W, 50]),
    top_p=st.sampled_from([1.0, 0.9, 0.31, 1e-6]),
    min_p=st.sampled_from([0.0, 0.23, 1.0]),
)
def test_filters_leave_what_their_definitions_leave(seed, temperature, top_k, top_p, min_p):
    sampling = Sampling(temperature, top_k, top_p, min_p)
    logits = 2 * reference.normal(seed, 3, W)
    got = np.asarray(filtered(logits, sampling))
    for row in range(3):
        left, want = slow(logits[row], sampling)
        assert set(np.flatnonzero(np.isfinite(got[row])).tolist()) == left
        kept = sorted(left)
        reference.assert_close(got[row, kept], want[kept])


def test_filters_work_on_what_the_ones_before_left():
    """Of (.4 .3 .2 .1) the best two are (4/7 3/7): half the probability is then in the first alone."""
    logits = np.log(np.float32([[0.4, 0.3, 0.2, 0.1]]))
    assert np.isfinite(filtered(logits, Sampling(top_p=0.5))).sum() == 2
    assert np.isfinite(filtered(logits, Sampling(top_k=2, top_p=0.5))).sum() == 1


def test_temperature_zero_is_the_most_likely_token():
    logits = reference.normal(0, 20, W)
    got = sample(KEYS, logits, Sampling(temperature=0.0))
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, logits.argmax(axis=-1))


def test_the_most_likely_token_is_never_left_out():
    logits = reference.normal(0, 20, W)
    strict = Sampling(temperature=0.01, top_k=1, top_p=1e-9, min_p=1.0)
    np.testing.assert_array_equal(sample(KEYS, logits, strict), logits.argmax(axis=-1))


def test_draws_have_the_probabilities_of_the_filtered_softmax():
    sampling, count = Sampling(temperature=0.8, top_k=5), 20000
    logits = reference.normal(3, 1, W)
    keys_B = jax.random.split(jax.random.key(1), count)
    drawn = np.asarray(sample(keys_B, np.repeat(logits, count, axis=0), sampling))
    left, scaled = slow(logits[0], sampling)
    probability = np.zeros(W)
    probability[sorted(left)] = reference.softmax(scaled[sorted(left)])
    counts = np.bincount(drawn, minlength=W)
    assert (counts[probability == 0] == 0).all()
    deviation = np.sqrt(count * probability * (1 - probability))
    assert (np.abs(counts - count * probability) <= 5 * deviation).all()


def test_a_penalty_divides_what_is_positive_and_multiplies_the_rest_of_what_was_seen():
    """Keskar et al. 2019, sec. 4.1: x_i / (T I(i in g)), where x_i < 0 is multiplied, or it would become likelier."""
    logits, seen = reference.normal(0, 20, W), reference.normal(1, 20, W) > 0
    want = np.asarray(logits, np.float64)
    for row, token in np.argwhere(seen):
        want[row, token] = want[row, token] / 3 if want[row, token] > 0 else want[row, token] * 3
    reference.assert_close(penalized(logits, seen, 3), want)
    got = sample(KEYS, logits, Sampling(temperature=0.0, repetition_penalty=3), seen)
    np.testing.assert_array_equal(got, want.argmax(axis=-1))
    assert (np.asarray(got) != logits.argmax(axis=-1)).any()
    same = Sampling(top_k=5, repetition_penalty=1.0)
    np.testing.assert_array_equal(sample(KEYS, logits, same, seen), sample(KEYS, logits, same))


def test_a_row_is_drawn_by_its_own_key():
    logits = reference.normal(0, 20, W)
    together = np.asarray(sample(KEYS, logits, Sampling()))
    alone = [int(sample(KEYS[row : row + 1], logits[row : row + 1], Sampling())[0]) for row in range(20)]
    assert together.tolist() == alone


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", -0.1), ("temperature", float("nan")), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1)),
        *(("min_p", -0.1), ("min_p", 1.1), ("repetition_penalty", 0.0), ("repetition_penalty", float("nan"))),
    ],
)
def test_a_field_that_cannot_be_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        Sampling(**{field: value})
