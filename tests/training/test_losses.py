import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkabrn_jax.training.losses import token_nats
from tests import reference

B, T, W = 2, 5, 7
TARGETS = np.random.default_rng(0).integers(0, W, (B, T)).astype(np.int32)
value_and_gradient = jax.jit(
    jax.value_and_grad(lambda logits, targets, mask: jnp.sum(token_nats(logits, targets) * mask))
)


def nats(logits, targets, weights):
    """Minus the logarithm of the softmax, position by position."""
    total = 0.0
    for b in range(B):
        for t in range(T):
            row = np.asarray(logits[b, t], np.float64)
            total -= weights[b, t] * (row[targets[b, t]] - row.max() - np.log(np.exp(row - row.max()).sum()))
    return total


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_the_sum_is_the_total_negative_log_likelihood(size):
    logits = size * reference.normal(1, B, T, W)
    weights = np.abs(reference.normal(2, B, T))
    got, gradient = value_and_gradient(logits, TARGETS, weights)
    # What is rounded is a difference of logits.
    reference.assert_close(got, nats(logits, TARGETS, weights), atol=reference.tolerance(logits, B * T * W))
    want = reference.softmax(logits.astype(np.float64))
    want -= np.eye(W)[TARGETS]
    bound = reference.tolerance(np.maximum(np.abs(logits).max(), 1), W)
    reference.assert_close(gradient, want * weights[..., None], atol=min(bound, 1.0) * weights.max())


def test_a_target_of_weight_zero_counts_nothing():
    logits, weights = reference.normal(1, B, T, W), np.ones((B, T), np.float32)
    weights[0, 2] = weights[1, 4] = 0
    got, gradient = value_and_gradient(logits, TARGETS, weights)
    other = logits.copy()
    other[0, 2], other[1, 4] = 300.0, -300.0
    assert value_and_gradient(other, TARGETS, weights)[0] == got
    assert not gradient[0, 2].any()
    assert not gradient[1, 4].any()


def test_the_sum_over_parts_is_the_sum_over_the_whole():
    logits, weights = reference.normal(1, B, T, W), np.ones((B, T), np.float32)
    parts = [value_and_gradient(logits[b : b + 1], TARGETS[b : b + 1], weights[b : b + 1])[0] for b in range(B)]
    whole = value_and_gradient(logits, TARGETS, weights)[0]
    reference.assert_close(sum(parts), whole, terms=B * T)


def test_bfloat16_logits_are_summed_in_float32():
    logits, weights = jnp.asarray(reference.normal(1, B, T, W), jnp.bfloat16), np.ones((B, T), np.float32)
    got, _ = value_and_gradient(logits, TARGETS, weights)
    assert got.dtype == jnp.float32
    reference.assert_close(got, nats(np.asarray(logits, np.float64), TARGETS, weights), terms=B * T * W)
