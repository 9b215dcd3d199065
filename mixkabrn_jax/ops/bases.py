"""Other functions than B-splines for the edges of a KAN layer, basis-major like `uniform_bspline.basis`.

Letters: D input feature, G basis function or power of a polynomial, P group of features. All take x `[..., D]`, are
computed in float32 or better, since a bf16 position would move a centre or a phase by a hundredth of its width, and
return x's dtype.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Numerator and denominator of `group_rational` for two activations, fitted to its own formula on [-3, 3] and, half as
# much, on [-10, 10]: off by at most 4e-4 (silu) and 4e-3 (gelu) on the first, 6e-3 and 1.3e-2 on the second. KAT's
# published coefficients of gelu are off by 1.46 in its own kernel.
SILU = (
    (3.65387e-4, 0.5, 0.248999, 0.0503188, 4.74554e-3, 1.71291e-4),
    (0.0, 0.100637, 0.0, 3.42582e-4),
)
GELU = (
    (-2.73116e-3, 0.5, 0.4157, 0.121316, 0.0146792, 6.25247e-4),
    (0.0, 0.242632, 0.0, 1.25049e-3),
)


def chebyshev(x: jax.Array, num_basis: int) -> jax.Array:
    """Chebyshev polynomials T_0 .. T_{G-1} of tanh(x), which is where they are bounded (ChebyKAN; SS et al. 2024).

    Returns: `[..., G, D]`.
    Raises: ValueError for no function.
    """
    _check(num_basis)
    squashed = jnp.tanh(_wide(x))
    slabs = [jnp.ones_like(squashed), squashed]
    while len(slabs) < num_basis:  # by recurrence: cos(n arccos t) has no slope at the ends
        slabs.append(2 * squashed * slabs[-1] - slabs[-2])
    return jnp.stack(slabs[:num_basis], axis=-2).astype(x.dtype)


def fourier(x: jax.Array, low: float, high: float, num_basis: int) -> jax.Array:
    """1, cos(w x), sin(w x), cos(2 w x), ... with one period on [low, high] (FourierKAN; Xu et al. 2024).

    Returns: `[..., G, D]`.
    Raises: ValueError for no function or an empty range.
    """
    _check(num_basis, low, high)
    phase = (_wide(x) - low) * (2 * math.pi / (high - low))
    # The harmonic of a large input is that of its place in the period: multiples of a rounded phase drift apart.
    phase = phase - 2 * math.pi * jnp.floor(phase / (2 * math.pi))
    slabs = [jnp.ones_like(phase)]
    for harmonic in range(1, num_basis // 2 + 1):
        slabs += [jnp.cos(harmonic * phase), jnp.sin(harmonic * phase)]
    return jnp.stack(slabs[:num_basis], axis=-2).astype(x.dtype)


def gaussian_rbf(x: jax.Array, low: float, high: float, num_basis: int) -> jax.Array:
    """exp(-((x - c) / h)^2) around G equally spaced centres c on [low, high], h apart (FastKAN; Li 2024).

    Returns: `[..., G, D]`.
    Raises: ValueError for no function or an empty range.
    """
    _check(num_basis, low, high)
    step = (high - low) / max(num_basis - 1, 1)
    # Sixteen steps beyond the ends all are 0 in float64 too: larger numbers would only overflow when squared.
    position = jnp.clip((_wide(x) - low) / step, -32.0, num_basis + 31.0)
    return jnp.stack([jnp.exp(-((position - g) ** 2)) for g in range(num_basis)], axis=-2).astype(x.dtype)


def group_rational(x: jax.Array, numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The safe Pade activation of KAT, (a_0 + a_1 x + ... + a_m x^m) / (1 + |b_1 x + ... + b_n x^n|), P groups.

    Source: Yang and Wang, Kolmogorov-Arnold Transformer (2024), eq. 9. Features fall into P runs of equal length (up to
    one), each with its own coefficients; where P is larger than D some coefficients are not used.

    Args:
        x: `[..., D]`.
        numerator: `[P, G]` with G = m + 1 powers, or `[..., P, G]` for every row its own.
        denominator: `[P, G]` with G = n powers, or `[..., P, G]`.
    Returns: `[..., D]`.
    """
    width, num_groups = x.shape[-1], numerator.shape[-2]
    group_D = np.arange(width) * num_groups // width
    wide = _wide(x)

    def horner(coefficients):
        if coefficients.ndim != x.ndim + 1:
            coefficients = coefficients.reshape((1,) * (x.ndim - 1) + coefficients.shape)
        coefficients = coefficients[..., group_D, :].astype(wide.dtype)
        value = coefficients[..., -1]
        for power in range(coefficients.shape[-1] - 2, -1, -1):
            value = value * wide + coefficients[..., power]
        return value

    return (horner(numerator) / (1 + jnp.abs(wide * horner(denominator)))).astype(x.dtype)


def _wide(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check(num_basis, low=0.0, high=1.0):
    if num_basis < 1:
        raise ValueError(f"num_basis={num_basis}: at least 1 is needed")
    if not low < high:
        raise ValueError(f"the range of a basis needs low < high, got low={low}, high={high}")
