"""One update of the parameters, and one evaluation of a batch, as pure functions to be jitted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from mixkabrn_jax import sharding
from mixkabrn_jax.layers import variables
from mixkabrn_jax.models import language
from mixkabrn_jax.models.quantize import weight_statistics
from mixkabrn_jax.training import gradient, guard, knots, optimizer, totals
from mixkabrn_jax.training.guard import GuardConfig, History
from mixkabrn_jax.training.objectives.language import LanguageObjective
from mixkabrn_jax.training.optimizer import Optimizer
from mixkabrn_jax.training.totals import Totals


@dataclass(frozen=True)
class StepConfig:
    """What an update does besides the optimiser; fields are those of `config.training`."""

    accumulation_steps: int
    """Microbatches whose gradients are summed before one update."""
    router_bias_rate: float
    """Step of the router bias towards an even load; 0 leaves the bias alone."""
    grid_update_every: int
    """Updates of the parameters from one move of adaptive knots to the next; 0 leaves them where they are."""
    grid_update_until: int
    """The last update of the parameters that knots move before."""
    grid_uniform_fraction: float
    """Of the moved knots: 1 = equally spaced, 0 = at quantiles of their inputs; pykan's value is 0.02."""

    def __post_init__(self):
        if self.accumulation_steps < 1:
            raise ValueError(f"config.training.accumulation_steps={self.accumulation_steps}: at least 1 is needed")
        if not 0 <= self.router_bias_rate < math.inf:
            raise ValueError(f"config.training.router_bias_rate={self.router_bias_rate}: 0 or more is needed")
        if self.grid_update_every < 0:
            raise ValueError(f"config.training.grid_update_every={self.grid_update_every}: 0 or more is needed")
        if self.grid_update_every > self.grid_update_until:
            raise ValueError(
                f"config.training.grid_update_until={self.grid_update_until}: at least "
                f"config.training.grid_update_every={self.grid_update_every} is needed, or no knots move"
            )
        if not 0 <= self.grid_uniform_fraction <= 1:
            raise ValueError(f"config.training.grid_uniform_fraction={self.grid_uniform_fraction}: 0 to 1 is needed")


@dataclass(frozen=True)
class Setup:
    """What stays the same from step to step."""

    graph: nnx.GraphDef
    """Of the model; its arrays are in the state."""
    objective: LanguageObjective
    """Or another one of `training.objectives`."""
    optimizer: Optimizer
    config: StepConfig
    guard: GuardConfig | None = None
    """What judges the updates of a state that has a history."""
    mesh: Mesh | None = None
    """None for one device."""


class TrainState(NamedTuple):
    """All that training changes: saved whole, restored whole."""

    step: jax.Array
    params: nnx.State
    buffers: nnx.State
    optimizer: optimizer.OptimizerState
    totals: Totals
    """Since the last record of the log, so that a resumed run writes the same record."""
    guard: History | None
    """What updates are held against; None accepts them all."""


def init(model: nnx.Module, optimizer: Optimizer, history: History | None = None) -> TrainState:
    """The state before the first update."""
    _, params, buffers = variables.split(model)
    return TrainState(jnp.zeros((), jnp.int32), params, buffers, optimizer.init(params), totals.zeros(model), history)


def parts(state: TrainState) -> dict[str, dict]:
    """The state as a checkpoint stores it: the model can be read without the optimiser, and a frozen one is not in it.

    "sums" is the name that checkpoints have for the totals.
    """
    optimizer_part = {"step": state.step, "optimizer": state.optimizer, "sums": state.totals, "guard": state.guard}
    return {"model": {"params": state.params, "buffers": variables.saved(state.buffers)}, "optimizer": optimizer_part}


def from_parts(parts: Mapping[str, dict], like: TrainState | None = None) -> TrainState:
    """The inverse of `parts`; what is frozen comes from a state like it."""
    model, rest = dict(parts["model"]), dict(parts["optimizer"])
    if like is not None:
        model["buffers"] = variables.with_frozen(model["buffers"], like.buffers)
    return TrainState(**model, totals=rest.pop("sums"), **rest)


def train_step(state: TrainState, batch: Mapping[str, jax.Array], setup: Setup) -> TrainState:
    """One update: the state after a batch. To be jitted with the setup bound to it and the state donated.

    On a mesh of several devices the state lies as `layers.variables.layout` says and the batch as "BT"; the gradient is
    the program of one device (`sharding.per_device`), while all else goes number by number and stays where it lies.

    A state with a history (`guard.init` of the setup's config) has its updates judged. One that is skipped leaves no
    trace in parameters, buffers, optimiser and totals: later ones are those of a run that never saw the batch. So the
    schedule goes by accepted updates, as the optimiser counts them; `step` counts on, for it is the position of the
    data.

    Args:
        batch: arrays `[B, T]` as `data.packing` makes them; B must be a multiple of accumulation_steps.
    """
    before = state
    state = knots.move_if_due(state, batch, setup)
    batch_counts = jax.tree.map(lambda count: jnp.maximum(count, 1), setup.objective.counts(batch))
    grads, found = gradient.accumulate(state, batch, batch_counts, setup)
    params, optimizer_state = optimizer.update(setup.optimizer, grads, state.optimizer, state.params)
    old, new = (variables.merge(setup.graph, values, state.buffers) for values in (state.params, params))
    # Every step, not for records only: flips need the codes before the update, and their mean over the steps of a
    # record says more than its last step. 1.4 ms of the 300 of a step of lm.py:tiny on two CPU cores.
    weights = weight_statistics(old, new)
    found = found._replace(updates=jnp.ones(()), grad_norm=optimizer.global_norm(grads), weights=weights)
    buffers = _move_router_bias(new, state.buffers, found, setup.config.router_bias_rate)
    added = jax.tree.map(jnp.add, state.totals, found)
    after = TrainState(state.step + 1, params, buffers, optimizer_state, added, state.guard)
    return _unless_harmful(before, after, found.nats / batch_counts.targets, found.grad_norm, setup.guard)


def _move_router_bias(model, buffers, found, rate):
    if not rate or found.load_LE is None:
        return buffers
    return variables.split(language.update_router_bias(model, found.load_LE, rate))[2]


def _unless_harmful(before, after, loss, grad_norm, config):
    """The state after the update, or the one before it where the guard has something against the update."""
    if after.guard is None:
        return after
    is_accepted, history = guard.review(after.guard, config, after.step, loss, grad_norm)
    return guard.choose(is_accepted, after, before)._replace(step=after.step, guard=history)


def evaluate_step(params: nnx.State, buffers: nnx.State, batch: Mapping[str, jax.Array], setup: Setup) -> Totals:
    """The totals of a batch; arrays lie as for `train_step`."""

    def forward(params, buffers, batch):
        return sharding.psum(setup.objective.totals(variables.merge(setup.graph, params, buffers), batch))

    if setup.mesh is None or setup.mesh.size == 1:
        return forward(params, buffers, batch)
    specs = *variables.layout((params, buffers)), sharding.spec("BT")
    return sharding.per_device(forward, setup.mesh, specs, sharding.spec(""))(params, buffers, batch)


def parameters_norm(params: nnx.State) -> float:
    """The parameters' global norm; not a number once any of them is none."""
    # One program: several processes on CPUs may block each other when each array's sum is started by itself.
    return float(jax.jit(optimizer.global_norm)(params))
