"""B-splines: knots, basis functions, least-squares fit.

Letters: D input feature, G basis function, M knot (M = G + degree + 1), N sample, F output feature.
Sources: de Boor, A Practical Guide to Splines (1978), ch. IX-X; Liu et al., KAN (2024), eq. 2.10 and appendix.
"""

from math import comb, factorial

import jax
import jax.numpy as jnp


def uniform_knots(low: float, high: float, num_intervals: int, degree: int) -> jax.Array:
    """Equally spaced knots on [low, high], continued by `degree` knots beyond each end.

    Returns: `[M]`, M = num_intervals + 2 * degree + 1.
    Raises: ValueError for an empty range, no interval or a negative degree.
    """
    _check_grid(low, high, num_intervals, degree)
    step = (high - low) / num_intervals
    return low + step * jnp.arange(-degree, num_intervals + degree + 1)


def basis(x: jax.Array, knots: jax.Array, degree: int) -> jax.Array:
    """Every basis function at every input, by the Cox-de Boor recursion; the knots may lie anywhere.

    Intervals are half open, except that the last non-empty one includes the last knot; 0/0 counts as 0. Outside the
    knots all functions are 0, so with knots continued beyond a range the spline fades out within `degree` steps.

    Args:
        x: `[..., D]`.
        knots: `[M]` for all features or `[D, M]`, non-decreasing.
        degree: polynomial degree, 0 or more.
    Returns: `[..., D, G]`, G = M - degree - 1, in the dtype of x and knots combined.
    Raises: ValueError when there are too few knots for the degree.
    """
    num_basis = knots.shape[-1] - degree - 1
    if degree < 0 or num_basis < 1:
        raise ValueError(f"degree {degree} needs at least {degree + 2} knots, got {knots.shape[-1]}")
    knots_DM = knots.reshape((1,) * (x.ndim - 1) + (-1, knots.shape[-1]))
    x_D1 = x[..., None]
    left, right = knots_DM[..., :-1], knots_DM[..., 1:]
    at_end = (x_D1 == knots_DM[..., -1:]) & (right == knots_DM[..., -1:]) & (left < right)
    value = (((x_D1 >= left) & (x_D1 < right)) | at_end).astype(jnp.result_type(x, knots))
    for p in range(1, degree + 1):
        rise = _ratio(x_D1 - knots_DM[..., : -p - 1], knots_DM[..., p:-1] - knots_DM[..., : -p - 1])
        fall = _ratio(knots_DM[..., p + 1 :] - x_D1, knots_DM[..., p + 1 :] - knots_DM[..., 1:-p])
        value = rise * value[..., :-1] + fall * value[..., 1:]
    return value


