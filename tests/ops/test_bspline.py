import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops import bspline, uniform_bspline
from tests import reference

DEGREES = range(6)
# Compiled: dozens of small operations, each new to each shape, take longer one by one.
basis = jax.jit(bspline.basis, static_argnames="degree")
fit = jax.jit(bspline.fit, static_argnames="degree")
adaptive_knots = jax.jit(bspline.adaptive_knots, static_argnames=("num_intervals", "degree"))


@functools.partial(jax.jit, static_argnames=("low", "high", "num_intervals", "degree"))
def uniform_basis(x, low, high, num_intervals, degree):
    """Production writes it `[..., G, D]`; here it is read like `basis`, `[..., D, G]`."""
    grid = uniform_bspline.UniformGrid(low, high, num_intervals, degree)
    return jnp.swapaxes(uniform_bspline.basis(x, grid), -1, -2)


GOLDEN = pytest.mark.parametrize("stem", ["kan_layer_a", "kan_layer_b"])


LOW, HIGH, INTERVALS = -0.7, 1.3, 5


@functools.partial(jax.jit, static_argnames="degree")
def basis_and_pull_back(x, knots, cotangent, degree):
    values, vjp = jax.vjp(lambda x: bspline.basis(x, knots, degree), x)
    return values, vjp(cotangent)[0]


@functools.partial(jax.jit, static_argnames="degree")
def uniform_basis_and_pull_back(x, cotangent, degree):
    values, vjp = jax.vjp(lambda x: uniform_basis(x, LOW, HIGH, INTERVALS, degree), x)
    return values, vjp(cotangent)[0]


def clamped_knots(degree):
    """End knots repeated as often as they may be, a double knot inside, unequal steps; the same for two inputs."""
    row = [-1.0] * (degree + 1) + [-0.6, 0.1, 0.1, 0.25] + [1.0] * (degree + 1)
    return np.array([row, row])


def ragged_knots(degree):
    """Unequal steps, no repeats, different for each of two inputs."""
    steps = 0.1 + np.random.default_rng(degree).random((2, 5 + 2 * degree))
    return -1.5 + np.concatenate([np.zeros((2, 1)), np.cumsum(steps, axis=1)], axis=1)


def points(knots, count=41, seed=0):
    """Random ones inside and outside, then every knot itself: `[count + M, 2]`."""
    knots = np.broadcast_to(knots, (2, knots.shape[-1]))
    low, high = knots.min(), knots.max()
    inside = np.random.default_rng(seed).uniform(low - 0.5, high + 0.5, (count, 2))
    return np.concatenate([inside, knots.T])


def basis_tolerance(degree, dtype):
    """`degree` steps of Cox-de Boor, convex inside: every value is at most 1."""
    return reference.tolerance(np.ones(1), degree + 1, dtype)


def uniform_tolerance(intervals, degree):
    """The argument is counted in steps, up to all of them and those outside, and no basis is steeper than 1 a step."""
    return 8 * float(np.finfo(np.float64).eps) * (intervals + 2 * degree + 2)


# --- Knots and basis ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", DEGREES)
def test_uniform_knots_are_equal_steps_and_degree_more_on_each_side(degree):
    knots = bspline.uniform_knots(-0.7, 1.3, 5, degree)
    assert knots.shape == (5 + 2 * degree + 1,)
    want = reference.uniform_knots(-0.7, 1.3, 5, degree)
    reference.assert_close(knots, want)
    assert (np.diff(knots) > 0).all()


@pytest.mark.parametrize("knots_of", [clamped_knots, ragged_knots])
@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.usefixtures("x64")
def test_basis_and_its_gradient_are_cox_de_boors_on_any_knots(degree, knots_of):
    knots = knots_of(degree)
    x = points(knots)
    want = reference.bspline_basis(x, knots, degree)
    cotangent = reference.normal(1, *want.shape, dtype=np.float64)
    got, x_bar = basis_and_pull_back(x, knots, cotangent, degree)
    reference.assert_close(got, want, atol=basis_tolerance(degree, np.float64))
    # Off the knots: with repeats, or at degree 1, there are kinks on them.
    slope = (reference.bspline_slope(x, knots, degree) * cotangent)[:41]
    atol = reference.tolerance(slope, slope.shape[-1], np.float64)
    reference.assert_close(x_bar[:41], slope.sum(axis=-1), atol=atol)
    assert np.isfinite(x_bar).all()


