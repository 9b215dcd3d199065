import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops import dispatch
from tests import reference

# --- Into expert order and back ----------------------------------------------------------------------------------


def test_an_assignment_sorts_all_choices_by_expert_and_dispatch_follows_it():
    indices = np.random.default_rng(4).integers(0, 5, (7, 2))
    x = reference.normal(12, 7, 3)
    assignment = dispatch.assign(jnp.array(indices), 6)
    np.testing.assert_array_equal(assignment.group_sizes_E, [(indices == e).sum() for e in range(6)])
    want = [x[t] for e in range(6) for t, n in np.argwhere(indices == e)]
    np.testing.assert_array_equal(dispatch.dispatch(jnp.array(x), assignment, 2), want)


def test_combine_gives_each_token_its_own_rows_weighed_and_both_gradients_follow():
    indices = np.random.default_rng(5).integers(0, 5, (7, 2))
    x, gates, bar = reference.normal(13, 7, 3), reference.normal(14, 7, 2), reference.normal(15, 7, 3)
    factor = reference.normal(16, 5)  # what each expert does here: multiply
    assignment = dispatch.assign(jnp.array(indices), 5)
    factor_of_row = np.repeat(factor, assignment.group_sizes_E)[:, None]

    def layer(x, gates):
        return dispatch.combine(dispatch.dispatch(x, assignment, 2) * factor_of_row, gates, assignment)

    out, vjp = jax.vjp(layer, jnp.array(x), jnp.array(gates))
    x_bar, gates_bar = vjp(jnp.array(bar))
    per_token = (gates.astype(np.float64) * factor[indices]).sum(axis=1, keepdims=True)
    reference.assert_close(out, x * per_token, terms=2)
    reference.assert_close(x_bar, bar * per_token, terms=2)
    along = (x.astype(np.float64) * bar).sum(axis=1, keepdims=True)
    reference.assert_close(gates_bar, factor[indices] * along, terms=3)


# --- Capacity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "want"),
    [((33, 8, 3, 1.0), 13), ((32, 8, 2, 1.25), 10), ((1, 8, 2, 1.0), 1), ((4, 8, 2, 100.0), 4), ((7, 4, 1, 0.01), 1)],
)
def test_capacity_is_the_factor_times_the_even_part_rounded_up(arguments, want):
    assert dispatch.capacity(*arguments) == want


@pytest.mark.parametrize(("E", "N", "capacity"), [(2, 1, 3), (5, 2, 2), (5, 3, 9)])
def test_choices_beyond_capacity_are_dropped_in_order(E, N, capacity):
    rng = np.random.default_rng(E * N)
    indices = np.stack([rng.permutation(E)[:N] for _ in range(9)])
    mask, x = rng.random(9) < 0.8, reference.normal(20, 9, 3)

    @jax.jit
    def place(indices, mask, x):
        assignment = dispatch.assign_with_capacity(indices, E, capacity, mask)
        return assignment, dispatch.has_row(assignment), dispatch.dispatch(x, assignment, N)

    assignment, has_row, rows = place(indices, mask.astype(np.float32), x)
    want = reference.within_capacity(indices, E, capacity, mask)
    assert want.all() == (capacity == 9 and mask.all())
    np.testing.assert_array_equal(np.asarray(has_row).reshape(9, N), want)
    assert assignment.order_R.shape == (E * capacity,)
    np.testing.assert_array_equal(assignment.group_sizes_E, np.full(E, capacity))
    # Each expert's rows are its kept tokens in order, then nothing.
    for e, got in enumerate(np.asarray(rows).reshape(E, capacity, 3)):
        tokens = np.argwhere(want & (indices == e))[:, 0]
        np.testing.assert_array_equal(got, np.concatenate([x[tokens], np.zeros((capacity - len(tokens), 3))]))


def test_dropped_choices_have_no_part_in_values_or_gradients():
    indices = np.random.default_rng(5).integers(0, 5, (7, 2))
    indices[:, 1] = (indices[:, 0] + 1) % 5
    x, gates, bar = reference.normal(13, 7, 3), reference.normal(14, 7, 2), reference.normal(15, 7, 3)
    factor = reference.normal(16, 5)
    assignment = jax.jit(lambda indices: dispatch.assign_with_capacity(indices, 5, 2))(indices)
    kept = reference.within_capacity(indices, 5, 2, np.ones(7))
    assert 0 < kept.sum() < kept.size

    def layer(x, gates):
        rows = dispatch.dispatch(x, assignment, 2) * np.repeat(factor, 2)[:, None]
        return dispatch.combine(rows, gates, assignment)

    out, vjp = jax.vjp(layer, jnp.array(x), jnp.array(gates))
    x_bar, gates_bar = vjp(jnp.array(bar))
    gain = np.where(kept, factor[indices].astype(np.float64), 0)
    per_token = (gates * gain).sum(axis=1, keepdims=True)
    reference.assert_close(out, x * per_token, terms=2)
    reference.assert_close(x_bar, bar * per_token, terms=2)
    reference.assert_close(gates_bar, gain * (x.astype(np.float64) * bar).sum(axis=1, keepdims=True), terms=3)


@given(
    tokens=st.integers(1, 9), E=st.integers(1, 4), choices=st.integers(1, 2), capacity=st.integers(1, 6), data=st.data()
)
@settings(max_examples=10)
def test_any_capacity_keeps_the_choices_of_the_definition(tokens, E, choices, capacity, data):
    choices = min(choices, E)
    each = st.permutations(range(E)).map(lambda experts: experts[:choices])
    indices = np.array(data.draw(st.lists(each, min_size=tokens, max_size=tokens)), np.int32)
    mask = np.array(data.draw(st.lists(st.integers(0, 1), min_size=tokens, max_size=tokens)), np.float32)
    assign = jax.jit(dispatch.assign_with_capacity, static_argnums=(1, 2))
    assignment = assign(indices, E, capacity, mask)
    kept = np.asarray(dispatch.has_row(assignment)).reshape(indices.shape)
    np.testing.assert_array_equal(kept, reference.within_capacity(indices, E, capacity, mask))
