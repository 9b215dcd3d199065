import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops import bases
from tests import reference

LOW, HIGH, G, D = -1.5, 2.5, 6, 3
FUNCTIONS = {
    "chebyshev": lambda x: bases.chebyshev(x, G),
    "fourier": lambda x: bases.fourier(x, LOW, HIGH, G),
    "rbf": lambda x: bases.gaussian_rbf(x, LOW, HIGH, G),
}


PAIRS = {
    "chebyshev": (bases.chebyshev, reference.chebyshev),
    "fourier": (bases.fourier, reference.fourier),
    "rbf": (bases.gaussian_rbf, reference.gaussian_rbf),
}
ORACLES = {
    "chebyshev": lambda x: reference.chebyshev(x, G),
    "fourier": lambda x: reference.fourier(x, LOW, HIGH, G),
    "rbf": lambda x: reference.gaussian_rbf(x, LOW, HIGH, G),
}


def slope(function, x, step=1e-6):
    return (function(x + step) - function(x - step)) / (2 * step)


@functools.partial(jax.jit, static_argnames="name")
def values_and_pull_back(x, cotangent, name):
    values, pull = jax.vjp(FUNCTIONS[name], x)
    return values, pull(cotangent)[0]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.usefixtures("x64")
def test_a_basis_and_its_gradient_are_its_formula(name):
    x = reference.normal(1, 4, 5, D, dtype=np.float64)
    cotangent = reference.normal(2, 4, 5, G, D, dtype=np.float64)
    values, x_bar = values_and_pull_back(x, cotangent, name)
    reference.assert_close(values, ORACLES[name](x), atol=1e-12)
    slopes = slope(ORACLES[name], x)
    # The central difference of the oracle is off by its step squared and by its rounding over its step.
    reference.assert_close(x_bar, (slopes * cotangent).sum(axis=-2), atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_basis_is_finite_far_away_in_every_precision(name, dtype):
    x = jnp.array([[1e4, -1e4, 0.3]], dtype)
    values, x_bar = values_and_pull_back(x, jnp.ones((1, G, 3), dtype), name)
    assert values.dtype == x_bar.dtype == dtype
    assert np.abs(np.asarray(values, np.float64)).max() <= 1 + 1e-6
    assert np.isfinite(np.asarray(x_bar, np.float64)).all()
    want = ORACLES[name](np.asarray(x, np.float64)[0, 2:])[:, 0]
    atol = float(jnp.finfo(dtype).eps) * 8 * (G if dtype == jnp.float32 else 1)
    reference.assert_close(values[0, :, 2], want, atol=atol)


def test_a_group_of_features_has_its_own_rational_and_gradients():
    with jax.enable_x64(True):
        x = reference.normal(1, 7, 5, dtype=np.float64)
        numerator, denominator = (reference.normal(seed, 2, n, dtype=np.float64) for seed, n in ((2, 6), (3, 4)))
        out_bar = reference.normal(4, 7, 5, dtype=np.float64)
        got, pull = jax.vjp(jax.jit(bases.group_rational), x, numerator, denominator)
        pulled = pull(jnp.asarray(out_bar))
        rows = jax.jit(bases.group_rational)(x, np.stack([numerator] * 7), np.stack([denominator] * 7))
    loop = reference.group_rational
    for run, p in ((slice(0, 3), 0), (slice(3, 5), 1)):  # five features in two runs
        alone = loop(x[:, run], numerator[[p]], denominator[[p]])
        reference.assert_close(got[:, run], alone, atol=1e-12 * np.abs(got).max())
    reference.assert_close(rows, got, atol=1e-14 * np.abs(got).max())
    arguments = [x, numerator, denominator]
    for position, gradient in enumerate(pulled):
        direction = reference.normal(5 + position, *arguments[position].shape, dtype=np.float64)
        ends = []
        for sign in (1, -1):
            moved = list(arguments)
            moved[position] = moved[position] + sign * 1e-7 * direction
            ends.append((loop(*moved) * out_bar).sum())
        want = (ends[0] - ends[1]) / 2e-7
        assert abs((np.asarray(gradient) * direction).sum() - want) < 1e-5 * max(1, abs(want))


@pytest.mark.parametrize(
    ("coefficients", "activation"), [(bases.SILU, jax.nn.silu), (bases.GELU, jax.nn.gelu)], ids=["silu", "gelu"]
)
def test_the_coefficients_fit_their_activation_in_this_very_formula(coefficients, activation):
    run = jax.jit(bases.group_rational)
    numerator, denominator = (jnp.array([row]) for row in coefficients)
    for reach, error in ((3, 1e-2), (10, 2e-2)):
        x = np.linspace(-reach, reach, 601, dtype=np.float32)[:, None]
        assert np.abs(np.asarray(run(x, numerator, denominator)) - np.asarray(activation(x))).max() < error


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_rational_is_finite_far_away(dtype):
    numerator, denominator = (jnp.array([row]) for row in bases.GELU)
    x = jnp.array([[1e4], [-1e4], [0.0]], dtype)
    y, pull = jax.vjp(jax.jit(bases.group_rational), x, numerator, denominator)
    assert y.dtype == dtype
    for leaf in (y, *pull(jnp.ones_like(y))):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()


# Few: each shape is a compilation.
ANY_INPUT = {
    "lead": st.sampled_from([(), (1,), (3,), (2, 3)]),
    "width": st.integers(1, 5),
    "dtype": st.sampled_from([jnp.float32, jnp.bfloat16]),
    "reach": st.sampled_from([1.0, 30.0, 1e4]),
    "seed": st.integers(0, 99),
}


def any_input(lead, width, dtype, reach, seed):
    """Numbers of all sizes up to `reach`, and their float64 twins."""
    rng = np.random.default_rng(seed)
    sizes = reach ** rng.uniform(-0.5, 1, (*lead, width))
    x = jnp.asarray(np.clip(sizes, None, 0.99 * reach) * rng.choice([-1, 1], sizes.shape), dtype)
    return x, np.asarray(x, np.float64)


def assert_lawful(function, x):
    """Shapes and dtypes are the input's, no row sees another, all is finite; returns the values in float64."""

    @jax.jit
    def run(x):
        values, pull = jax.vjp(function, x)
        first = x.reshape(-1, x.shape[-1])[0]
        return values, pull(jnp.ones_like(values))[0], function(first)

    values, x_bar, alone = run(x)
    assert values.dtype == x_bar.dtype == alone.dtype == x.dtype
    assert x_bar.shape == x.shape
    assert values.shape == (*x.shape[:-1], *alone.shape)
    values, x_bar, alone = (np.asarray(leaf, np.float64) for leaf in (values, x_bar, alone))
    assert np.isfinite(values).all()
    assert np.isfinite(x_bar).all()
    np.testing.assert_array_equal(values.reshape(-1, *alone.shape)[0], alone)
    return values


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=8)
@given(num_basis=st.integers(1, 9), low=st.sampled_from([-3.0, 0.5]), span=st.sampled_from([0.5, 6.0]), **ANY_INPUT)
def test_a_basis_of_any_shape_and_size_is_its_formula(name, num_basis, low, span, **inputs):
    x, exact = any_input(**inputs)
    width = {"low": low, "high": low + span, "num_basis": num_basis}
    width = {"num_basis": num_basis} if name == "chebyshev" else width
    function, oracle = PAIRS[name]
    got = assert_lawful(functools.partial(function, **width), x)
    assert got.shape == (*x.shape[:-1], num_basis, x.shape[-1])
    # What a rounding of the argument may do to the value, and the rounding of the value itself.
    argument = {
        "chebyshev": num_basis**2,  # the steepest slope of a polynomial on [-1, 1]
        "fourier": num_basis * (np.abs(exact).max() + np.abs(low)) * 2 * np.pi / span,
        "rbf": (np.abs(low) / span + 1) * num_basis,  # far away all is 0
    }[name]
    eps = float(jnp.finfo(jnp.float32).eps)
    reference.assert_close(got, oracle(exact, **width), atol=8 * eps * (1 + argument) + float(jnp.finfo(x.dtype).eps))


