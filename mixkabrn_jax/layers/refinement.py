"""A KAN layer on another grid: knots that follow the samples, or more of them, with the splines kept.

Sources: Liu et al., KAN (2024), sec. 2.4 and appendix. Both functions return a new layer and leave theirs as it is, can
be traced, and take stacked layers: every leaf may have the same leading dimensions (experts, layers). The splines'
coefficients change by a linear map, so a layer that holds an optimiser's moments changes by the same one.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.variables import Buffer
from mixkabrn_jax.ops import bspline


def update_grid(layer: KanLayer, x: jax.Array, uniform_fraction: float) -> KanLayer:
    """The layer with knots that follow the samples, its splines fitted to what they were on the samples.

    Args:
        layer: with adaptive knots.
        x: `[N, D]` inputs of the layer; for stacked layers `[..., N, D]`.
        uniform_fraction: 1 = equal spacing between the extremes, 0 = quantiles; pykan's value is 0.02.
    Raises: ValueError for uniform knots, another basis than B-splines, or samples that do not fit the layer.
    """
    grid, knots_DM, spline = _parts(layer)
    if knots_DM is None:
        raise ValueError("config.model.knots='uniform': knots that follow the samples are 'adaptive'")
    if x.ndim != knots_DM.ndim or x.shape[:-2] != knots_DM.shape[:-2] or x.shape[-1] != knots_DM.shape[-2]:
        lead, width = knots_DM.shape[:-2], knots_DM.shape[-2]
        raise ValueError(f"samples {x.shape} for knots {knots_DM.shape}: {(*lead, 'N', width)} is needed")

    def one_layer(spline, knots_DM, x_ND):
        x_ND = x_ND.astype(jnp.promote_types(x_ND.dtype, knots_DM.dtype))
        new_DM = bspline.adaptive_knots(x_ND, grid.num_intervals, grid.degree, uniform_fraction)
        new_DM = new_DM.astype(knots_DM.dtype)
        basis_NDG = bspline.basis(x_ND, knots_DM, grid.degree, grid.outside)

        def change(coef_DFG):
            return _refit(coef_DFG, x_ND, basis_NDG, new_DM, grid.degree)

        return _change(spline, knots_DM, grid.num_basis, change), new_DM

    for _ in x.shape[:-2]:
        one_layer = jax.vmap(one_layer)
    spline, knots_DM = one_layer(spline, knots_DM, x)
    return _with(layer, grid, spline, knots_DM)


def extend_grid(layer: KanLayer, num_intervals: int) -> KanLayer:
    """The layer on a grid of more intervals between the same ends.

    Where the old number divides the new one the splines stay exactly as they are on the grid, by knot insertion (but
    for ternary ones, whose new coefficients have new codes); else they are fitted by least squares on points all over
    it. Outside the grid a finer one fades faster.

    Args:
        num_intervals: at least as many as there are.
    Raises: ValueError for fewer intervals, or another basis than B-splines.
    """
    grid, knots_DM, spline = _parts(layer)
    if num_intervals < grid.num_intervals:
        raise ValueError(f"num_intervals={num_intervals}: at least the layer's {grid.num_intervals} are needed")
    new_grid = dataclasses.replace(grid, num_intervals=num_intervals)

    def one_layer(spline, knots_DM):
        if knots_DM is None:
            knots_DM, new_DM = (of.knots()[None] for of in (grid, new_grid))
        else:
            new_DM = bspline.refine_knots(knots_DM, num_intervals, grid.degree)

        def change(coef_DFG):
            if num_intervals % grid.num_intervals == 0:
                return bspline.insert_knots(coef_DFG, knots_DM, new_DM, grid.degree)
            inner_DM = knots_DM[:, grid.degree : knots_DM.shape[1] - grid.degree]
            x_ND = bspline.refine_knots(inner_DM, 4 * (grid.degree + 1) * num_intervals, 0).T
            return _refit(coef_DFG, x_ND, bspline.basis(x_ND, knots_DM, grid.degree), new_DM, grid.degree)

        return _change(spline, knots_DM, grid.num_basis, change), new_DM

    for _ in spline.shape[:-2]:
        one_layer = jax.vmap(one_layer)
    spline, new_DM = one_layer(spline, knots_DM)
    return _with(layer, new_grid, spline, None if knots_DM is None else new_DM)


def _parts(layer):
    """(grid, adaptive knots or None, spline) of a layer that has splines."""
    features = layer.features
    if features.basis != "bspline":
        raise ValueError(f"config.model.kan_basis={features.basis!r} has no knots: 'bspline' is needed")
    return features.grid, None if features.knots_DM is None else features.knots_DM[...], layer.spline[...]


def _change(spline, knots, num_basis, change):
    """Applies a function of coefficients `[D, F, G]` to a layer's matrix `[G * D, F]`.

    Where all inputs share their knots they count as one with D * F outputs: one insertion or factorisation for all.
    """
    coef_DFG = jnp.moveaxis(spline.reshape(num_basis, knots.shape[0], -1), 0, -1)
    return jnp.moveaxis(change(coef_DFG), -1, 0).reshape(-1, spline.shape[-1])


def _refit(coef_DFG, x_ND, basis_NDG, new_DM, degree):
    """Least squares on the samples, as a map of the coefficients: the fit of each old basis function on the new ones.

    Fitting the values of all edges instead would take `[N, D, F]`; the answer is the same, and linear at that.
    """
    map_DGG = bspline.fit(x_ND, basis_NDG, new_DM, degree)
    return jnp.einsum("dfg,dgh->dfh", coef_DFG, map_DGG.astype(coef_DFG.dtype), precision="highest")


def _with(layer, grid, spline, knots_DM):
    """A copy of the layer with these parts."""
    new = nnx.clone(layer)
    new.features.grid = grid
    if knots_DM is not None:
        new.features.knots_DM = Buffer(knots_DM)
    new.spline = type(layer.spline)(spline)
    return new