@pytest.mark.parametrize("degree", DEGREES)
def test_basis_is_cox_de_boor_in_single_precision(degree):
    knots = ragged_knots(degree).astype(np.float32)
    x = points(knots).astype(np.float32)
    want = reference.bspline_basis(x, knots, degree)
    reference.assert_close(basis(x, jnp.array(knots), degree), want, atol=basis_tolerance(degree, np.float32))


@pytest.mark.usefixtures("x64")
def test_basis_takes_any_leading_dimensions_and_knots_of_one_or_of_each_input():
    knots = ragged_knots(3)
    x = points(knots)[:24]
    want, atol = reference.bspline_basis(x, knots, 3), basis_tolerance(3, np.float64)
    reference.assert_close(basis(x.reshape(2, 3, 4, 2), knots, 3), want.reshape(2, 3, 4, 2, -1), atol=atol)
    reference.assert_close(basis(x[0], knots, 3), want[0], atol=atol)
    reference.assert_close(basis(x, knots[0], 3), reference.bspline_basis(x, knots[0], 3), atol=atol)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.usefixtures("x64")
def test_basis_is_a_partition_of_unity_from_the_first_point_of_the_grid_to_the_last(degree):
    for knots in (ragged_knots(degree), clamped_knots(degree)):
        low, high = knots[:, degree], knots[:, -degree - 1]
        x = np.clip(points(knots), low, high)  # many of them both ends exactly
        assert all(((x == end).sum(axis=0) > 1).all() for end in (low, high))
        total = basis(x, knots, degree).sum(axis=-1)
        reference.assert_close(total, np.ones_like(x), atol=basis_tolerance(degree, np.float64))


@pytest.mark.parametrize("degree", range(1, 6))
@pytest.mark.usefixtures("x64")
def test_uniform_basis_is_a_partition_of_unity_including_both_ends(degree):
    x = np.clip(points(reference.uniform_knots(LOW, HIGH, INTERVALS, degree)), LOW, HIGH)
    values, _ = uniform_basis_and_pull_back(x, np.zeros((*x.shape, INTERVALS + degree)), degree)
    reference.assert_close(values.sum(axis=-1), np.ones_like(x), atol=uniform_tolerance(INTERVALS, degree))


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.usefixtures("x64")
def test_uniform_basis_and_its_gradient_are_cox_de_boors_on_uniform_knots(degree):
    knots = reference.uniform_knots(LOW, HIGH, INTERVALS, degree)
    x = points(knots)
    want = reference.bspline_basis(x, knots, degree)
    cotangent = reference.normal(1, *want.shape, dtype=np.float64)
    got, x_bar = uniform_basis_and_pull_back(x, cotangent, degree)
    # Degree 0 jumps at the knots, where rounding may choose the other side; degree 1 has its kinks there.
    atol = uniform_tolerance(INTERVALS, degree)
    some = slice(None) if degree else slice(41)
    reference.assert_close(got[some], want[some], atol=atol)
    # Slopes are in 1/step, and at least for degree 2 and more they bend by at most 1/step^2.
    slope = (reference.bspline_slope(x, knots, degree) * cotangent)[:41]
    atol *= np.abs(cotangent).max() * (degree + 1) * INTERVALS / (HIGH - LOW)
    reference.assert_close(x_bar[:41], slope.sum(axis=-1), atol=atol)


@pytest.mark.usefixtures("x64")
def test_degree_zero_is_one_interval_each_and_the_last_one_is_closed():
    # Knots that are exact numbers.
    x = np.array([-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.25])[:, None]
    want = np.zeros((9, 1, 4))
    for row, g in enumerate([None, 0, 0, 1, 1, 2, 3, 3, None]):
        if g is not None:
            want[row, 0, g] = 1
    np.testing.assert_array_equal(basis(x, np.linspace(0, 2, 5), 0), want)
    np.testing.assert_array_equal(uniform_basis(x, 0.0, 2.0, 4, 0), want)