def uniform_basis(x: jax.Array, low: float, high: float, num_intervals: int, degree: int) -> jax.Array:
    """`basis` on `uniform_knots` in closed form, basis-major: each function is the same bump, shifted.

    With u the distance to the bump's centre in steps and p the degree, the bump is
    1/p! sum_j (-1)^j C(p+1, j) max((p+1)/2 - j - |u|, 0)^p (Schoenberg 1946). G comes before D, unlike in `basis`:
    whole slabs of D are then written in turn, and `[..., G * D] @ [G * D, F]` needs no transpose (on a CPU 2-4 times
    faster than D before G, and 3-4 times faster than the recursion).

    Args:
        x: `[..., D]`.
    Returns: `[..., G, D]`, G = num_intervals + degree, in x's dtype.
    Raises: ValueError for an empty range, no interval or a negative degree.
    """
    _check_grid(low, high, num_intervals, degree)
    dtype = x.dtype
    x = x.astype(jnp.promote_types(dtype, jnp.float32))  # a bf16 position would move the knots by a hundredth of a step
    # Every bump is 0 one step beyond the outermost support; clamping there keeps powers of |x| = 1e30 finite.
    position = jnp.clip((x - low) * (num_intervals / (high - low)), -degree - 1, num_intervals + degree + 1)
    if degree == 0:  # a box has no slope to meet its neighbour with: its edges are half open, the last one closed
        cell = jnp.where(x == high, num_intervals - 1, jnp.floor(position))
        return jnp.stack([(cell == g).astype(dtype) for g in range(num_intervals)], axis=-2)
    slabs = []
    for g in range(num_intervals + degree):
        distance = jnp.abs(position - (g - (degree - 1) / 2))
        terms = [
            (-1) ** j * comb(degree + 1, j) * jnp.maximum((degree + 1) / 2 - j - distance, 0) ** degree
            for j in range(degree // 2 + 1)
        ]
        slabs.append((sum(terms) / factorial(degree)).astype(dtype))
    return jnp.stack(slabs, axis=-2)


def fit(x: jax.Array, y: jax.Array, knots: jax.Array, degree: int, ridge: float | None = None) -> jax.Array:
    """Least-squares spline coefficients, one QR factorisation for each input feature.

    A ridge relative to the largest column norm keeps the answer finite for any input: constant features, fewer
    samples than basis functions, samples outside the knots.

    Args:
        x: `[N, D]` samples.
        y: `[N, D, F]` values of every edge (input d, output f).
        knots: `[M]` or `[D, M]`.
        ridge: relative penalty on squared coefficients; None means the rounding unit of the dtype.
    Returns: `[D, F, G]`, so that `einsum("ndg,dfg->ndf", basis(x), coef)` is close to y.
    """
    basis_NDG = basis(x, knots, degree)
    penalty = jnp.sqrt(jnp.finfo(basis_NDG.dtype).eps if ridge is None else ridge)

    def solve(basis_NG, y_NF):
        scale = jnp.sqrt(jnp.max(jnp.sum(basis_NG**2, axis=0)))
        scale = jnp.where(scale > 0, scale, 1)
        num_basis = basis_NG.shape[1]
        rows = jnp.concatenate([basis_NG, penalty * scale * jnp.eye(num_basis, dtype=basis_NG.dtype)])
        right = jnp.concatenate([y_NF, jnp.zeros((num_basis, y_NF.shape[1]), y_NF.dtype)])
        q, r = jnp.linalg.qr(rows)
        return jax.scipy.linalg.solve_triangular(r, q.T @ right)

    coef_DGF = jax.vmap(solve, in_axes=1)(basis_NDG, y)
    return coef_DGF.swapaxes(1, 2)


def adaptive_knots(x: jax.Array, num_intervals: int, degree: int, uniform_fraction: float) -> jax.Array:
    """Knots that follow the samples: a blend of equal spacing and of quantiles, per input feature.

    The quantiles are every (N / num_intervals)-th sorted sample and the last one; beyond the ends the knots continue
    with the mean spacing (Liu et al. 2024, appendix on grid extension). Knots are kept apart by a millionth of the
    range, so that a constant feature still gets a grid.

    Args:
        x: `[N, D]`.
        uniform_fraction: 1 = equal spacing between the extremes, 0 = quantiles.
    Returns: `[D, M]`, increasing.
    """
    _check_grid(0.0, 1.0, num_intervals, degree)
    x_ND = jnp.sort(x, axis=0)
    num_samples = x_ND.shape[0]
    picks = [min(num_samples * i // num_intervals, num_samples - 1) for i in range(num_intervals)] + [-1]
    quantile_ID = x_ND[jnp.array(picks)]
    ramp_I1 = jnp.linspace(0, 1, num_intervals + 1, dtype=x.dtype)[:, None]
    uniform_ID = x_ND[:1] + (x_ND[-1:] - x_ND[:1]) * ramp_I1
    inner_ID = uniform_fraction * uniform_ID + (1 - uniform_fraction) * quantile_ID
    inner_ID = _separate(inner_ID)
    step_1D = (inner_ID[-1:] - inner_ID[:1]) / num_intervals
    outside_P1 = jnp.arange(1, degree + 1, dtype=x.dtype)[:, None]
    below, above = inner_ID[:1] - step_1D * outside_P1[::-1], inner_ID[-1:] + step_1D * outside_P1
    return jnp.concatenate([below, inner_ID, above]).T


def _separate(knots_ID):
    """Pushes equal knots apart by the least distance that rounding still tells apart and that keeps fits sane."""
    span = knots_ID[-1] - knots_ID[0]
    unit = jnp.maximum(jnp.maximum(span, jnp.max(jnp.abs(knots_ID), axis=0)), 1)
    gap = jnp.maximum(unit * 8 * jnp.finfo(knots_ID.dtype).eps, span * 1e-6)
    ramp = jnp.arange(knots_ID.shape[0], dtype=knots_ID.dtype)[:, None] * gap[None]
    return jax.lax.cummax(knots_ID - ramp, axis=0) + ramp


def _ratio(numerator, denominator):
    """numerator / denominator with 0/0 = 0, and finite gradients there."""
    empty = denominator == 0
    return jnp.where(empty, 0, numerator / jnp.where(empty, 1, denominator))


def _check_grid(low, high, num_intervals, degree):
    if not low < high:
        raise ValueError(f"a spline's range needs low < high, got low={low}, high={high}")
    if num_intervals < 1:
        raise ValueError(f"num_intervals={num_intervals}: at least 1 is needed")
    if degree < 0:
        raise ValueError(f"degree={degree}: 0 or more is needed")
