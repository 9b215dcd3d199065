"""B-splines: knots, basis functions, least-squares fit, finer knots.

Letters: D input feature, G basis function, M knot (M = G + degree + 1), N sample, F output feature.
Sources: de Boor, A Practical Guide to Splines (1978), ch. IX-X; Liu et al., KAN (2024), eq. 2.10 and appendix.

The grid is the part of the knots where the functions sum to 1: from the one with `degree` knots before it to the one
with `degree` knots behind it. Outside it a spline may
- "fade": go on as its knots have it, which is 0 beyond the last one;
- "clamp": keep the value at the end of the grid, with slope 0;
- "linear": go on in a straight line with the value and the slope at the end.
"""

from functools import partial
from math import comb, factorial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

OUTSIDE = ("fade", "clamp", "linear")


def uniform_knots(low: float, high: float, num_intervals: int, degree: int) -> jax.Array:
    """Equally spaced knots on [low, high], continued by `degree` knots beyond each end.

    Returns: `[M]`, M = num_intervals + 2 * degree + 1.
    Raises: ValueError for an empty range, no interval or a negative degree.
    """
    _check_grid(low, high, num_intervals, degree)
    step = (high - low) / num_intervals
    return low + step * jnp.arange(-degree, num_intervals + degree + 1)


def basis(x: jax.Array, knots: jax.Array, degree: int, outside: str = "fade") -> jax.Array:
    """Every basis function at every input, by the Cox-de Boor recursion; the knots may lie anywhere.

    Intervals are half open, except that the last non-empty one includes the last knot; 0/0 counts as 0. Outside the
    knots all functions are 0, so with knots continued beyond a range the spline fades out within `degree` steps.

    Args:
        x: `[..., D]`.
        knots: `[M]` for all features, `[D, M]`, or `[..., D, M]` for every input its own; non-decreasing.
        degree: polynomial degree, 0 or more.
        outside: one of `OUTSIDE`.
    Returns: `[..., D, G]`, G = M - degree - 1, in the dtype of x and knots combined.
    Raises: ValueError when there are too few knots for the degree, or for an unknown choice outside.
    """
    num_basis = knots.shape[-1] - degree - 1
    if degree < 0 or num_basis < 1:
        raise ValueError(f"degree {degree} needs at least {degree + 2} knots, got {knots.shape[-1]}")
    check_outside(outside)
    if knots.ndim != x.ndim + 1:
        knots = knots.reshape((1,) * (x.ndim - 1) + (-1, knots.shape[-1]))
    if outside == "fade":
        return _recursion(x, knots, degree)
    low, high = knots[..., degree], knots[..., -degree - 1]
    value = _recursion(_clip(x, low, high), knots, degree)
    if outside == "linear" and degree > 0:
        slope_low, slope_high = _end_slopes(knots, degree)
        # Not jnp.minimum and maximum: at the very end they would add half of the line's slope to the spline's.
        value += jnp.where(x < low, x - low, 0)[..., None] * slope_low
        value += jnp.where(x > high, x - high, 0)[..., None] * slope_high
    return value


def uniform_basis(
    x: jax.Array, low: float, high: float, num_intervals: int, degree: int, outside: str = "fade"
) -> jax.Array:
    """`basis` on `uniform_knots` in closed form, basis-major: each function is the same bump, shifted.

    With u the distance to the bump's centre in steps and p the degree, the bump is
    1/p! sum_j (-1)^j C(p+1, j) max((p+1)/2 - j - |u|, 0)^p (Schoenberg 1946). G comes before D, unlike in `basis`:
    whole slabs of D are then written in turn, and `[..., G * D] @ [G * D, F]` needs no transpose (on a CPU 2-4 times
    faster than D before G, and 3-4 times faster than the recursion).

    Args:
        x: `[..., D]`.
        outside: one of `OUTSIDE`.
    Returns: `[..., G, D]`, G = num_intervals + degree, in x's dtype.
    Raises: ValueError for an empty range, no interval, a negative degree or an unknown choice outside.
    """
    _check_grid(low, high, num_intervals, degree)
    check_outside(outside)
    return _uniform_basis(x, _UniformGrid(low, high, num_intervals, degree, outside))


