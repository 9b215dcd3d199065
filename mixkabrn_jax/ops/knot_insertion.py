"""Finer knots for the splines that there are: where they lie, and the coefficients that keep a spline as it is.

Letters: D input feature, F output feature, G basis function, M knot, I interval of the grid, or one of the degree + 1
under a function.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mixkabrn_jax.ops import bspline


def refine_knots(knots: jax.Array, num_intervals: int, degree: int) -> jax.Array:
    """Another number of intervals on the same grid, their ends on straight lines between the old ones.

    When the new number is a multiple of the old one, all old points of the grid are among the new ones, bit for bit.
    Beyond the ends the knots continue with the mean spacing (Liu et al. 2024, sec. 2.4).

    Args:
        knots: `[M]` or `[D, M]`.
    Returns: `[M']` or `[D, M']`, M' = num_intervals + 2 * degree + 1.
    Raises: ValueError for no interval or too few knots for the degree.
    """
    bspline.check_grid(0.0, 1.0, num_intervals, degree)
    old_intervals = knots.shape[-1] - 2 * degree - 1
    if old_intervals < 1:
        raise ValueError(f"degree {degree} needs at least {2 * degree + 2} knots, got {knots.shape[-1]}")
    inner = knots[..., degree : degree + old_intervals + 1]
    # In integers, so that a point that stays has a weight of exactly 0 for its neighbour.
    quotient, rest = divmod(np.arange(num_intervals + 1) * old_intervals, num_intervals)
    left, right = inner[..., quotient], inner[..., np.minimum(quotient + 1, old_intervals)]
    weight = jnp.asarray(rest / num_intervals, knots.dtype).reshape((1,) * (knots.ndim - 1) + (-1,))
    return bspline.extend_knots(left + weight * (right - left), degree)


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
        under_GI = jnp.where(on_grid, jnp.diff(new_M), -1)[new_G[:, None] + steps[None]]
        chosen_G = new_G + jnp.argmax(under_GI, axis=1)
        middle_G = (new_M[chosen_G] + new_M[chosen_G + 1]) / 2
        piece_G = jnp.searchsorted(knots_M, middle_G, side="right") - 1
        piece_G = jnp.clip(piece_G, degree, knots_M.shape[0] - degree - 2)
        value_FGI = coef_FG[:, piece_G[:, None] - degree + steps[None]]
        for p in range(1, degree + 1):
            left_GI = knots_M[piece_G[:, None] - degree + steps[None, p:]]
            right_GI = knots_M[piece_G[:, None] + 1 + steps[None, : degree + 1 - p]]
            weight_GI = bspline.ratio(new_M[new_G + p][:, None] - left_GI, right_GI - left_GI)[None]
            value_FGI = (1 - weight_GI) * value_FGI[..., :-1] + weight_GI * value_FGI[..., 1:]
        return value_FGI[..., 0]

    return jax.vmap(one_input)(coef, knots, new_knots)