@settings(max_examples=8)
@given(num_groups=st.integers(1, 4), degrees=st.sampled_from([(5, 4), (3, 2), (0, 1)]), **ANY_INPUT)
def test_a_rational_of_any_shape_and_size_is_its_formula(num_groups, degrees, seed, **inputs):
    x, exact = any_input(seed=seed, **inputs)
    top, bottom = degrees
    numerator, denominator = reference.normal(seed, num_groups, top + 1), reference.normal(seed + 1, num_groups, bottom)
    got = assert_lawful(lambda x: bases.group_rational(x, numerator, denominator), x)
    want = reference.group_rational(exact, numerator, denominator)
    # Terms of a polynomial may cancel: what is rounded is as large as their sum without signs.
    above, below = (np.abs(part) for part in (numerator, np.pad(denominator, ((0, 0), (1, 0)))))
    none = np.zeros_like(denominator)
    above, below = (reference.group_rational(np.abs(exact), part, none) for part in (above, below))
    divisor = 1 / reference.group_rational(exact, np.ones((num_groups, 1)), denominator)
    eps, eps_x = (float(jnp.finfo(dtype).eps) for dtype in (jnp.float32, x.dtype))
    bound = 8 * eps * (above + np.abs(want) * (1 + below)) / divisor + eps_x * np.abs(want)
    assert (np.abs(got - want) <= bound).all()


def test_a_basis_without_functions_or_range_is_refused():
    x = jnp.zeros((1, 1))
    with pytest.raises(ValueError, match="num_basis=0"):
        bases.chebyshev(x, 0)
    for function in (bases.fourier, bases.gaussian_rbf):
        with pytest.raises(ValueError, match=r"low=1\.0"):
            function(x, 1.0, 1.0, 3)
