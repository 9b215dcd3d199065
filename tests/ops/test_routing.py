import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops import routing
from tests import reference

OPTIONS = ("k", "score", "num_groups", "groups_per_token", "normalize", "scale")
top_k_gates = jax.jit(routing.top_k_gates, static_argnames=OPTIONS)
load = jax.jit(routing.load, static_argnums=1)
balance_loss = jax.jit(routing.balance_loss)
EPS = float(np.finfo(np.float32).eps)


def in_expert_order(gates, indices):
    order = np.argsort(indices, axis=-1)
    return np.take_along_axis(np.asarray(gates), order, -1), np.take_along_axis(np.asarray(indices), order, -1)


def assert_same_choice(got, want, atol=16 * EPS):
    """The same experts, whatever their order, each with its weight. A softmax over few experts rounds a few times."""
    (got_gates, got_indices), (want_gates, want_indices) = in_expert_order(*got), in_expert_order(*want)
    np.testing.assert_array_equal(got_indices, want_indices)
    reference.assert_close(got_gates, want_gates, atol=atol * max(1.0, np.abs(want_gates).max()))


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("num_groups", "groups_per_token", "normalize"), [(1, 1, False), (1, 1, True), (4, 2, False), (2, 1, True)]
)
def test_gates_are_the_definition(score, normalize, num_groups, groups_per_token):
    logits = 2 * reference.normal(0, 5, 7, 12)
    bias = 0.3 * reference.normal(1, 12)
    options = {
        "score": score,
        "bias": bias,
        "num_groups": num_groups,
        "groups_per_token": groups_per_token,
        "normalize": normalize,
        "scale": 2.5,
    }
    want = reference.top_k_gates(logits, 3, **options)
    got = top_k_gates(jnp.array(logits), 3, **options)
    assert got[0].shape == got[1].shape == (5, 7, 3)
    assert jnp.issubdtype(got[1].dtype, jnp.integer)
    assert_same_choice(got, want)


@given(
    groups=st.integers(1, 4),
    group_size=st.integers(1, 4),
    kept=st.integers(1, 4),
    k=st.integers(1, 4),
    lead=st.sampled_from([(16,), (2, 8), ()]),
    score=st.sampled_from(["softmax", "sigmoid"]),
    biased=st.booleans(),
    normalize=st.booleans(),
)
@settings(max_examples=15)
def test_gates_are_the_definition_on_any_shape(groups, group_size, kept, k, lead, score, biased, normalize):
    E, kept = groups * group_size, min(kept, groups)
    logits = reference.normal(E, *lead, E)
    options = {"score": score, "num_groups": groups, "groups_per_token": kept, "normalize": normalize, "scale": 2.5}
    options |= {"bias": 0.3 * reference.normal(9, E) if biased else None}
    k = min(k, kept * group_size)
    assert_same_choice(top_k_gates(logits, k, **options), reference.top_k_gates(logits, k, **options))


def test_a_group_is_worth_its_best_expert_or_the_sum_of_its_best_two():
    # Group 0 has the best expert, group 1 the best pair, group 2 the most in all.
    logits = jnp.log(jnp.array([[0.5, 0.01, 0.01, 0.4, 0.4, 0.01, 0.29, 0.29, 0.29]]))
    _, by_best = top_k_gates(logits, 1, score="softmax", num_groups=3, groups_per_token=1)
    np.testing.assert_array_equal(by_best, [[0]])
    p = np.array([[0.5, 0.01, 0.01, 0.4, 0.4, 0.01, 0.29, 0.29, 0.29]])
    _, by_pair = top_k_gates(jnp.log(jnp.array(p / (1 - p))), 2, score="sigmoid", num_groups=3, groups_per_token=1)
    np.testing.assert_array_equal(np.sort(by_pair), [[3, 4]])


def test_a_bias_decides_who_is_chosen_and_not_what_they_weigh():
    logits = jnp.array(reference.normal(2, 20, 6))
    bias = jnp.array([5.0, 0.0, 0.0, 0.0, 0.0, -5.0])
    for score, scores in (("softmax", reference.softmax), ("sigmoid", reference.sigmoid)):
        gates, indices = top_k_gates(logits, 2, score=score, bias=bias)
        assert (indices == 0).any(axis=-1).all()
        assert (indices != 5).all()
        want = np.take_along_axis(scores(np.asarray(logits, np.float64)), np.asarray(indices), -1)
        reference.assert_close(gates, want, atol=16 * EPS)
        bias_bar = jax.grad(lambda b, score=score: top_k_gates(logits, 2, score=score, bias=b)[0].sum())(bias)
        np.testing.assert_array_equal(bias_bar, np.zeros(6))


