"""Finer knots: where they are, and the coefficients that keep a spline as it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops import bspline, knot_insertion
from tests import reference

insert_knots = jax.jit(knot_insertion.insert_knots, static_argnames="degree")
refine_knots = jax.jit(knot_insertion.refine_knots, static_argnames=("num_intervals", "degree"))
GOLDEN = pytest.mark.parametrize("stem", ["kan_layer_a", "kan_layer_b"])


def ragged_knots(degree, num_intervals=4, inputs=2):
    steps = 0.2 + np.random.default_rng(degree).random((inputs, num_intervals + 2 * degree))
    return -1.5 + np.concatenate([np.zeros((inputs, 1)), np.cumsum(steps, axis=1)], axis=1)


def spline(x, coef, knots, degree):
    return np.einsum("rdg,dfg->rdf", reference.bspline_basis(x, knots, degree), np.asarray(coef, np.float64))


def on_grid(knots, degree, count=33):
    """Samples from the first to the last point of each input's grid, the ends among them: `[count, D]`."""
    low, high = knots[:, degree], knots[:, -degree - 1]
    return low + (high - low) * np.linspace(0, 1, count)[:, None]


@functools.cache
def coefficients(degree):
    return reference.normal(7, 2, 3, 4 + degree, dtype=np.float64)


@pytest.mark.parametrize("degree", range(6))
@pytest.mark.usefixtures("x64")
def test_a_spline_is_the_same_on_all_its_knots_and_more_everywhere(degree):
    knots = ragged_knots(degree)
    rng = np.random.default_rng(9)
    more = rng.uniform(knots[:, :1], knots[:, -1:], (2, 5))
    more[:, -2:] = knots[:, degree + 1 : degree + 3]  # on top of old ones
    # Outside the grid a new knot takes an old function's end out of reach, so the old ends stay first and last.
    new = np.sort(np.concatenate([knots, more[:, -2:], np.clip(more[:, :3], *_ends(knots, degree))], axis=1), axis=1)
    got = insert_knots(coefficients(degree), knots, new, degree)
    x = rng.uniform(knots[:, 0], knots[:, -1], (60, 2))
    want = spline(x, coefficients(degree), knots, degree)
    reference.assert_close(spline(x, got, new, degree), want, atol=1e-12 * np.abs(want).max())


def _ends(knots, degree):
    return knots[:, degree : degree + 1], knots[:, -degree - 1 :][:, :1]


@pytest.mark.parametrize(("degree", "factor"), [(0, 2), (1, 3), (2, 2), (3, 1), (3, 3), (4, 2), (5, 2)])
@pytest.mark.usefixtures("x64")
def test_a_multiple_of_the_intervals_keeps_the_spline_on_the_grid(degree, factor):
    knots = ragged_knots(degree)
    new = refine_knots(knots, 4 * factor, degree)
    assert new.shape == (2, 4 * factor + 2 * degree + 1)
    np.testing.assert_array_equal(new[:, degree : new.shape[1] - degree : factor], knots[:, degree : degree + 5])
    x = on_grid(knots, degree)
    want = spline(x, coefficients(degree), knots, degree)
    got = insert_knots(coefficients(degree), knots, new, degree)
    last = slice(None) if degree else slice(-1)  # at degree 0 the end of the grid is on no function but the last one's
    reference.assert_close(spline(x, got, new, degree)[last], want[last], atol=1e-11 * np.abs(want).max())


@given(degree=st.integers(0, 5), data=st.data())
@settings(max_examples=6)
def test_refined_knots_lie_on_straight_lines_between_the_old_ones(degree, data):
    new_intervals = data.draw(st.integers(1, 11))
    with jax.enable_x64(True):
        knots = ragged_knots(degree)
        got = np.asarray(refine_knots(knots, new_intervals, degree))
    inner = knots[:, degree : degree + 5]
    at = np.linspace(0, 4, new_intervals + 1)
    want = np.stack([np.interp(at, np.arange(5), row) for row in inner])
    reference.assert_close(got[:, degree : degree + new_intervals + 1], want, atol=1e-14 * 50)
    step = (inner[:, -1] - inner[:, 0]) / new_intervals
    for side in (got[:, : degree + 1], got[:, got.shape[1] - degree - 1 :]):
        reference.assert_close(np.diff(side), np.repeat(step[:, None], degree, axis=1), atol=1e-14 * 50)