class _UniformGrid(NamedTuple):
    low: float
    high: float
    num_intervals: int
    degree: int
    outside: str

    def position(self, x):
        """Distance from the start of the grid in steps, where the bumps are looked up; float32 or better."""
        position = self._steps(x)
        if self.outside == "fade":
            # Every bump is 0 one step beyond the outermost support; there powers of |x| = 1e30 stay finite.
            return jnp.clip(position, -self.degree - 1, self.num_intervals + self.degree + 1)
        return _clip(position, 0, self.num_intervals)

    def beyond(self, x):
        """Steps below the grid, negative, and steps above it; 0 elsewhere."""
        position = self._steps(x)
        return jnp.minimum(position, 0), jnp.maximum(position - self.num_intervals, 0)

    def centres(self):
        return [g - (self.degree - 1) / 2 for g in range(self.num_intervals + self.degree)]

    def _steps(self, x):
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # a bf16 position would be a hundredth of a step off
        position = (x - self.low) * (self.num_intervals / (self.high - self.low))
        return jnp.where(x == self.high, self.num_intervals, position)  # whatever the rounding


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _uniform_basis(x, grid):
    position = grid.position(x)
    below, above = grid.beyond(x)
    end_slopes = _first_slopes(grid.num_intervals + grid.degree, grid.degree)
    # Slab after slab into one array: a stack of them all would be written element by element.
    basis = jnp.zeros((*x.shape[:-1], len(end_slopes), x.shape[-1]), x.dtype)
    for g, centre in enumerate(grid.centres()):
        if grid.degree == 0:  # a box has no slope to meet its neighbour with: its edges are half open, the last closed
            slab = (position >= g) & ((position < g + 1) | ((g == grid.num_intervals - 1) & (position == g + 1)))
        else:
            slab = _bump(position - centre, grid.degree)
        if grid.outside == "linear":  # the grid is its own mirror image, so are the slopes at its two ends
            slab = slab + below * end_slopes[g] - above * end_slopes[-1 - g]
        basis = basis.at[..., g, :].set(slab.astype(x.dtype))
    return basis


def _uniform_basis_backward(grid, x, grad):
    """Needs x alone: slopes are as cheap as values, and `[..., G, D]` is read once and kept nowhere."""
    position = grid.position(x)
    below, above = grid.beyond(x)
    is_inside = (below == 0) & (above == 0)
    end_slopes = _first_slopes(grid.num_intervals + grid.degree, grid.degree)
    total = jnp.zeros(position.shape, position.dtype)
    for g, centre in enumerate(grid.centres()):
        slope = _bump_slope(position - centre, grid.degree)
        if grid.outside != "fade":
            slope = jnp.where(is_inside, slope, 0)
        if grid.outside == "linear":
            slope = jnp.where(below < 0, end_slopes[g], jnp.where(above > 0, -end_slopes[-1 - g], slope))
        total = total + grad[..., g, :].astype(total.dtype) * slope
    return ((total * (grid.num_intervals / (grid.high - grid.low))).astype(x.dtype),)


_uniform_basis.defvjp(lambda x, grid: (_uniform_basis(x, grid), x), _uniform_basis_backward)


