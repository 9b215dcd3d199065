"""The gradient of the objective over a whole batch: microbatch after microbatch, each split over the devices."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mixkabrn_jax import sharding
from mixkabrn_jax.layers import variables
from mixkabrn_jax.training.totals import Counts, Totals


def accumulate(state, batch: Mapping[str, jax.Array], batch_counts: Counts, setup) -> tuple[Any, Totals]:
    """Adds up the gradients of the microbatches one after the other, so that only one of them takes memory.

    Args:
        state: `step.TrainState`.
        batch: arrays `[B, T]`; B is a multiple of the number of microbatches.
        batch_counts: the objective's counts of the batch.
        setup: `step.Setup`.
    Returns: (gradients as the parameters lie, totals of the batch).
    """
    if setup.config.accumulation_steps == 1:
        return _of_microbatch(state, batch, batch_counts, setup)
    batch_A = jax.tree.map(lambda a: a.reshape(setup.config.accumulation_steps, -1, *a.shape[1:]), batch)
    if setup.mesh is not None:
        layout = sharding.shardings(sharding.spec("ABT"), setup.mesh)
        batch_A = jax.lax.with_sharding_constraint(batch_A, layout)

    def add(total, microbatch):
        return jax.tree.map(jnp.add, total, _of_microbatch(state, microbatch, batch_counts, setup)), None

    zeros = jax.tree.map(jnp.zeros_like, (state.params, state.totals))
    return jax.lax.scan(add, zeros, batch_A)[0]


def _of_microbatch(state, batch, batch_counts, setup):
    """On a mesh, each device differentiates its own part of the loss, and the gradients are summed over devices."""

    def loss(params, buffers, batch, batch_counts):
        num_parts = setup.config.accumulation_steps * sharding.size(*sharding.BATCH_AXES)
        return setup.objective.loss(variables.merge(setup.graph, params, buffers), batch, batch_counts, num_parts)

    def gradient(params, buffers, batch, batch_counts):
        grads, totals = jax.grad(loss, has_aux=True)(params, buffers, batch, batch_counts)
        return variables.psum_gradients(grads), sharding.psum(totals)

    arguments = state.params, state.buffers, batch, batch_counts
    if setup.mesh is None or setup.mesh.size == 1:
        return gradient(*arguments)
    fully_sharded, replicated = variables.layout(arguments[:2]), sharding.spec("")
    specs = (*fully_sharded, sharding.spec("BT"), replicated), (fully_sharded[0], replicated)
    return sharding.per_device(gradient, setup.mesh, *specs)(*arguments)