@pytest.mark.parametrize("degree", [1, 3])
def test_half_precision_inputs_find_their_place_on_the_grid_in_single(degree):
    x = jnp.asarray(points(reference.uniform_knots(LOW, HIGH, INTERVALS, degree)), jnp.bfloat16)
    knots = reference.uniform_knots(LOW, HIGH, INTERVALS, degree)
    want = reference.bspline_basis(np.asarray(x, np.float64), knots, degree)
    # Values of at most 1 may be rounded, once; a place on the grid that is rounded to bfloat16 is off by four of these.
    atol = float(jnp.finfo(jnp.bfloat16).eps)
    reference.assert_close(basis(x, jnp.array(knots, jnp.float32), degree), want, atol=atol)
    reference.assert_close(uniform_basis(x, LOW, HIGH, INTERVALS, degree), want, atol=atol)


@given(
    degree=st.integers(0, 5),
    intervals=st.integers(1, 7),
    low=st.floats(-3, 3),
    width=st.floats(0.25, 8),
    lead=st.sampled_from([(), (3,), (2, 3)]),
)
@settings(max_examples=8)
def test_uniform_basis_is_cox_de_boor_for_any_grid(degree, intervals, low, width, lead):
    with jax.enable_x64(True):
        high = low + width
        x = np.random.default_rng(intervals).uniform(low - 0.7 * width, high + 0.7 * width, (*lead, 2))
        want = reference.bspline_basis(x, reference.uniform_knots(low, high, intervals, degree), degree)
        got = uniform_basis(x, low, high, intervals, degree)
        steps = (abs(low) + 2 * width) / width * intervals + degree
        reference.assert_close(got, want, atol=8 * np.finfo(np.float64).eps * steps)


@pytest.mark.usefixtures("x64")
def test_basis_fades_to_zero_outside_the_grid():
    step = 0.4
    x = np.array([1.0, 1.0 + 1.25 * step, 1.0 + 3 * step, 1.0 + 3.1 * step, -1.0 - 1.25 * step, -1.0 - 3 * step])[
        :, None
    ]
    knots = reference.uniform_knots(-1, 1, 5, 3)
    for values in (basis(x, bspline.uniform_knots(-1.0, 1.0, 5, 3), 3), uniform_basis(x, -1.0, 1.0, 5, 3)):
        total = np.asarray(values.sum(axis=-1))[:, 0]
        assert [f"{t:.4f}" for t in total] == ["1.0000", "0.6823", "0.0000", "0.0000", "0.6823", "0.0000"]
        assert total[3] == 0.0
        reference.assert_close(values, reference.bspline_basis(x, knots, 3), atol=uniform_tolerance(5, 3))


# --- Gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.usefixtures("x64")
def test_gradient_on_the_knots_themselves_is_the_derivative(degree):
    knots = reference.uniform_knots(LOW, HIGH, INTERVALS, degree)
    x = points(knots)
    x[:41] = knots[degree + 1]
    slope = reference.bspline_slope(x, knots, degree)
    cotangent = reference.normal(2, *slope.shape, dtype=np.float64)
    want = (slope * cotangent).sum(axis=-1)
    atol = uniform_tolerance(INTERVALS, degree)
    atol *= np.abs(cotangent).max() * (degree + 1) * INTERVALS / (HIGH - LOW)
    # The slope bends by 1/step^2 for each unit of rounding at degree 2, where it has kinks; it has no jumps.
    for _, x_bar in (
        basis_and_pull_back(x, knots, cotangent, degree),
        uniform_basis_and_pull_back(x, cotangent, degree),
    ):
        reference.assert_close(x_bar, want, atol=atol)


@pytest.mark.parametrize("degree", [0, 1, 3, 5])
def test_far_outside_values_and_gradients_are_exact_zeros(degree):
    x = np.array([[1e4], [-1e4], [1e6], [-1e6]], np.float32)
    knots = reference.uniform_knots(LOW, HIGH, INTERVALS, degree).astype(np.float32)
    ones = np.ones((4, 1, INTERVALS + degree), np.float32)
    for values, x_bar in (
        basis_and_pull_back(x, knots, ones, degree),
        uniform_basis_and_pull_back(x, ones, degree),
    ):
        np.testing.assert_array_equal(values, np.zeros_like(ones))
        np.testing.assert_array_equal(x_bar, np.zeros_like(x))


