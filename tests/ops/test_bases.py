import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkabrn_jax.ops import bases
from tests import reference

LOW, HIGH, G, D = -1.5, 2.5, 6, 3
FUNCTIONS = {
    "chebyshev": lambda x: bases.chebyshev(x, G),
    "fourier": lambda x: bases.fourier(x, LOW, HIGH, G),
    "rbf": lambda x: bases.gaussian_rbf(x, LOW, HIGH, G),
}


def oracle(name, x, g):
    """Function g of a basis, from its definition."""
    if name == "chebyshev":
        return np.cos(g * np.arccos(np.tanh(x)))
    if name == "rbf":
        step = (HIGH - LOW) / (G - 1)
        return np.exp(-(((x - (LOW + g * step)) / step) ** 2))
    phase = 2 * np.pi * (x - LOW) / (HIGH - LOW)
    harmonic = (g + 1) // 2  # 1, cos, sin, cos of 2, sin of 2, ...
    return np.cos(harmonic * phase) if g == 0 or g % 2 else np.sin(harmonic * phase)


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
    want = np.stack([oracle(name, x, g) for g in range(G)], axis=-2)
    reference.assert_close(values, want, atol=1e-12)
    slopes = np.stack([slope(functools.partial(oracle, name, g=g), x) for g in range(G)], axis=-2)
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
    exact = np.float64(np.asarray(x)[0, 2])
    want = np.array([oracle(name, exact, g) for g in range(G)])
    atol = float(jnp.finfo(dtype).eps) * 8 * (G if dtype == jnp.float32 else 1)
    reference.assert_close(values[0, :, 2], want, atol=atol)


def rational(x, numerator, denominator):
    return np.polyval(numerator[::-1], x) / (1 + np.abs(x * np.polyval(denominator[::-1], x)))


def test_a_group_of_features_has_its_own_rational_and_gradients():
    with jax.enable_x64(True):
        x = reference.normal(1, 7, 5, dtype=np.float64)
        numerator, denominator = (reference.normal(seed, 2, n, dtype=np.float64) for seed, n in ((2, 6), (3, 4)))
        out_bar = reference.normal(4, 7, 5, dtype=np.float64)
        got, pull = jax.vjp(jax.jit(bases.group_rational), x, numerator, denominator)
        pulled = pull(jnp.asarray(out_bar))
        rows = jax.jit(bases.group_rational)(x, np.stack([numerator] * 7), np.stack([denominator] * 7))
    groups = [0, 0, 0, 1, 1]  # five features in two runs

    def loop(x, numerator, denominator):
        columns = [rational(x[:, d], numerator[p], denominator[p]) for d, p in enumerate(groups)]
        return np.stack(columns, axis=1)

    reference.assert_close(got, loop(x, numerator, denominator), atol=1e-12 * np.abs(got).max())
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


def test_a_basis_without_functions_or_range_is_refused():
    x = jnp.zeros((1, 1))
    with pytest.raises(ValueError, match="num_basis=0"):
        bases.chebyshev(x, 0)
    for function in (bases.fourier, bases.gaussian_rbf):
        with pytest.raises(ValueError, match=r"low=1\.0"):
            function(x, 1.0, 1.0, 3)
