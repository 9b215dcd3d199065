"""A language model whose splines are on other grids: finer ones, or knots that follow their inputs."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from mixkabrn_jax.layers import refinement
from mixkabrn_jax.models.language import LanguageModel


def extend_grid(model: LanguageModel, num_intervals: int) -> LanguageModel:
    """The model with all its splines on a grid of more intervals (`refinement.extend_grid`); itself is left as it is.

    Raises: ValueError for fewer intervals than there are, or a model without splines.
    """
    if model.config.ffn != "kan":
        raise ValueError(f"ffn={model.config.ffn!r} has no splines: 'kan' is needed")
    new = nnx.clone(model)
    kan = model.config.kan
    finer = dataclasses.replace(kan, grid=dataclasses.replace(kan.grid, num_intervals=num_intervals))
    new.config = dataclasses.replace(model.config, kan=finer)
    for blocks in new.stacks().values():
        for kan in (blocks.ffn.experts, blocks.ffn.shared) if blocks.routed else (blocks.ffn,):
            if kan is not None:
                kan.up = refinement.extend_grid(kan.up, num_intervals)
                kan.down = refinement.extend_grid(kan.down, num_intervals)
    return new


def update_grid(
    model: LanguageModel, tokens_BT, segment_ids_BT=None, mask_BT=None, *, uniform_fraction: float
) -> LanguageModel:
    """The model with adaptive knots that follow the inputs of all its KAN layers on these tokens, its splines refitted.

    A routed expert's samples are the tokens that it is run for; padding does not count; a layer or expert with fewer
    than `refinement.SAMPLES_PER_FUNCTION` samples for each basis function keeps its grid. Arguments and errors are
    those of `compute_grid_update`.
    """
    updates = compute_grid_update(model, tokens_BT, segment_ids_BT, mask_BT, uniform_fraction=uniform_fraction)
    return apply_grid_update(model, updates)


def compute_grid_update(
    model: LanguageModel, tokens_BT, segment_ids_BT=None, mask_BT=None, *, uniform_fraction: float
) -> dict[str, Any]:
    """What `update_grid` does to a model, for `apply_grid_update`; small beside the samples it comes from.

    Each layer's samples are the outputs of the layers before it as they are after their own update, as in pykan: on
    these tokens the new model's inputs are then just those that its knots were laid over and its splines were fitted
    on. With the outputs of the old layers, extremes would fall off the new grids by what the fits have left over.

    Args:
        tokens_BT, segment_ids_BT, mask_BT: as for the model's call.
        uniform_fraction: 1 = knots equally spaced between the extremes, 0 = at quantiles; pykan's value is 0.02.
    Returns: an update for each stack of blocks, every leaf with a leading layer dimension.
    Raises: ValueError for a model without splines or without adaptive knots.
    """
    if model.config.ffn != "kan":
        raise ValueError(f"ffn={model.config.ffn!r} has no splines: 'kan' is needed")
    state = model.init_state(tokens_BT.shape[0], None)
    x_BTD, position_BT, _ = model.embed(model.table(), tokens_BT, state, segment_ids_BT, mask_BT)

    def run(x_BTD, layer):
        block, mixer_state = layer
        return block.compute_grid_update(x_BTD, mixer_state, position_BT, segment_ids_BT, mask_BT, uniform_fraction)

    updates = {}
    for (name, blocks), mixer_states in zip(model.stacks().items(), state.mixers, strict=True):
        x_BTD, updates[name] = jax.lax.scan(run, x_BTD, (blocks, mixer_states))
    return updates


def apply_grid_update(model: LanguageModel, updates: dict[str, Any]) -> LanguageModel:
    """The model on the grids of `compute_grid_update`. Linear in the splines' coefficients: where the parameters are an
    optimiser's moments, they become those of the new model.
    """
    new = nnx.clone(model)
    for name, update in updates.items():
        blocks = getattr(new, name)
        blocks.ffn = refinement.apply_grid_update(blocks.ffn, update)
    return new