@pytest.mark.parametrize("degree", [1, 3, 5])
@pytest.mark.parametrize("gap", [1e-3, 1e-6])
def test_far_from_crowded_knots_values_and_gradients_are_exact_zeros(degree, gap):
    # What adaptive knots make of a feature that hardly varies, and then meets an outlier.
    knots = (np.arange(5 + 2 * degree + 1) * gap).astype(np.float32)
    x = np.array([[1e4], [-1e4], [1.0], [-1.0]], np.float32)
    ones = np.ones((4, 1, 5 + degree), np.float32)
    values, x_bar = basis_and_pull_back(x, knots, ones, degree)
    np.testing.assert_array_equal(values, np.zeros_like(ones))
    np.testing.assert_array_equal(x_bar, np.zeros_like(x))


# --- Fit ---------------------------------------------------------------------------------------------------------


def fitted(x, y, knots, degree, **options):
    """Values of the fitted spline, evaluated by the oracle: `[R, D, F]`."""
    coef = np.asarray(fit(jnp.asarray(x), jnp.asarray(y), jnp.asarray(knots), degree, **options), np.float64)
    knot_rows = np.broadcast_to(knots, (x.shape[1], np.shape(knots)[-1]))
    assert coef.shape == (x.shape[1], y.shape[2], knot_rows.shape[-1] - degree - 1)
    assert np.isfinite(coef).all()
    return np.einsum("rdg,dfg->rdf", reference.bspline_basis(x, knot_rows, degree), coef)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.usefixtures("x64")
def test_fit_reproduces_every_spline_of_the_space(degree):
    knots = ragged_knots(degree)
    rng = np.random.default_rng(degree)
    low, high = knots[:, degree], knots[:, -degree - 1]
    x = rng.uniform(low, high, (200, 2))
    values = reference.bspline_basis(x, knots, degree)
    coef = rng.standard_normal((2, 3, values.shape[-1]))
    y = np.einsum("rdg,dfg->rdf", values, coef)
    # The ridge biases by its square, not by itself: the second solve takes up what the first has left.
    reference.assert_close(fitted(x, y, knots, degree), y, atol=1e-10 * np.abs(y).max())


@pytest.mark.usefixtures("x64")
def test_fit_is_least_squares():
    knots = ragged_knots(3)
    rng = np.random.default_rng(5)
    x = rng.uniform(knots[:, 3], knots[:, -4], (120, 2))
    y = rng.standard_normal((120, 2, 3))
    want = np.einsum("rdg,dfg->rdf", reference.bspline_basis(x, knots, 3), reference.bspline_fit(x, y, knots, 3))
    reference.assert_close(fitted(x, y, knots, 3), want, atol=1e-5 * np.abs(y).max())


def test_a_larger_ridge_gives_smaller_coefficients():
    knots = reference.uniform_knots(-1, 1, 4, 3)
    x = reference.normal(0, 80, 1).clip(-1, 1)
    y = reference.normal(1, 80, 1, 2)
    sizes = [float(jnp.linalg.norm(fit(x, y, jnp.array(knots), 3, ridge=r))) for r in (1e-6, 1e-1, 1e3)]
    assert sizes[0] > 1.01 * sizes[1] > 1.01 * sizes[2]
    assert sizes[2] < 0.1 * sizes[0]


DEGENERATE = {
    "constant": np.full((40, 2), 0.3),
    "zero": np.zeros((40, 2)),
    "binary": np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], (10, 1)),
    "one row": np.array([[0.3, -0.2]]),
    "two rows": np.array([[0.3, -0.2], [0.4, 0.9]]),
    "far outside": np.tile([[1e4, -1e4]], (40, 1)),
    "one far row": np.concatenate([np.linspace(-1, 1, 78).reshape(39, 2), [[1e4, -1e4]]]),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("degree", [0, 3])
