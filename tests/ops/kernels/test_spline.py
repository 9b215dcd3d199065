import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops import bspline, uniform_bspline
from mixkabrn_jax.ops.kernels import spline
from mixkabrn_jax.ops.uniform_bspline import UniformGrid
from tests import reference
from tests.ops.kernels.small import compiled

LOW, HIGH, INTERVALS = -0.7, 1.3, 3
GRID = UniformGrid(LOW, HIGH, INTERVALS, degree=3)


def basis_and_slope(x, degree=3, extrapolation="fade"):
    """`[R, D, G]` each."""
    knots = reference.uniform_knots(LOW, HIGH, INTERVALS, degree)
    if extrapolation == "fade":
        return reference.bspline_basis(x, knots, degree), reference.bspline_slope(x, knots, degree)
    return reference.bspline_basis_and_slope_outside(x, knots, degree, extrapolation)


def product_and_gradients(x, coef, out_bar):
    """What the kernel gives, for one expert, in float64."""
    x, coef, out_bar = (np.asarray(a, np.float64) for a in (x, coef, out_bar))
    # Functions before inputs, side by side, as production multiplies them.
    basis, slope = (a.swapaxes(-1, -2).reshape(len(x), len(coef)) for a in basis_and_slope(x))
    x_bar = (slope * (out_bar @ coef.T)).reshape(len(x), INTERVALS + 3, x.shape[1]).sum(axis=1)
    return basis @ coef, x_bar, basis.T @ out_bar


def inputs(R, D, F, experts=()):
    coef = reference.normal(1, *experts, (INTERVALS + 3) * D, F)
    return reference.normal(0, R, D), coef, reference.normal(2, R, F)


def run_and_pull_back(x, coef, out_bar, sizes=None):
    out, vjp = jax.vjp(lambda x, coef: spline.spline_matmul(x, coef, sizes, grid=GRID, interpret=True), x, coef)
    return out, *vjp(out_bar)


def assert_close(got, want, x):
    """Rounding of the sums, and of positions: they are counted in steps, of which a basis changes 1 at most."""
    steps = max(1, np.abs(x).max(initial=0)) * INTERVALS / (HIGH - LOW)
    num_functions = 4  # of those at one input
    terms = num_functions * x.shape[1], num_functions * got[0].shape[1], len(x)
    for got_one, want_one, n in zip(got, want, terms, strict=True):
        reference.assert_close(got_one, want_one, atol=steps * reference.tolerance(want_one, n))


# --- The functions that the kernels compute in registers ---------------------------------------------------------


@pytest.mark.parametrize(
    ("degree", "extrapolation"),
    [(0, "fade"), (0, "linear"), (1, "linear"), (1, "clamp"), (2, "fade"), (3, "linear"), (4, "clamp"), (5, "linear")],
)
@pytest.mark.usefixtures("x64")
def test_functions_and_slopes_are_those_of_cox_and_de_boor(degree, extrapolation):
    x = np.random.default_rng(0).uniform(LOW - 2, HIGH + 2, (200, 1))
    bumps = spline._Splines(UniformGrid(LOW, HIGH, INTERVALS, degree, extrapolation))

    @jax.jit
    def all_of_them(x):
        prepared = bumps.prepare(x)
        number = jnp.arange(bumps.count)
        value = jax.vmap(lambda g: bumps.value(prepared, g), out_axes=-1)(number)
        return value, jax.vmap(lambda g: jnp.broadcast_to(bumps.slope(prepared, g), x.shape), out_axes=-1)(number)

    for got, want in zip(all_of_them(x), basis_and_slope(x, degree, extrapolation), strict=True):
        reference.assert_close(got, want, terms=degree + 1, atol=1e-12 * max(1, np.abs(want).max()))
    # The very points that half-open boxes are about.
    x[: INTERVALS + 1, 0] = np.linspace(LOW, HIGH, INTERVALS + 1)
    want = jax.jit(lambda x: uniform_bspline.basis(x, bumps.grid))(x)
    reference.assert_close(all_of_them(x)[0], np.swapaxes(want, -1, -2), atol=1e-12 * max(1, np.abs(want).max()))


def test_far_inputs_have_finite_functions_and_slopes():
    x = jnp.array([1e4, -1e4, 1e30, -1e30])[:, None]
    for extrapolation in bspline.EXTRAPOLATIONS:
        bumps = spline._Splines(UniformGrid(LOW, HIGH, INTERVALS, 3, extrapolation))
        value, slope = jax.jit(lambda x, g, b=bumps: (b.value(b.prepare(x), g), b.slope(b.prepare(x), g)))(x, 0)
        assert np.isfinite(value).all()
        assert np.isfinite(slope).all()
        if extrapolation == "fade":
            np.testing.assert_array_equal(value, np.zeros((4, 1)))


# --- The product -------------------------------------------------------------------------------------------------


@functools.cache
def experts_run():
    """Two blocks of inputs and of outputs, nine of rows, none of them full; the rows of dC in two parts."""
    x, coef, out_bar = inputs(140, 20, 18, experts=(3,))
    return x, coef, out_bar, compiled(run_and_pull_back, x, coef, out_bar, np.zeros(3, np.int32))


@given(ends=st.lists(st.integers(0, 140), min_size=3, max_size=3))
@settings(max_examples=6)
def test_experts_rows_take_their_own_coefficients_and_rows_of_nobody_none(ends):
    x, coef, out_bar, run = experts_run()
    sizes = np.diff([0, *sorted(ends)]).astype(np.int32)
    used = sum(sizes)
    x = np.where(np.arange(140)[:, None] < used, x, np.nan).astype(np.float32)  # whatever they hold
    out, x_bar, coef_bar = run(x, coef, out_bar, sizes)
    for got in (out, x_bar):
        np.testing.assert_array_equal(got[used:], np.zeros_like(got[used:]))
    for e, start, size in zip(range(3), np.cumsum(sizes) - sizes, sizes, strict=True):
        mine = slice(start, start + size)
        want = product_and_gradients(x[mine], coef[e], out_bar[mine])
        assert_close((out[mine], x_bar[mine], coef_bar[e]), want, x[mine])


@pytest.mark.slow
def test_half_precision_is_summed_in_single_and_its_knots_stay_where_they_are():
    x, coef, out_bar = (jnp.asarray(a, jnp.bfloat16) for a in inputs(140, 20, 18))
    got = jax.jit(run_and_pull_back)(x, coef, out_bar)
    assert [a.dtype for a in got] == [jnp.bfloat16] * 3
    for got_one, want in zip(got, product_and_gradients(x, coef, out_bar), strict=True):
        # Values of the basis are rounded once, and so are the sums: however many there are, as much as one product.
        reference.assert_close(got_one, want, dtype=jnp.bfloat16)


def test_shapes_that_cannot_be_are_refused():
    x, coef, _ = inputs(4, 3, 4)
    for wrong in (coef[1:], coef[None]):
        with pytest.raises(ValueError, match=r"\[6 \* D, F\] and None"):
            spline.spline_matmul(x, wrong, grid=GRID, interpret=True)