def _bump(u, degree):
    """The uniform B-spline of degree 1 or more around 0; u in steps."""
    distance = jnp.abs(u)
    terms = (
        (-1) ** j * comb(degree + 1, j) * jnp.maximum((degree + 1) / 2 - j - distance, 0) ** degree
        for j in range(degree // 2 + 1)
    )
    return sum(terms) / factorial(degree)


def _bump_slope(u, degree):
    if degree == 0:
        return jnp.zeros_like(u)
    distance = jnp.abs(u)
    if degree == 1:
        return jnp.where(distance < 1, -jnp.sign(u), 0)
    terms = (
        (-1) ** j * comb(degree + 1, j) * jnp.maximum((degree + 1) / 2 - j - distance, 0) ** (degree - 1)
        for j in range(degree // 2 + 1)
    )
    return -jnp.sign(u) * sum(terms) / factorial(degree - 1)


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
        x: `[N, D]` samples.
        y: `[N, D, F]` values of every edge (input d, output f).
        knots: `[M]` or `[D, M]`.
        ridge: relative penalty on squared coefficients; None means the rounding unit of the dtype.
        sample_mask: `[N]` of 0 and 1 or None; 0 leaves a sample out.
    Returns: `[D, F, G]`, so that `einsum("ndg,dfg->ndf", basis(x), coef)` is close to y.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # bf16 has no factorisation
    basis_NDG = basis(x, knots, degree)
    y = y.astype(basis_NDG.dtype)
    if sample_mask is not None:  # a row of zeros is no equation
        counts_N11 = (sample_mask > 0).reshape(-1, 1, 1)
        basis_NDG, y = (jnp.where(counts_N11, rows, 0) for rows in (basis_NDG, y))
    penalty = jnp.sqrt(jnp.finfo(basis_NDG.dtype).eps if ridge is None else ridge)

    def solve(basis_NG, y_NF):
        scale = jnp.sqrt(jnp.max(jnp.sum(basis_NG**2, axis=0)))
        scale = jnp.where(scale > 0, scale, 1)
        num_basis = basis_NG.shape[1]
        rows = jnp.concatenate([basis_NG, penalty * scale * jnp.eye(num_basis, dtype=basis_NG.dtype)])
        q, r = jnp.linalg.qr(rows)
        q_NG = q[: basis_NG.shape[0]]  # the other rows meet zeros

        def step(coef_GF):
            left_NF = y_NF - jnp.matmul(basis_NG, coef_GF, precision="highest")
            return coef_GF + jax.scipy.linalg.solve_triangular(r, jnp.matmul(q_NG.T, left_NF, precision="highest"))

        # Once more for what the ridge has left over: it biases by its square then, and rounding is that of the rest.
        return step(step(jnp.zeros((num_basis, y_NF.shape[1]), y_NF.dtype)))

    coef_DGF = jax.vmap(solve, in_axes=1)(basis_NDG, y)
    return coef_DGF.swapaxes(1, 2)


def adaptive_knots(
    x: jax.Array, num_intervals: int, degree: int, uniform_fraction: float, weights: jax.Array | None = None
) -> jax.Array:
    """Knots that follow the samples: a blend of equal spacing and of quantiles, per input feature.

    The quantiles are every (N / num_intervals)-th sorted sample and the last one; beyond the ends the knots continue
    with the mean spacing (Liu et al. 2024, appendix on grid extension). Knots are kept apart by a millionth of the
    range, so that a constant feature still gets a grid.

    Args:
        x: `[N, D]`.
        uniform_fraction: 1 = equal spacing between the extremes, 0 = quantiles.
        weights: `[N]` of 0 and 1 or None; 0 leaves a sample out. Without any sample the knots mean nothing.
    Returns: `[D, M]`, increasing, in float32 or better.
    """
    _check_grid(0.0, 1.0, num_intervals, degree)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if weights is None:
        x_ND, num_samples = jnp.sort(x, axis=0), x.shape[0]
    else:  # left out samples go to the end, where no pick falls
        num_samples = jnp.sum(weights > 0, dtype=jnp.int32)
        x_ND = jnp.sort(jnp.where((weights > 0)[:, None], x, jnp.where(num_samples > 0, jnp.inf, 0)), axis=0)
    # (N i) // I without the product, which could leave int32.
    intervals_I = np.arange(num_intervals)
    whole, rest = num_samples // num_intervals, num_samples % num_intervals
    picks_I = jnp.append(whole * intervals_I + rest * intervals_I // num_intervals, jnp.maximum(num_samples - 1, 0))
    quantile_ID = x_ND[picks_I]
    ramp_I1 = jnp.linspace(0, 1, num_intervals + 1, dtype=x.dtype)[:, None]
    uniform_ID = quantile_ID[:1] + (quantile_ID[-1:] - quantile_ID[:1]) * ramp_I1
    inner_ID = uniform_fraction * uniform_ID + (1 - uniform_fraction) * quantile_ID
    inner_ID = _separate(inner_ID)
    return _extend(inner_ID.T, degree)


def refine_knots(knots: jax.Array, num_intervals: int, degree: int) -> jax.Array:
    """Another number of intervals on the same grid, their ends on straight lines between the old ones.

    When the new number is a multiple of the old one, all old points of the grid are among the new ones, bit for bit.
    Beyond the ends the knots continue with the mean spacing (Liu et al. 2024, sec. 2.4).

    Args:
        knots: `[M]` or `[D, M]`.
    Returns: `[M']` or `[D, M']`, M' = num_intervals + 2 * degree + 1.
    Raises: ValueError for no interval or too few knots for the degree.
    """
    _check_grid(0.0, 1.0, num_intervals, degree)
    old_intervals = knots.shape[-1] - 2 * degree - 1
    if old_intervals < 1:
        raise ValueError(f"degree {degree} needs at least {2 * degree + 2} knots, got {knots.shape[-1]}")
    inner = knots[..., degree : degree + old_intervals + 1]
    # In integers, so that a point that stays has a weight of exactly 0 for its neighbour.
    whole, rest = divmod(np.arange(num_intervals + 1) * old_intervals, num_intervals)
    left, right = inner[..., whole], inner[..., np.minimum(whole + 1, old_intervals)]
    weight = jnp.asarray(rest / num_intervals, knots.dtype).reshape((1,) * (knots.ndim - 1) + (-1,))
    return _extend(left + weight * (right - left), degree)


def insert_knots(coef: jax.Array, knots: jax.Array, new_knots: jax.Array, degree: int) -> jax.Array:
    """The coefficients of the same splines on finer knots, exactly.

    A coefficient is the blossom of any polynomial piece under its basis function at the knots inside that function's
    support (Ramshaw 1989); the recursion is the Oslo algorithm of Cohen, Lyche and Riesenfeld (1980).

    Args:
        coef: `[D, F, G]`.
        knots: `[M]` or `[D, M]`, the old ones.
        new_knots: `[M']` or `[D, M']`, all of the new ones; each old point of the grid must be among them. Beyond the
            ends of the grid they may lie elsewhere than the old ones (as those of `refine_knots` do): then the splines
            are the same from one end of the grid to the other, and only fade differently.
    Returns: `[D, F, G']`.
    """
    steps = np.arange(degree + 1)
    rows = (coef.shape[0],)
    knots = jnp.broadcast_to(knots, (*rows, knots.shape[-1]))
    new_knots = jnp.broadcast_to(new_knots, (*rows, new_knots.shape[-1]))

    def one_input(coef_FG, knots_M, new_M):
        num_basis = new_M.shape[0] - degree - 1
        new_G = np.arange(num_basis)
        # Of the intervals under each new function, the widest on the grid: the piece over it is known, and narrow
        # ones would take their own rounding far outside.
        interval = np.arange(new_M.shape[0] - 1)
        on_grid = (interval >= degree) & (interval < num_basis)
        under_GP = jnp.where(on_grid, jnp.diff(new_M), -1)[new_G[:, None] + steps[None]]
        chosen_G = new_G + jnp.argmax(under_GP, axis=1)
        middle_G = (new_M[chosen_G] + new_M[chosen_G + 1]) / 2
        piece_G = jnp.searchsorted(knots_M, middle_G, side="right") - 1
        piece_G = jnp.clip(piece_G, degree, knots_M.shape[0] - degree - 2)
        value_FGP = coef_FG[:, piece_G[:, None] - degree + steps[None]]
        for p in range(1, degree + 1):
            left_GP = knots_M[piece_G[:, None] - degree + steps[None, p:]]
            right_GP = knots_M[piece_G[:, None] + 1 + steps[None, : degree + 1 - p]]
            weight_GP = _ratio(new_M[new_G + p][:, None] - left_GP, right_GP - left_GP)[None]
            value_FGP = (1 - weight_GP) * value_FGP[..., :-1] + weight_GP * value_FGP[..., 1:]
        return value_FGP[..., 0]

    return jax.vmap(one_input)(coef, knots, new_knots)


def _extend(inner, degree):
    """`degree` more knots on each side of `[..., I]`, continued with the mean spacing."""
    step = (inner[..., -1:] - inner[..., :1]) / (inner.shape[-1] - 1)
    beyond = jnp.arange(1, degree + 1, dtype=inner.dtype).reshape((1,) * (inner.ndim - 1) + (-1,))
    below, above = inner[..., :1] - step * beyond[..., ::-1], inner[..., -1:] + step * beyond
    return jnp.concatenate([below, inner, above], axis=-1)


def _recursion(x, knots, degree, from_left=False):
    """Cox-de Boor for x `[..., D]` and knots `[..., D, M]`; `from_left` closes the intervals on the right instead."""
    x_D1 = x[..., None]
    left, right = knots[..., :-1], knots[..., 1:]
    if from_left:
        inside = (x_D1 > left) & (x_D1 <= right)
    else:
        at_end = (x_D1 == knots[..., -1:]) & (right == knots[..., -1:]) & (left < right)
        inside = ((x_D1 >= left) & (x_D1 < right)) | at_end
    value = inside.astype(jnp.result_type(x, knots))
    for p in range(1, degree + 1):
        rise = _ratio(x_D1 - knots[..., : -p - 1], knots[..., p:-1] - knots[..., : -p - 1])
        fall = _ratio(knots[..., p + 1 :] - x_D1, knots[..., p + 1 :] - knots[..., 1:-p])
        value = rise * value[..., :-1] + fall * value[..., 1:]
    return value


def _end_slopes(knots, degree):
    """Slopes of all basis functions at the first and at the last point of the grid, seen from inside (de Boor X.12)."""
    widths = knots[..., degree:] - knots[..., :-degree]
    for end, from_left in ((knots[..., degree], False), (knots[..., -degree - 1], True)):
        lower = degree * _ratio(_recursion(end, knots, degree - 1, from_left), widths)
        yield lower[..., :-1] - lower[..., 1:]


def _first_slopes(num_basis, degree):
    """Slopes in 1/step of the uniform basis functions at the first point of the grid, as Python numbers."""
    if degree == 0:
        return [0.0] * num_basis

    def bump(u):  # of one degree less, half open
        if degree == 1:
            return float(-0.5 <= u < 0.5)
        terms = ((-1) ** j * comb(degree, j) * max(degree / 2 - j - abs(u), 0) ** (degree - 1) for j in range(degree))
        return sum(terms) / factorial(degree - 1)

    centres = [g - (degree - 1) / 2 for g in range(num_basis)]
    return [bump(0.5 - centre) - bump(-0.5 - centre) for centre in centres]


def _clip(x, low, high):
    """x within [low, high]; at the ends the slope is 1, not the half of jnp.clip."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


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


def check_outside(outside: str) -> None:
    """Raises ValueError unless it is one of `OUTSIDE`."""
    if outside not in OUTSIDE:
        raise ValueError(f"outside={outside!r}: one of {OUTSIDE} is needed")
