"""One update of the parameters, and one evaluation of a batch, as pure functions to be jitted."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from mixkabrn_jax import sharding
from mixkabrn_jax.layers import variables
from mixkabrn_jax.models import grid, language
from mixkabrn_jax.models.quantize import weight_statistics
from mixkabrn_jax.training import guard as guards
from mixkabrn_jax.training import totals
from mixkabrn_jax.training.optimizer import carry_moments
from mixkabrn_jax.training.totals import Sums


@dataclass(frozen=True)
class StepConfig:
    """What an update does besides the optimiser; fields are those of `config.training`."""

    accumulation_steps: int
    """Microbatches whose gradients are summed before one update."""
    balance_loss: float
    """Coefficient of the expert balance loss (alpha 1 of DeepSeekMoE), summed over layers. A product of two means: with
    accumulation it is the mean of those of the microbatches, which is not that of the batch."""
    sequence_balance_loss: float
    """Coefficient of the balance loss within each row of the batch (alpha of DeepSeek-V3), summed over layers."""
    device_balance_loss: float
    """Coefficient of the device balance loss (alpha 2 of DeepSeekMoE), summed over layers; with accumulation the mean
    of those of the microbatches, as `balance_loss`."""
    router_z_loss: float
    """Coefficient of the mean square of the router's logsumexp (ST-MoE), summed over layers."""
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
        for field in (*totals.AUXILIARY_LOSSES, "router_bias_rate"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"config.training.{field}={getattr(self, field)}: 0 or more is needed")
        if self.grid_update_every < 0:
            raise ValueError(f"config.training.grid_update_every={self.grid_update_every}: 0 or more is needed")
        if self.grid_update_every > self.grid_update_until:
            raise ValueError(
                f"config.training.grid_update_until={self.grid_update_until}: at least "
                f"config.training.grid_update_every={self.grid_update_every} is needed, or no knots move"
            )
        if not 0 <= self.grid_uniform_fraction <= 1:
            raise ValueError(f"config.training.grid_uniform_fraction={self.grid_uniform_fraction}: 0 to 1 is needed")


class TrainState(NamedTuple):
    """All that training changes: saved whole, restored whole."""

    step: jax.Array
    params: nnx.State
    buffers: nnx.State
    optimizer: optax.OptState
    sums: Sums
    """Since the last line of the log, so that a resumed run writes the same line."""
    guard: guards.History | None
    """What updates are held against; None accepts them all."""


def init(
    model: language.LanguageModel, optimizer: optax.GradientTransformation, guard: guards.History | None = None
) -> TrainState:
    """The state before the first update."""
    _, params, buffers = split(model)
    return TrainState(jnp.zeros((), jnp.int32), params, buffers, optimizer.init(params), totals.zeros(model), guard)


def parts(state: TrainState) -> dict:
    """The state as the parts of a checkpoint (`runs.checkpoint`), of which the model can be read alone."""
    model = {"params": state.params, "buffers": state.buffers}
    rest = {"step": state.step, "optimizer": state.optimizer, "sums": state.sums, "guard": state.guard}
    return {"model": model, "optimizer": rest}


def from_parts(parts: dict) -> TrainState:
    """The state of which these are the `parts`."""
    return TrainState(**parts["model"], **parts["optimizer"])


def split(model: language.LanguageModel):
    """(graph, params, buffers): gradients and the optimiser see params only."""
    return nnx.split(model, nnx.Param, ...)