def test_a_group_that_was_kept_is_searched_however_low_its_bias():
    # All ranks are negative here; experts of dropped groups must not be preferred to them as if they had rank 0.
    logits = reference.normal(3, 30, 8)
    bias = np.linspace(-8.0, -2.0, 8).astype(np.float32)
    for score in ("softmax", "sigmoid"):
        options = {"score": score, "bias": bias, "num_groups": 4, "groups_per_token": 2}
        got = top_k_gates(jnp.array(logits), 4, **options)
        assert_same_choice(got, reference.top_k_gates(logits, 4, **options))


def test_choices_differ_even_when_all_experts_are_equal():
    for score in ("softmax", "sigmoid"):
        gates, indices = top_k_gates(
            jnp.zeros((4, 8)), 3, score=score, num_groups=4, groups_per_token=2, normalize=True
        )
        assert all(len(set(row)) == 3 for row in np.asarray(indices))
        reference.assert_close(gates, np.full((4, 3), 1 / 3), atol=4 * EPS)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_normalised_gates_sum_to_the_scale(score):
    gates, _ = top_k_gates(jnp.array(reference.normal(4, 9, 8)), 3, score=score, normalize=True, scale=2.5)
    reference.assert_close(gates.sum(axis=-1), np.full(9, 2.5), terms=3)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalize", [False, True])
def test_extreme_logits_give_finite_gates_and_gradients(score, normalize):
    logits = jnp.array([[-200.0] * 6, [-60.0] * 6, [200.0] * 6, [300.0, -300.0, 0.0, 10.0, -10.0, 5.0]])

    def total(logits):
        return (top_k_gates(logits, 2, score=score, normalize=normalize)[0] ** 2).sum()

    value, bar = jax.value_and_grad(total)(logits)
    assert np.isfinite(value)
    assert np.isfinite(bar).all()


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalize", [False, True])
def test_gates_are_differentiated_through_scores_and_sum(score, normalize):
    logits, bar = reference.normal(5, 6, 5), reference.normal(6, 6, 2)
    options = {"score": score, "normalize": normalize, "scale": 1.5}
    _, indices = top_k_gates(jnp.array(logits), 2, **options)

    def loss(logits):
        return (top_k_gates(logits, 2, **options)[0] * bar).sum()

    got = jax.grad(loss)(jnp.array(logits))
    # Of w = scale s / sum of the chosen s, or scale s: by hand, from the scores' own derivatives.
    logits = logits.astype(np.float64)
    s = reference.softmax(logits) if score == "softmax" else reference.sigmoid(logits)
    chosen = np.eye(5)[np.asarray(indices)]  # [rows, N, E]
    picked, s_bar = np.einsum("rne,re->rn", chosen, s), bar.astype(np.float64)
    if normalize:
        total = picked.sum(axis=-1, keepdims=True)
        s_bar = (s_bar - (s_bar * picked).sum(axis=-1, keepdims=True) / total) / total
    s_bar = 1.5 * np.einsum("rn,rne->re", s_bar, chosen)
    through_softmax = s * (s_bar - (s * s_bar).sum(axis=-1, keepdims=True))
    want = through_softmax if score == "softmax" else s_bar * s * (1 - s)
    reference.assert_close(got, want, terms=10)


def test_scores_are_single_precision_whatever_the_logits():
    logits = jnp.array(reference.normal(7, 9, 8), jnp.bfloat16)
    got = top_k_gates(logits, 3, score="softmax")
    want = reference.top_k_gates(np.asarray(logits, np.float64), 3, score="softmax")
    reference.assert_close(np.sort(got[0], axis=-1), np.sort(want[0], axis=-1), atol=16 * EPS)


# --- Load and balance --------------------------------------------------------------------------------------------


def test_load_counts_choices_over_all_leading_dimensions():
    indices = np.random.default_rng(0).integers(0, 6, (3, 5, 2))
    want = [(indices == e).sum() for e in range(7)]
    got = load(jnp.array(indices), 7)
    np.testing.assert_array_equal(got, want)
    mask = reference.normal(8, 3, 5)
    want = [((indices == e).sum(axis=-1) * mask.astype(np.float64)).sum() for e in range(7)]
    reference.assert_close(load(jnp.array(indices), 7, mask=jnp.array(mask)), want, terms=30)