def test_fit_is_finite_on_degenerate_inputs(name, degree):
    x = DEGENERATE[name].astype(np.float32)
    y = 1.0 + reference.normal(3, *x.shape, 2)
    knots = reference.uniform_knots(-1, 1, 5, degree).astype(np.float32)
    values = fitted(x, y, knots, degree)
    # No more than it was asked for: the fit of an underdetermined spline does not blow up where it was asked.
    assert np.abs(values).max() <= 2 * np.abs(y).max()


@pytest.mark.parametrize("degree", [0, 3])
def test_fit_of_a_constant_input_is_the_mean(degree):
    x = np.full((50, 1), 0.3, np.float32)
    y = 2.0 + reference.normal(4, 50, 1, 2)
    knots = reference.uniform_knots(-1, 1, 5, degree).astype(np.float32)
    want = np.broadcast_to(y.astype(np.float64).mean(axis=0), y.shape)
    reference.assert_close(fitted(x, y, knots, degree), want, atol=1e-3 * np.abs(want).max())


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _sizes(inner)
        yield from (math.prod(out.aval.shape) for out in equation.outvars)


def test_fit_shares_one_factorisation_among_the_outputs():
    R, D, F, degree, intervals = 31, 3, 53, 2, 14
    G = intervals + degree
    knots = jnp.array(reference.uniform_knots(-1, 1, intervals, degree), jnp.float32)
    x, y = jnp.zeros((R, D)), jnp.zeros((R, D, F))
    largest = max(_sizes(jax.make_jaxpr(lambda x, y: bspline.fit(x, y, knots, degree))(x, y).jaxpr))
    # A copy of the basis, or of its Gram matrix, for each output would be F times larger than itself.
    shared = max((R + G) * F, (R + G) * G, G * G)
    for_each_output = min(R * G * F, G * G * F)
    assert 4 * shared < for_each_output
    assert largest <= 4 * D * shared < D * for_each_output


# --- Adaptive knots ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_adaptive_knots_with_fraction_one_are_uniform_from_least_to_greatest():
    x = reference.normal(0, 97, 3, dtype=np.float64)
    got = adaptive_knots(jnp.array(x), 6, 3, 1.0)
    want = np.stack([reference.uniform_knots(c.min(), c.max(), 6, 3) for c in x.T])
    reference.assert_close(got, want, atol=8 * np.finfo(np.float64).eps * np.abs(want).max())


@pytest.mark.usefixtures("x64")
def test_adaptive_knots_with_fraction_zero_put_equally_many_samples_in_each_interval():
    R, intervals, degree = 240, 6, 3
    x = np.exp(reference.normal(1, R, 2, dtype=np.float64))
    knots = np.asarray(adaptive_knots(jnp.array(x), intervals, degree, 0.0))
    assert knots.shape == (2, intervals + 2 * degree + 1)
    for d in range(2):
        inner = knots[d, degree:-degree]
        assert inner[0] == x[:, d].min()
        assert inner[-1] == x[:, d].max()
        # One sample more or less is the choice between definitions of a quantile.
        counts = np.histogram(x[:, d], inner)[0]
        assert np.abs(counts - R / intervals).max() <= 1, counts
        # Beyond the data the steps are the mean step, as in pykan.
        step = (inner[-1] - inner[0]) / intervals
        reference.assert_close(np.diff(knots[d, : degree + 1]), np.full(degree, step), atol=1e-13 * np.abs(knots).max())
        reference.assert_close(
            np.diff(knots[d, -degree - 1 :]), np.full(degree, step), atol=1e-13 * np.abs(knots).max()
        )


@pytest.mark.usefixtures("x64")
def test_adaptive_knots_mix_the_two_linearly():
    x = jnp.array(np.exp(reference.normal(2, 200, 2, dtype=np.float64)))
    zero, one, mixed = (np.asarray(adaptive_knots(x, 5, 2, e)) for e in (0.0, 1.0, 0.3))
    reference.assert_close(mixed, 0.3 * one + 0.7 * zero, atol=1e-13 * np.abs(one).max())
    assert np.abs(one - zero).max() > 0.1


