"""B-splines on any knots: knots, basis functions, least-squares fit.

Letters: D input feature, G basis function, M knot (M = G + degree + 1), R sample, F output feature, I point of a grid.
Sources: de Boor, A Practical Guide to Splines (1978), ch. IX-X; Liu et al., KAN (2024), eq. 2.10 and appendix.

The grid is the part of the knots where the functions sum to 1: from the one with `degree` knots before it to the one
with `degree` knots behind it. Outside it a spline may
- "fade": go on as its knots have it, which is 0 beyond the last one;
- "clamp": keep the value at the end of the grid, with slope 0;
- "linear": go on in a straight line with the value and the slope at the end.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

EXTRAPOLATIONS = ("fade", "clamp", "linear")


def uniform_knots(low: float, high: float, num_intervals: int, degree: int) -> jax.Array:
    """Equally spaced knots on [low, high], continued by `degree` knots beyond each end.

    Returns: `[M]`, M = num_intervals + 2 * degree + 1.
    Raises: ValueError for an empty range, no interval or a negative degree.
    """
    check_grid(low, high, num_intervals, degree)
    step = (high - low) / num_intervals
    return low + step * jnp.arange(-degree, num_intervals + degree + 1)


def basis(x: jax.Array, knots: jax.Array, degree: int, extrapolation: str = "fade") -> jax.Array:
    """Every basis function at every input, by the Cox-de Boor recursion; the knots may lie anywhere.

    Intervals are half open, except that the last non-empty one includes the last knot; 0/0 counts as 0. Outside the
    knots all functions are 0, so with knots continued beyond a range the spline fades out within `degree` steps.

    Args:
        x: `[..., D]`.
        knots: `[M]` for all features, `[D, M]`, or `[..., D, M]` for every input its own; non-decreasing.
        degree: polynomial degree, 0 or more.
        extrapolation: one of `EXTRAPOLATIONS`.
    Returns: `[..., D, G]`, G = M - degree - 1, in the dtype of x and knots combined.
    Raises: ValueError when there are too few knots for the degree, or for an unknown extrapolation.
    """
    return jnp.swapaxes(by_function(x, knots, degree, extrapolation), -1, -2)


def by_function(x: jax.Array, knots: jax.Array, degree: int, extrapolation: str = "fade") -> jax.Array:
    """`basis`, whose arguments these are, as `[..., G, D]`: slab after slab of all inputs, the layout of a KAN layer.

    With G behind D a CPU cannot handle neighbouring inputs at once: a step of lm.py:tiny with adaptive knots took five
    times as long.
    """
    num_basis = knots.shape[-1] - degree - 1
    if degree < 0 or num_basis < 1:
        raise ValueError(f"degree {degree} needs at least {degree + 2} knots, got {knots.shape[-1]}")
    check_extrapolation(extrapolation)
    if knots.ndim != x.ndim + 1:
        knots = knots.reshape((1,) * (x.ndim - 1) + (-1, knots.shape[-1]))
    if extrapolation == "fade":
        return _at(x, knots, degree)
    low, high = knots[..., degree], knots[..., -degree - 1]
    value = _at(clip(x, low, high), knots, degree)
    if extrapolation == "linear" and degree > 0:
        slope_low, slope_high = _end_slopes(knots, degree)
        # Not jnp.minimum and maximum: at the very end they would add half of the line's slope to the spline's.
        value += jnp.where(x < low, x - low, 0)[..., None, :] * slope_low
        value += jnp.where(x > high, x - high, 0)[..., None, :] * slope_high
    return value


def fit(
    x: jax.Array,
    y: jax.Array,
    knots: jax.Array,
    degree: int,
    ridge: float | None = None,
    sample_mask: jax.Array | None = None,
) -> jax.Array:
    """Least-squares spline coefficients, one QR factorisation for each input feature.

    A ridge relative to the largest column norm keeps the answer finite for any input: constant features, fewer
    samples than basis functions, samples outside the knots.

    Args:
        x: `[R, D]` samples.
        y: `[R, D, F]` values of every edge (input d, output f).
        knots: `[M]` or `[D, M]`.
        ridge: relative penalty on squared coefficients; None means the rounding unit of the dtype.
        sample_mask: `[R]` of 0 and 1 or None; 0 leaves a sample out.
    Returns: `[D, F, G]`, so that `einsum("rdg,dfg->rdf", basis(x), coef)` is close to y.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # bf16 has no factorisation
    basis_RDG = basis(x, knots, degree)
    y = y.astype(basis_RDG.dtype)
    if sample_mask is not None:  # a row of zeros is no equation
        mask_R11 = (sample_mask > 0).reshape(-1, 1, 1)
        basis_RDG, y = (jnp.where(mask_R11, rows, 0) for rows in (basis_RDG, y))
    penalty = jnp.sqrt(jnp.finfo(basis_RDG.dtype).eps if ridge is None else ridge)

    def solve(basis_RG, y_RF):
        scale = jnp.sqrt(jnp.max(jnp.sum(basis_RG**2, axis=0)))
        scale = jnp.where(scale > 0, scale, 1)
        num_basis = basis_RG.shape[1]
        rows = jnp.concatenate([basis_RG, penalty * scale * jnp.eye(num_basis, dtype=basis_RG.dtype)])
        q, r = jnp.linalg.qr(rows)
        q_RG = q[: basis_RG.shape[0]]  # the other rows meet zeros

        def step(coef_GF):
            left_RF = y_RF - jnp.matmul(basis_RG, coef_GF, precision="highest")
            return coef_GF + jax.scipy.linalg.solve_triangular(r, jnp.matmul(q_RG.T, left_RF, precision="highest"))

        # Once more for what the ridge has left over: it biases by its square then, and rounding is that of the rest.
        return step(step(jnp.zeros((num_basis, y_RF.shape[1]), y_RF.dtype)))

    coef_DGF = jax.vmap(solve, in_axes=1)(basis_RDG, y)
    return coef_DGF.swapaxes(1, 2)


