"""Adaptive knots of splines, which move to their inputs every so many updates."""

from collections.abc import Mapping

import jax

from mixkabrn_jax.layers import variables
from mixkabrn_jax.models import grid
from mixkabrn_jax.training.optimizer import carry_moments


def move_if_due(state, batch: Mapping[str, jax.Array], setup):
    """The state with its knots moved to the inputs of this batch, where the step's number says so.

    The number alone decides, so a resumed run moves them alike. The optimiser's moments are changed as the splines are.

    Args:
        state: `step.TrainState`.
        batch: arrays `[B, T]`.
        setup: `step.Setup`.
    """
    config = setup.config
    if not config.grid_update_every or variables.merge(setup.graph, state.params, state.buffers).config.ffn != "kan":
        return state
    is_due = (state.step % config.grid_update_every == 0) & (state.step <= config.grid_update_until)
    # Not before the first update: inputs of an untrained model say little of those to come.
    is_due = is_due & (state.step > 0)
    return jax.lax.cond(is_due, lambda state, batch: _move(state, batch, setup), lambda state, _: state, state, batch)


def _move(state, batch, setup):
    updates = grid.compute_grid_update(
        variables.merge(setup.graph, state.params, state.buffers),
        batch["tokens"],
        segment_ids_BT=batch["segment_ids"],
        uniform_fraction=setup.config.grid_uniform_fraction,
    )

    def updated(params):
        model = grid.apply_grid_update(variables.merge(setup.graph, params, state.buffers), updates)
        return variables.split(model)[1:]

    params, buffers = updated(state.params)
    moments = carry_moments(state.optimizer, lambda params: updated(params)[0])
    return state._replace(params=params, buffers=buffers, optimizer=moments)