@pytest.mark.parametrize("masked", [False, True])
def test_balance_loss_is_the_definition(masked):
    scores = reference.softmax(reference.normal(9, 3, 7, 6)).astype(np.float32)
    indices = np.argsort(-scores, axis=-1)[..., :2]
    mask = np.random.default_rng(1).random((3, 7)) < 0.6 if masked else None
    got = balance_loss(jnp.array(scores), jnp.array(indices), None if mask is None else jnp.array(mask))
    assert got.shape == ()
    reference.assert_close(got, reference.balance_loss(scores, indices, mask), terms=21)


def test_balance_loss_is_one_when_balanced_and_larger_when_not():
    scores = np.full((12, 6), 1 / 6, np.float32)
    indices = np.arange(24).reshape(12, 2) % 6
    reference.assert_close(balance_loss(scores, indices), 1.0, terms=12)
    one_sided = np.tile(np.eye(6, dtype=np.float32)[0], (12, 1))
    reference.assert_close(balance_loss(one_sided, np.tile([0, 0], (12, 1))), 6.0, terms=12)


def test_masked_tokens_have_no_part_in_the_balance_loss():
    scores = reference.softmax(reference.normal(10, 9, 6)).astype(np.float32)
    indices = np.random.default_rng(2).integers(0, 6, (9, 2))
    mask = np.arange(9) < 5
    loss, bar = balance_loss(scores, indices, mask), jax.grad(balance_loss)(scores, indices, mask)
    scores[5:], indices[5:] = 3.0, 0
    assert loss == balance_loss(scores, indices, mask)
    reference.assert_close(loss, reference.balance_loss(scores[:5], indices[:5]), terms=5)
    np.testing.assert_array_equal(bar[5:], np.zeros((4, 6)))
    assert (np.asarray(bar[:5]) != 0).any()
    assert balance_loss(scores, indices, np.zeros(9, bool)) == 0
    # Sigmoids of very negative logits are 0, and so may be padding.
    scores[5:] = 0
    assert loss == balance_loss(scores, indices, mask)
    assert np.isfinite(jax.grad(balance_loss)(scores, indices, mask)).all()


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_the_balance_loss_of_either_score_is_one_when_balanced(score):
    logits = jnp.array([[np.roll([2.0, 1.0, 0.0, -1.0], i)] for i in range(4)])
    scores = jax.nn.softmax(logits) if score == "softmax" else jax.nn.sigmoid(logits)
    _, indices = top_k_gates(logits, 2, score=score)
    reference.assert_close(balance_loss(scores, indices), 1.0, terms=4)


def test_the_gradient_of_the_balance_loss_lowers_the_scores_of_loaded_experts():
    logits = reference.normal(11, 8, 5)
    indices = np.random.default_rng(3).integers(0, 5, (8, 2))
    f = 5 / (2 * 8) * np.array([(indices == e).sum() for e in range(5)])
    s = reference.softmax(logits.astype(np.float64))
    # f is a count and has no gradient; the mean over 8 tokens and the softmax have.
    want = s * (f - (s * f).sum(axis=-1, keepdims=True)) / 8
    got = jax.grad(lambda x: balance_loss(jax.nn.softmax(x), jnp.array(indices)))(jnp.array(logits))
    reference.assert_close(got, want, terms=8 * 5)


def routed(seed, *shape, k=2):
    """(logits, scores, indices, mask) of rows of different lengths, the last of them padding alone."""
    logits = reference.normal(seed, *shape)
    mask = np.arange(shape[1])[None] < np.linspace(shape[1], 0, shape[0]).astype(int)[:, None]
    return logits, reference.softmax(logits).astype(np.float32), np.argsort(-logits, axis=-1)[..., :k], mask


