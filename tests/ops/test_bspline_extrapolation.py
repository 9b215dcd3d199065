"""What a spline does outside its grid: fade, clamp or go on in a straight line."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkabrn_jax.ops import bspline, uniform_bspline
from mixkabrn_jax.ops.uniform_bspline import UniformGrid
from tests import reference

LOW, HIGH, INTERVALS = -0.7, 1.3, 4


@functools.partial(jax.jit, static_argnames=("degree", "extrapolation"))
def recursion(x, knots, cotangent, degree, extrapolation):
    values, pull = jax.vjp(lambda x: bspline.basis(x, knots, degree, extrapolation), x)
    return values, pull(cotangent)[0]


@functools.partial(jax.jit, static_argnames=("degree", "extrapolation"))
def closed_form(x, cotangent, degree, extrapolation):
    def run(x):
        return jnp.swapaxes(uniform_bspline.basis(x, UniformGrid(LOW, HIGH, INTERVALS, degree, extrapolation)), -1, -2)

    values, pull = jax.vjp(run, x)
    return values, pull(cotangent)[0]


def points():
    """Inside, in the margin where splines would fade, beyond it, and the ends themselves: `[27, 2]`."""
    x = np.random.default_rng(0).uniform(LOW - 3, HIGH + 3, (25, 2))
    return np.concatenate([x, [[LOW, HIGH], [HIGH, LOW]]])


def ragged_knots(degree):
    """Unequal steps, different for each of two inputs."""
    steps = 0.1 + np.random.default_rng(degree).random((2, 4 + 2 * degree))
    return -1.5 + np.concatenate([np.zeros((2, 1)), np.cumsum(steps, axis=1)], axis=1)


@pytest.mark.parametrize(
    ("degree", "extrapolation"),
    [
        *((0, "clamp"), (3, "clamp"), (0, "linear"), (1, "linear"), (3, "linear"), (5, "linear")),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, "clamp"), (2, "linear"), (4, "linear"))),
    ],
)
@pytest.mark.usefixtures("x64")
def test_outside_the_grid_the_value_is_kept_or_goes_on_with_the_slope_of_the_end(degree, extrapolation):
    uniform, ragged = reference.uniform_knots(LOW, HIGH, INTERVALS, degree), ragged_knots(degree)
    x, num_basis = points(), INTERVALS + degree
    cotangent = reference.normal(1, *x.shape, num_basis, dtype=np.float64)
    for knots, (values, x_bar) in (
        (uniform, recursion(x, jnp.array(uniform), cotangent, degree, extrapolation)),
        (uniform, closed_form(x, cotangent, degree, extrapolation)),
        (ragged, recursion(x, jnp.array(ragged), cotangent, degree, extrapolation)),
    ):
        want, slope = reference.bspline_basis_and_slope_outside(x, knots, degree, extrapolation)
        # Off the ends at degree 0 and 1: the values jump there, or the slopes do.
        rows = slice(None) if degree > 1 else slice(25)
        steepest = max(1.0, np.abs(slope).max())
        reference.assert_close(values[rows], want[rows], atol=1e-14 * steepest * 8 * num_basis)
        want_bar = (slope * cotangent).sum(axis=-1)
        reference.assert_close(x_bar[rows], want_bar[rows], atol=1e-13 * steepest * num_basis * 8)


@pytest.mark.parametrize("extrapolation", bspline.EXTRAPOLATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_far_outside_values_and_gradients_are_finite_in_every_precision(extrapolation, dtype):
    x = jnp.array([[1e4, -1e4], [0.1, HIGH]], dtype)
    ones = jnp.ones((2, 2, INTERVALS + 3))
    knots = jnp.asarray(reference.uniform_knots(LOW, HIGH, INTERVALS, 3), jnp.float32)
    closed = closed_form(x, ones.astype(dtype), 3, extrapolation)
    assert closed[0].dtype == closed[1].dtype == dtype
    for pair in (closed, recursion(x, knots, ones, 3, extrapolation)):
        values, x_bar = (np.asarray(array, np.float64) for array in pair)
        assert np.isfinite(values).all()
        assert np.isfinite(x_bar).all()
        # Functions that sum to 1 inside go on doing so, and their slopes cancel: to the rounding of the largest.
        if extrapolation != "fade":
            atol = 8 * float(jnp.finfo(dtype).eps) * max(np.abs(values).max(), 1.0)
            reference.assert_close(values.sum(axis=-1), np.ones((2, 2)), atol=atol)
        assert (np.abs(values[0]).max() > 1e3) == (extrapolation == "linear")


def test_every_row_may_have_knots_of_its_own():
    rows = np.stack([ragged_knots(2)] * 3) + np.array([0.0, 0.3, -0.2]).reshape(3, 1, 1)
    x = reference.normal(2, 3, 2)
    got = jax.jit(lambda x, knots: bspline.basis(x, knots, 2, "linear"))(x, jnp.asarray(rows, jnp.float32))
    for r in range(3):
        want, _ = reference.bspline_basis_and_slope_outside(x[r : r + 1].astype(np.float64), rows[r], 2, "linear")
        reference.assert_close(got[r], want[0], terms=100)


def test_an_unknown_extrapolation_is_refused():
    knots = bspline.uniform_knots(LOW, HIGH, INTERVALS, 3)
    for call in (
        lambda: bspline.basis(jnp.zeros((1, 1)), knots, 3, "wrap"),
        lambda: UniformGrid(LOW, HIGH, INTERVALS, 3, "wrap"),
    ):
        with pytest.raises(ValueError, match="extrapolation='wrap'"):
            call()