@pytest.mark.usefixtures("x64")
def test_knots_of_all_inputs_may_be_given_once():
    knots = ragged_knots(3)[0]
    new = refine_knots(knots, 8, 3)
    got = insert_knots(coefficients(3), knots, new, 3)
    want = insert_knots(coefficients(3), np.stack([knots] * 2), np.stack([new] * 2), 3)
    np.testing.assert_array_equal(got, want)


@pytest.mark.usefixtures("x64")
def test_insertion_is_linear_in_the_coefficients_and_so_is_its_gradient():
    knots = ragged_knots(3)
    new = refine_knots(knots, 8, 3)
    one, two = coefficients(3), coefficients(3)[:, ::-1]
    run = functools.partial(insert_knots, knots=knots, new_knots=new, degree=3)
    reference.assert_close(run(2 * one - two), 2 * np.asarray(run(one)) - np.asarray(run(two)), atol=1e-13)
    out, pull = jax.vjp(run, one)
    out_bar = reference.normal(3, *out.shape, dtype=np.float64)
    (pulled,) = pull(jnp.asarray(out_bar))
    assert abs(float(np.sum(out_bar * run(two)) - np.sum(pulled * two))) < 1e-12 * out.size


@GOLDEN
@pytest.mark.usefixtures("x64")
def test_refined_knots_and_the_spline_on_them_are_pykans(stem):
    z = reference.golden(stem)
    degree, num = int(z["order"]), int(z["num"])
    knots = refine_knots(z["grid"], 2 * num, degree)
    reference.assert_close(knots, z["refined_grid"], atol=1e-12)
    coef = insert_knots(z["coef"], z["grid"], knots, degree)
    # pykan fits what is exact here: its spline is off by the error of its least squares.
    got = spline(z["refine_x"], coef, np.asarray(knots), degree)
    scale = max(1.0, np.abs(z["refined_spline"]).max())
    reference.assert_close(got, z["refined_spline"], atol=1e-10 * scale)
    reference.assert_close(coef, z["refined_coef"], atol=1e-8 * max(1.0, np.abs(z["refined_coef"]).max()))


@pytest.mark.parametrize(
    ("num_intervals", "degree", "message"), [(0, 3, "num_intervals=0"), (4, 9, "at least 20 knots")]
)
def test_impossible_refinements_are_refused(num_intervals, degree, message):
    with pytest.raises(ValueError, match=message):
        knot_insertion.refine_knots(bspline.uniform_knots(-1.0, 1.0, 4, 3), num_intervals, degree)


def test_samples_without_weight_have_no_part_in_knots_and_fits():
    """For any number of samples that are left, from none to all: the knots of those alone, to the bit."""
    x, y = reference.normal(1, 12, 2), reference.normal(2, 12, 2, 3)
    order = np.random.default_rng(3).permutation(12)
    knots_of = jax.jit(bspline.adaptive_knots, static_argnames=("num_intervals", "degree"))
    uniform = reference.uniform_knots(-4, 4, 2, 1).astype(np.float32)
    fitted = jax.jit(lambda x, mask: bspline.fit(x, y, uniform, 1, sample_mask=mask))
    for count in (0, 1, 7, 10, 12):
        kept = np.sort(order[:count])
        mask = np.isin(np.arange(12), kept).astype(np.float32)
        far = np.where(mask[:, None] > 0, x, np.float32(np.nan))  # what has no weight may be anything
        got = knots_of(far, 5, 2, 0.3, mask)
        assert (np.diff(got, axis=1) > 0).all()
        if count:
            np.testing.assert_array_equal(got, knots_of(x[kept], 5, 2, 0.3))
        if count > 8:
            basis = reference.bspline_basis(x[kept], uniform, 1)
            got = np.einsum("rdg,dfg->rdf", basis, fitted(far, mask))
            coef = reference.bspline_fit(x[kept], y[kept], uniform, 1)
            reference.assert_close(got, np.einsum("rdg,dfg->rdf", basis, coef), terms=100)
        else:
            assert np.isfinite(fitted(far, mask)).all()