@GOLDEN
@pytest.mark.usefixtures("x64")
def test_adaptive_knots_are_pykans_up_to_one_sample(stem):
    z = reference.golden(stem)
    degree, num, e = int(z["order"]), int(z["num"]), float(z["update_grid_eps"])
    x = np.sort(z["update_x"], axis=0)
    got = np.asarray(adaptive_knots(jnp.array(z["update_x"]), num, degree, e))
    want = z["updated_grid"]
    for d in range(x.shape[1]):
        for i in range(num + 1):
            # pykan takes the sample at or below the rank num_samples / num * i; a quantile lies next to it.
            rank = min(int(len(x) / num * i), len(x) - 1)
            near = x[[max(rank - 1, 0), rank, min(rank + 1, len(x) - 1)], d]
            room = max(near[2] - near[1], near[1] - near[0]) + 1e-12
            assert abs(got[d, degree + i] - want[d, degree + i]) <= room
    for side in (slice(0, degree), slice(-degree, None)):
        reference.assert_close(got[:, side], want[:, side], atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("fraction", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("name", DEGENERATE)
def test_adaptive_knots_of_degenerate_inputs_increase_and_carry_a_basis(name, fraction):
    degree = 3
    x = DEGENERATE[name].astype(np.float32)
    knots = adaptive_knots(x, 5, degree, fraction)
    assert knots.shape == (x.shape[1], 5 + 2 * degree + 1)
    assert np.isfinite(knots).all()
    assert (np.diff(knots, axis=1) > 0).all(), np.diff(knots, axis=1).min()
    values, x_bar = basis_and_pull_back(x, knots, np.ones((*x.shape, 5 + degree), np.float32), degree)
    # Samples at the ends may round out of the grid by an eps of their size, where a narrow basis begins to fade.
    narrow = np.diff(knots, axis=1).min()
    atol = 8 * np.finfo(np.float32).eps * max(1.0, float(np.abs(knots).max()) / narrow)
    reference.assert_close(values.sum(axis=-1), np.ones(x.shape), atol=min(atol, 0.5))
    assert np.isfinite(x_bar).all()
    y = 1.0 + reference.normal(3, *x.shape, 2)
    assert np.isfinite(fit(x, y, knots, degree)).all()


def test_half_precision_samples_have_knots_and_coefficients_in_single():
    x, y = (
        jnp.asarray(reference.normal(1, 40, 2), jnp.bfloat16),
        jnp.asarray(reference.normal(2, 40, 2, 3), jnp.bfloat16),
    )
    knots = adaptive_knots(x, 5, 3, 0.02)
    coef = fit(x, y, knots, 3)
    assert knots.dtype == coef.dtype == jnp.float32
    assert (np.diff(knots, axis=1) > 0).all()
    assert np.isfinite(coef).all()


# --- pykan's numbers ---------------------------------------------------------------------------------------------


@GOLDEN
@pytest.mark.usefixtures("x64")
def test_basis_spline_and_layer_are_pykans(stem):
    z = reference.golden(stem)
    values = basis(jnp.array(z["x"]), jnp.array(z["grid"]), int(z["order"]))
    reference.assert_close(values, z["basis"], atol=1e-10)
    spline = jnp.einsum("rdg,dfg->rfd", values, z["coef"])
    reference.assert_close(spline, z["postspline"], atol=1e-10)
    base = jnp.einsum("rd,df->rf", jax.nn.silu(z["x"]), z["scale_base"])
    reference.assert_close(base + jnp.einsum("rfd,df->rf", spline, z["scale_sp"]), z["y"], atol=1e-10)


@GOLDEN
@pytest.mark.usefixtures("x64")
def test_uniform_basis_is_pykans_on_its_first_grid(stem):
    z = reference.golden(stem)
    degree, num = int(z["order"]), int(z["num"])
    low, high = float(z["grid"][0, degree]), float(z["grid"][0, -degree - 1])
    reference.assert_close(uniform_basis(jnp.array(z["x"]), low, high, num, degree), z["basis"], atol=1e-10)


@GOLDEN
@pytest.mark.usefixtures("x64")
def test_refit_on_a_nested_grid_keeps_pykans_spline(stem):
    z = reference.golden(stem)
    got = fitted(z["refine_x"], z["parent_spline"], z["refined_grid"], int(z["order"]))
    reference.assert_close(got, z["parent_spline"], atol=1e-5 * np.abs(z["parent_spline"]).max())