def adaptive_knots(
    x: jax.Array, num_intervals: int, degree: int, uniform_fraction: float, sample_mask: jax.Array | None = None
) -> jax.Array:
    """Knots that follow the samples: a blend of equal spacing and of quantiles, per input feature.

    The quantiles are every (R / num_intervals)-th sorted sample and the last one; beyond the ends the knots continue
    with the mean spacing (Liu et al. 2024, appendix on grid extension). Knots are kept apart by a millionth of the
    range, so that a constant feature still gets a grid.

    Args:
        x: `[R, D]`.
        uniform_fraction: 1 = equal spacing between the extremes, 0 = quantiles.
        sample_mask: `[R]` of 0 and 1 or None; 0 leaves a sample out. Without any sample the knots mean nothing.
    Returns: `[D, M]`, increasing, in float32 or better.
    """
    check_grid(0.0, 1.0, num_intervals, degree)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if sample_mask is None:
        x_RD, num_samples = jnp.sort(x, axis=0), x.shape[0]
    else:  # left out samples go to the end, where no pick falls
        num_samples = jnp.sum(sample_mask > 0, dtype=jnp.int32)
        x_RD = jnp.sort(jnp.where((sample_mask > 0)[:, None], x, jnp.where(num_samples > 0, jnp.inf, 0)), axis=0)
    # (R i) // I without the product, which could leave int32.
    intervals_I = np.arange(num_intervals)
    quotient, rest = num_samples // num_intervals, num_samples % num_intervals
    picks_I = jnp.append(quotient * intervals_I + rest * intervals_I // num_intervals, jnp.maximum(num_samples - 1, 0))
    quantile_ID = x_RD[picks_I]
    ramp_I1 = jnp.linspace(0, 1, num_intervals + 1, dtype=x.dtype)[:, None]
    uniform_ID = quantile_ID[:1] + (quantile_ID[-1:] - quantile_ID[:1]) * ramp_I1
    inner_ID = uniform_fraction * uniform_ID + (1 - uniform_fraction) * quantile_ID
    inner_ID = _separate(inner_ID)
    return extend_knots(inner_ID.T, degree)


def extend_knots(inner: jax.Array, degree: int) -> jax.Array:
    """`degree` more knots on each side of the points of a grid `[..., I]`, continued with the mean spacing."""
    step = (inner[..., -1:] - inner[..., :1]) / (inner.shape[-1] - 1)
    beyond = jnp.arange(1, degree + 1, dtype=inner.dtype).reshape((1,) * (inner.ndim - 1) + (-1,))
    below, above = inner[..., :1] - step * beyond[..., ::-1], inner[..., -1:] + step * beyond
    return jnp.concatenate([below, inner, above], axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _at(x, knots, degree):
    """All functions at x `[..., D]` for knots `[..., D, M]`: `[..., G, D]`."""
    return slabs(_recursion(x, knots, degree))


def _at_forward(x, knots, degree):
    return _at(x, knots, degree), (x, knots)


def _at_backward(degree, residual, grad):
    """Slopes are the functions of one degree less: as cheap as values, where the gradient of the recursion is not."""
    x, knots = residual
    slopes = _slopes(x, knots, degree)
    grad_x = sum(grad[..., g, :] * slope for g, slope in enumerate(slopes)).astype(x.dtype)
    _, pull_back = jax.vjp(lambda knots: slabs(_recursion(x, knots, degree)), knots)
    return grad_x, *pull_back(grad)  # in a layer, whose knots are no parameters, nothing is left of the latter


_at.defvjp(_at_forward, _at_backward)


def slabs(values: Sequence[jax.Array]) -> jax.Array:
    """G arrays `[..., D]` as `[..., G, D]`, one after the other: a stack would be written element by element."""
    array = jnp.zeros((*values[0].shape[:-1], len(values), values[0].shape[-1]), values[0].dtype)
    for g, value in enumerate(values):
        array = array.at[..., g, :].set(value)
    return array


def _recursion(x, knots, degree, from_left=False):
    """Cox-de Boor: the functions at x `[..., D]`, one array each; `from_left` closes the intervals on the right."""
    knot = [knots[..., m] for m in range(knots.shape[-1])]
    values = []
    for left, right in pairwise(knot):
        if from_left:
            inside = (x > left) & (x <= right)
        else:
            at_end = (x == knot[-1]) & (right == knot[-1]) & (left < right)
            inside = ((x >= left) & (x < right)) | at_end
        values.append(inside.astype(jnp.result_type(x, knots)))
    for p in range(1, degree + 1):
        per_width = [ratio(1, high - low) for low, high in zip(knot, knot[p:], strict=False)]
        values = [
            (x - knot[i]) * per_width[i] * values[i] + (knot[i + p + 1] - x) * per_width[i + 1] * values[i + 1]
            for i in range(len(values) - 1)
        ]
    return values


def _slopes(x, knots, degree, from_left=False):
    """Of the functions at x, one array each (de Boor X.12)."""
    if degree == 0:
        return [jnp.zeros_like(value) for value in _recursion(x, knots, 0)]
    per_width = ratio(degree, knots[..., degree:] - knots[..., :-degree])
    lower = [per_width[..., i] * value for i, value in enumerate(_recursion(x, knots, degree - 1, from_left))]
    return [rise - fall for rise, fall in pairwise(lower)]


def _end_slopes(knots, degree):
    """Slopes of all basis functions at the first and at the last point of the grid, seen from inside: `[..., G, D]`."""
    for end, from_left in ((knots[..., degree], False), (knots[..., -degree - 1], True)):
        yield slabs(_slopes(end, knots, degree, from_left))


def clip(x: jax.Array, low, high) -> jax.Array:
    """x within [low, high]; at the ends the slope is 1, not the half of jnp.clip."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def _separate(knots_ID):
    """Pushes equal knots apart by the least distance that rounding still tells apart and that keeps fits sane."""
    span = knots_ID[-1] - knots_ID[0]
    unit = jnp.maximum(jnp.maximum(span, jnp.max(jnp.abs(knots_ID), axis=0)), 1)
    gap = jnp.maximum(unit * 8 * jnp.finfo(knots_ID.dtype).eps, span * 1e-6)
    ramp = jnp.arange(knots_ID.shape[0], dtype=knots_ID.dtype)[:, None] * gap[None]
    return jax.lax.cummax(knots_ID - ramp, axis=0) + ramp


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """numerator / denominator with 0/0 = 0, and finite gradients there."""
    empty = denominator == 0
    return jnp.where(empty, 0, numerator / jnp.where(empty, 1, denominator))


def check_grid(low: float, high: float, num_intervals: int, degree: int) -> None:
    """Raises ValueError for an empty or infinite range, no interval or a negative degree."""
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low={low}, high={high}: low < high is needed, both finite")
    if num_intervals < 1:
        raise ValueError(f"num_intervals={num_intervals}: at least 1 is needed")
    if degree < 0:
        raise ValueError(f"degree={degree}: 0 or more is needed")


def check_extrapolation(extrapolation: str) -> None:
    """Raises ValueError unless it is one of `EXTRAPOLATIONS`."""
    if extrapolation not in EXTRAPOLATIONS:
        raise ValueError(f"extrapolation={extrapolation!r}: one of {EXTRAPOLATIONS} is needed")
