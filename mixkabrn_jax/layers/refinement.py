"""A KAN layer on another grid: knots that follow the samples, or more of them, with the splines kept.

Sources: Liu et al., KAN (2024), sec. 2.4 and appendix. All functions return something new and leave what they are given
as it is, and can be traced; those of one layer take stacked layers: every leaf may have the same leading dimensions
(experts, layers). The splines' coefficients change by a linear map, so a layer that holds an optimiser's moments
changes by the same one: `update_grid` is `compute_grid_update` and `apply_grid_update`, as in `models.grid`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.kan import Kan, KanLayer
from mixkabrn_jax.layers.moe import MixtureOfExperts
from mixkabrn_jax.ops import bspline, knot_insertion


class GridUpdate(NamedTuple):
    """What takes a KAN layer to other knots: computed once from samples, applied to parameters and to moments alike."""

    knots_DM: jax.Array
    """The new ones, `[..., D, M]`."""
    map_DGG: jax.Array
    """Old coefficients of each input to new ones, `[..., D, G, G]`."""


class KanGridUpdate(NamedTuple):
    """A `GridUpdate` for each layer of a `Kan`."""

    up: GridUpdate
    down: GridUpdate


class MixtureGridUpdate(NamedTuple):
    """A `KanGridUpdate` for the experts of a mixture, with leading dimensions as they have them."""

    experts: KanGridUpdate
    shared: KanGridUpdate | None


SAMPLES_PER_FUNCTION = 8
"""A layer with fewer samples for each of its basis functions keeps its grid. A refit of cubics on 4 intervals from up
to 8 samples in all changes nine tenths of the spline and more. From 56 it is 2% where they are spread evenly over the
grid, 6% (at worst 18%) where they are drawn from it at random, and less with each further sample."""


def update_grid(
    layer: KanLayer, x: jax.Array, uniform_fraction: float, sample_mask: jax.Array | None = None
) -> KanLayer:
    """The layer with knots that follow the samples, its splines fitted to what they were on the samples.

    Arguments and errors are those of `compute_grid_update`.
    """
    return apply_grid_update(layer, compute_grid_update(layer, x, uniform_fraction, sample_mask))


def compute_grid_update(
    layer: KanLayer, x: jax.Array, uniform_fraction: float, sample_mask: jax.Array | None = None
) -> GridUpdate:
    """What `update_grid` does to a layer.

    Args:
        layer: with adaptive knots.
        x: `[R, D]` inputs of the layer; for stacked layers `[..., R, D]`.
        uniform_fraction: 1 = equal spacing between the extremes, 0 = quantiles; pykan's value is 0.02.
        sample_mask: `[..., R]` of 0 and 1 or None; 0 leaves a sample out. A layer that is left with fewer than
            `SAMPLES_PER_FUNCTION` samples for each basis function keeps its knots and splines: they would follow
            chance.
    Raises: ValueError for uniform knots, another basis than B-splines, or samples that do not fit the layer.
    """
    grid, knots_DM, _ = _parts(layer)
    if knots_DM is None:
        raise ValueError("knots='uniform': knots that follow the samples are 'adaptive'")
    if x.ndim != knots_DM.ndim or x.shape[:-2] != knots_DM.shape[:-2] or x.shape[-1] != knots_DM.shape[-2]:
        lead, width = knots_DM.shape[:-2], knots_DM.shape[-2]
        raise ValueError(f"samples {x.shape} for knots {knots_DM.shape}: {(*lead, 'R', width)} is needed")

    def one_layer(knots_DM, x_RD, mask_R):
        x_RD = x_RD.astype(jnp.promote_types(x_RD.dtype, knots_DM.dtype))
        new_DM = bspline.adaptive_knots(x_RD, grid.num_intervals, grid.degree, uniform_fraction, mask_R)
        new_DM = new_DM.astype(knots_DM.dtype)
        basis_RDG = bspline.basis(x_RD, knots_DM, grid.degree, grid.extrapolation)
        map_DGG = _refit(x_RD, basis_RDG, new_DM, grid.degree, mask_R)
        num_samples = len(x_RD) if mask_R is None else jnp.sum(mask_R > 0, dtype=jnp.int32)
        is_kept = num_samples < SAMPLES_PER_FUNCTION * grid.num_basis
        same_DGG = jnp.broadcast_to(jnp.eye(grid.num_basis, dtype=map_DGG.dtype), map_DGG.shape)
        return GridUpdate(jnp.where(is_kept, knots_DM, new_DM), jnp.where(is_kept, same_DGG, map_DGG))

    for _ in x.shape[:-2]:
        one_layer = jax.vmap(one_layer)
    return one_layer(knots_DM, x, sample_mask)


def compute_kan_grid_update(kan: Kan, x: jax.Array, uniform_fraction: float, sample_mask: jax.Array) -> KanGridUpdate:
    """Of both layers; the second one's samples are what the updated first one gives it.

    Args:
        x: `[R, D]`; sample_mask: `[R]`. Both and the fraction as for `compute_grid_update`.
    """
    up = compute_grid_update(kan.up, x, uniform_fraction, sample_mask)
    new = nnx.clone(kan)
    new.up = apply_grid_update(kan.up, up)
    return KanGridUpdate(up, compute_grid_update(kan.down, new.hidden(x), uniform_fraction, sample_mask))


def compute_mixture_grid_update(
    moe: MixtureOfExperts, x_BTD: jax.Array, uniform_fraction: float, mask_BT: jax.Array | None = None
) -> MixtureGridUpdate:
    """Of all experts: the samples of a routed one are the tokens that it is run for, those of a shared one all tokens.

    Args:
        x_BTD: `[B, T, D]`; mask_BT: 0 leaves a position (padding) out.
    """
    x_TD = x_BTD.reshape(-1, x_BTD.shape[-1])

    # One expert after the other, on all tokens with the others' left out: whatever the load, shapes are the same, and
    # only one basis `[T, D, G]` is there at a time.
    def one(expert, mask_T):
        return compute_kan_grid_update(expert, x_TD, uniform_fraction, mask_T)

    experts = jax.lax.map(lambda part: one(*part), (moe.experts, moe.chosen(x_BTD, mask_BT)))
    if moe.shared is None:
        return MixtureGridUpdate(experts, None)
    mask_T = jnp.ones(len(x_TD)) if mask_BT is None else mask_BT.reshape(-1)
    if moe.config.num_shared_experts == 1:
        return MixtureGridUpdate(experts, one(moe.shared, mask_T))
    return MixtureGridUpdate(experts, jax.lax.map(lambda expert: one(expert, mask_T), moe.shared))


def apply_grid_update(module, update):
    """A copy of a `KanLayer`, `Kan` or `MixtureOfExperts`, or of a stack of them, on the grid of its update.

    Linear in the coefficients: where the parameters are an optimiser's moments, they become those of the new layer.
    """
    if isinstance(update, GridUpdate):

        def one_layer(spline, map_DGG):
            return _map_coefficients(
                spline, len(map_DGG), map_DGG.shape[-1], lambda coef_DFG: _product(coef_DFG, map_DGG)
            )

        for _ in update.map_DGG.shape[:-3]:
            one_layer = jax.vmap(one_layer)
        return _with(
            module, module.features.config.grid, one_layer(module.spline[...], update.map_DGG), update.knots_DM
        )
    new = nnx.clone(module)
    for name, part in update._asdict().items():
        if part is not None:
            setattr(new, name, apply_grid_update(getattr(module, name), part))
    return new


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
            new_DM = knot_insertion.refine_knots(knots_DM, num_intervals, grid.degree)

        def refine(coef_DFG):
            if num_intervals % grid.num_intervals == 0:
                return knot_insertion.insert_knots(coef_DFG, knots_DM, new_DM, grid.degree)
            inner_DM = knots_DM[:, grid.degree : knots_DM.shape[1] - grid.degree]
            x_RD = knot_insertion.refine_knots(inner_DM, 4 * (grid.degree + 1) * num_intervals, 0).T
            basis_RDG = bspline.basis(x_RD, knots_DM, grid.degree)
            return _product(coef_DFG, _refit(x_RD, basis_RDG, new_DM, grid.degree))

        return _map_coefficients(spline, len(knots_DM), grid.num_basis, refine), new_DM

    for _ in spline.shape[:-2]:
        one_layer = jax.vmap(one_layer)
    spline, new_DM = jax.jit(one_layer)(spline, knots_DM)  # else each of its hundred operations is compiled alone
    return _with(layer, new_grid, spline, None if knots_DM is None else new_DM)


def _parts(layer):
    """(grid, adaptive knots or None, spline) of a layer that has splines."""
    features = layer.features
    if features.config.basis != "bspline":
        raise ValueError(f"basis={features.config.basis!r} has no knots: 'bspline' is needed")
    return features.config.grid, None if features.knots_DM is None else features.knots_DM[...], layer.spline[...]


def _map_coefficients(spline, num_inputs, num_basis, function):
    """Applies a function of coefficients `[D, F, G]` to a layer's matrix `[G * D, F]`.

    Where all inputs share their knots they count as one with D * F outputs: one insertion or factorisation for all.
    """
    coef_DFG = jnp.moveaxis(spline.reshape(num_basis, num_inputs, -1), 0, -1)
    return jnp.moveaxis(function(coef_DFG), -1, 0).reshape(-1, spline.shape[-1])


def _refit(x_RD, basis_RDG, new_DM, degree, mask_R=None):
    """Least squares on the samples, as a map of coefficients `[D, G, G]`: each old basis function on the new ones.

    Fitting the values of all edges instead would take `[R, D, F]`; the answer is the same, and linear at that.
    """
    return bspline.fit(x_RD, basis_RDG, new_DM, degree, sample_mask=mask_R)


def _product(coef_DFG, map_DGG):
    return jnp.einsum("dfg,dgh->dfh", coef_DFG, map_DGG.astype(coef_DFG.dtype), precision="highest")


def _with(layer, grid, spline, knots_DM):
    """A copy of the layer with these parts."""
    new = nnx.clone(layer)
    new.features.config = dataclasses.replace(layer.features.config, grid=grid)
    if knots_DM is not None:
        new.features.knots_DM = layer.features.knots_DM.replace(knots_DM)
    new.spline = layer.spline.replace(spline)
    return new