def make_train_step(
    graph,
    optimizer: optax.GradientTransformation,
    config: StepConfig,
    guard: guards.GuardConfig | None = None,
    mesh: Mesh | None = None,
):
    """Returns step(state, batch) -> state; jit it with the state donated.

    On a mesh of several devices the state lies as `layers.variables.layout` says and the batch as "BT"; the gradient is
    the program of one device (`sharding.per_device`), while all else goes number by number and stays where it lies.

    The batch is a dict of arrays `[B, T]` as `data.packing` makes them; B must be a multiple of accumulation_steps.
    Where knots are due to move, they do so before the gradient, to the inputs of this batch, with the optimiser's
    moments changed as the splines are. The step's number alone decides, so a resumed run moves them alike.

    A state with a history (`guard.init` of the same config) has its updates judged. One that is skipped leaves no trace
    in parameters, buffers, optimiser and sums: later ones are those of a run that never saw the batch. So the schedule
    goes by accepted updates, as the optimiser counts them; `step` counts on, for it is the position of the data.
    """

    def loss(params, buffers, batch, whole):
        sums = _forward(graph, params, buffers, batch)
        # A mean over the whole batch is the microbatches' means by their part of it: exact for means over tokens or
        # rows. The other two losses have no such parts; each microbatch counts the same, and so do inputs of splines.
        part = _Counts.of(batch)
        num_parts = config.accumulation_steps * sharding.size(*sharding.BATCH_AXES)
        weight = {"sequence_balance_loss": part.rows / whole.rows, "router_z_loss": part.tokens / whole.tokens}
        terms = {name: getattr(sums, name) * weight.get(name, 1 / num_parts) for name in totals.AUXILIARY_LOSSES}
        total = sums.nats / whole.weights
        for name in totals.AUXILIARY_LOSSES:
            if getattr(config, name):  # one that is only reported costs no backward pass
                total = total + getattr(config, name) * terms[name]
        outside = None if sums.outside is None else sums.outside / num_parts
        return total, sums._replace(**terms, outside=outside)

    def gradient(params, buffers, batch, whole):
        grads, sums = jax.grad(loss, has_aux=True)(params, buffers, batch, whole)
        return variables.psum_gradients(grads), sharding.psum(sums)

    def microbatch(state, batch, whole):
        arguments = state.params, state.buffers, batch, whole
        if mesh is None or mesh.size == 1:
            return gradient(*arguments)
        fully_sharded, replicated = variables.layout(arguments[:2]), sharding.spec("")
        specs = (*fully_sharded, sharding.spec("BT"), replicated), (fully_sharded[0], replicated)
        return sharding.per_device(gradient, mesh, *specs)(*arguments)

    def move_knots(state: TrainState, batch) -> TrainState:
        model = nnx.merge(graph, state.params, state.buffers)
        changes = grid.grid_changes(
            model,
            batch["tokens"],
            segment_ids_BT=batch["segment_ids"],
            uniform_fraction=config.grid_uniform_fraction,
        )

        def change(params):
            return split(grid.change_grids(nnx.merge(graph, params, state.buffers), changes))[1:]

        params, buffers = change(state.params)
        moments = carry_moments(state.optimizer, lambda params: change(params)[0])
        return state._replace(params=params, buffers=buffers, optimizer=moments)

    def step(state: TrainState, batch) -> TrainState:
        before = state
        if config.grid_update_every and nnx.merge(graph, state.params, state.buffers).config.ffn == "kan":
            is_due = (state.step % config.grid_update_every == 0) & (state.step <= config.grid_update_until)
            # Not before the first update: inputs of an untrained model say little of those to come.
            is_due = is_due & (state.step > 0)
            state = jax.lax.cond(is_due, move_knots, lambda state, _: state, state, batch)
        whole = _Counts(*(jnp.maximum(count, 1) for count in _Counts.of(batch)))
        if config.accumulation_steps == 1:
            grads, sums = microbatch(state, batch, whole)
        else:
            parts = jax.tree.map(lambda a: a.reshape(config.accumulation_steps, -1, *a.shape[1:]), batch)
            if mesh is not None:
                parts = jax.lax.with_sharding_constraint(parts, sharding.shardings(sharding.spec("ABT"), mesh))

            def add(total, part):
                return jax.tree.map(jnp.add, total, microbatch(state, part, whole)), None

            zeros = jax.tree.map(jnp.zeros_like, (state.params, state.sums))
            (grads, sums), _ = jax.lax.scan(add, zeros, parts)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        old, model = (nnx.merge(graph, values, state.buffers) for values in (state.params, params))
        # Every step, not on log lines only: flips need the codes before the update, and their mean over the steps of
        # a line says more than its last step. 1.4 ms of the 300 of a step of lm.py:tiny on two CPU cores.
        weights = weight_statistics(old, model)
        sums = sums._replace(updates=jnp.ones(()), grad_norm=optax.tree.norm(grads), weights=weights)
        buffers = state.buffers
        if config.router_bias_rate and sums.load_LE is not None:
            _, _, buffers = split(language.update_router_bias(model, sums.load_LE, config.router_bias_rate))
        total = jax.tree.map(jnp.add, state.sums, sums)
        after = TrainState(state.step + 1, params, buffers, optimizer_state, total, state.guard)
        if state.guard is None:
            return after
        loss = sums.nats / whole.weights
        is_accepted, history = guards.review(state.guard, guard, after.step, loss, sums.grad_norm)
        return guards.choose(is_accepted, after, before)._replace(step=after.step, guard=history)

    return step


class _Counts(NamedTuple):
    """What means over a batch are taken over."""

    weights: jax.Array
    tokens: jax.Array
    """Positions that are no padding."""
    rows: jax.Array
    """Those that are not padding alone."""

    @classmethod
    def of(cls, batch):
        counts_BT = batch["segment_ids"] > 0
        tokens_B = sharding.psum(jnp.sum(counts_BT, axis=1), ("context",))
        # A row that devices share counts for each of them by its part.
        rows = jnp.sum(tokens_B > 0) / sharding.size("context")
        return cls(jnp.sum(batch["loss_mask"]), jnp.sum(counts_BT), rows)


def size(params: nnx.State) -> float:
    """The parameters' global norm; not a number once any of them is none."""
    # One program: several processes on CPUs may block each other when each array's sum is started by itself.
    return float(jax.jit(optax.tree.norm)(params))


def make_evaluate_step(graph, mesh: Mesh | None = None):
    """Returns evaluate(params, buffers, batch) -> `Sums`; arrays lie as for `make_train_step`."""

    def forward(params, buffers, batch) -> Sums:
        return sharding.psum(_forward(graph, params, buffers, batch))

    if mesh is None or mesh.size == 1:
        return forward

    def evaluate(params, buffers, batch) -> Sums:
        specs = *variables.layout((params, buffers)), sharding.spec("BT")
        return sharding.per_device(forward, mesh, specs, sharding.spec(""))(params, buffers, batch)

    return evaluate


def _forward(graph, params, buffers, batch) -> Sums:
    return totals.of_batch(nnx.merge(graph, params, buffers), batch)