def test_the_sequence_balance_loss_is_the_mean_of_each_sequence_s():
    _, scores, indices, mask = routed(17, 4, 7, 6)
    loss = jax.jit(jax.value_and_grad(routing.sequence_balance_loss))
    value, bar = loss(scores, indices, mask)
    reference.assert_close(value, reference.sequence_balance_loss(scores, indices, mask), terms=7)
    assert loss(scores, indices, np.zeros_like(mask))[0] == 0
    # Of a mean over three sequences, the gradient is a third of each one's own.
    alone = jax.jit(jax.grad(routing.balance_loss))
    for b in range(3):
        reference.assert_close(bar[b], alone(scores[b], indices[b], mask[b]) / 3, terms=7)
    assert not bar[3].any()
    # One expert in each sequence: even over the batch, as uneven as can be within each sequence.
    scores = np.broadcast_to(np.eye(4)[:, None], (4, 5, 4)).astype(np.float32)
    indices = np.broadcast_to(np.arange(4)[:, None, None], (4, 5, 1))
    reference.assert_close(balance_loss(scores, indices), 1.0, terms=20)
    reference.assert_close(jax.jit(routing.sequence_balance_loss)(scores, indices), 4.0, terms=5)


@pytest.mark.parametrize("num_groups", [1, 3, 6])
def test_the_device_balance_loss_is_the_definition(num_groups):
    _, scores, indices, mask = routed(18, 4, 7, 6)
    loss = jax.jit(jax.value_and_grad(routing.device_balance_loss), static_argnums=2)
    loss, bar = loss(scores, indices, num_groups, mask)
    reference.assert_close(loss, reference.device_balance_loss(scores, indices, num_groups, mask), terms=28)
    # Linear in P: each expert's mean share is weighed by the mean frequency of its device.
    num_tokens = mask.sum()
    f = [6 / (2 * num_tokens) * (indices[mask] == e).sum() for e in range(6)]
    f = np.repeat(np.mean(np.reshape(f, (num_groups, -1)), axis=1), 6 // num_groups)
    s = scores.astype(np.float64)
    total = s.sum(axis=-1, keepdims=True)
    want = mask[..., None] * (f - (s * f).sum(axis=-1, keepdims=True) / total) / total / num_tokens
    reference.assert_close(bar, want, terms=28, atol=reference.tolerance(f, 28) / num_tokens)
    if num_groups == 1:
        reference.assert_close(loss, 1.0, terms=28)
    if num_groups == 6:
        reference.assert_close(loss, balance_loss(scores, indices, mask), terms=28)
    with pytest.raises(ValueError, match="num_groups=4 does not divide num_experts=6"):
        routing.device_balance_loss(scores, indices, 4)


def test_the_z_loss_is_the_mean_square_of_the_logsumexp_and_its_gradient_is_finite():
    logits, _, _, mask = routed(19, 4, 7, 6)
    logits = 3 * logits
    z_loss = jax.jit(jax.value_and_grad(routing.z_loss))
    loss, bar = z_loss(logits, mask)
    reference.assert_close(loss, reference.z_loss(logits, mask), terms=28)
    size = np.log(np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True))
    want = mask[..., None] * 2 * size * reference.softmax(logits.astype(np.float64)) / mask.sum()
    reference.assert_close(bar, want, terms=6)
    assert z_loss(logits, np.zeros_like(mask))[0] == 0
    logits[0, 0], logits[0, 1] = [1e4, -1e4, 0.0, 0.0, 0.0, 0.0], -1e4
    assert all(np.isfinite(leaf).all() for leaf in z_loss(logits, mask))


def test_bias_moves_by_the_rate_towards_the_mean_load():
    bias = np.array([0.5, 0.0, -0.25, 1.0], np.float32)
    counts = np.array([10, 2, 6, 6], np.float32)
    got = routing.update_bias(jnp.array(bias), jnp.array(counts), 0.125)
    np.testing.assert_array_equal(got, [0.375, 0.125, -0.25, 1.0])
    counts = load(jnp.array([[0, 1], [0, 2]]), 4)
    np.testing.assert_array_equal(routing.update_bias(jnp.zeros(4), counts, 0.5), [-0.5, 0.0, 0.0, 0.5])


# --- DeepSeek's routers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_gates_are_deepseeks(score):
    z = reference.golden(f"moe_{score}")
    got = top_k_gates(
        jnp.array(z["router_logits"]),
        int(z["top_k"]),
        score=score,
        bias=jnp.array(z["param/gate.e_score_correction_bias"], jnp.float32) if score == "sigmoid" else None,
        num_groups=int(z["n_group"]),
        groups_per_token=int(z["topk_group"]),
        normalize=bool(z["norm_topk_prob"]),
        scale=float(z["routed_scaling_factor"]),
    )
    assert_same_choice(got, (z["topk_weights"], z["topk_indices"]), atol=1e-6)
