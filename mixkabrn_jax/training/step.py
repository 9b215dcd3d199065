"""One update of the parameters, and one evaluation of a batch, as pure functions to be jitted."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mixkabrn_jax.models import language
from mixkabrn_jax.training.losses import cross_entropy


@dataclass(frozen=True)
class StepConfig:
    """What an update does besides the optimiser; fields are those of `config.training`."""

    accumulation_steps: int
    """Microbatches whose gradients are summed before one update."""
    balance_loss: float
    """Coefficient of the expert balance loss (alpha 1 of DeepSeekMoE), summed over layers."""
    router_bias_rate: float
    """Step of the router bias towards an even load; 0 leaves the bias alone."""

    def __post_init__(self):
        if self.accumulation_steps < 1:
            raise ValueError(f"config.training.accumulation_steps={self.accumulation_steps}: at least 1 is needed")
        for field in ("balance_loss", "router_bias_rate"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"config.training.{field}={getattr(self, field)}: 0 or more is needed")


class Sums(NamedTuple):
    """Totals over batches; means are taken once, on the host."""

    nats: jax.Array
    tokens: jax.Array
    num_bytes: jax.Array
    updates: jax.Array
    balance: jax.Array
    """Balance loss summed over layers, one term an update."""
    grad_norm: jax.Array
    outside: jax.Array | None
    """Share of KAN inputs outside their grids, one term an update; None without splines."""
    load_LE: jax.Array | None
    """Choices that fell on each expert; None without experts."""


class TrainState(NamedTuple):
    """All that training changes: saved whole, restored whole."""

    step: jax.Array
    params: nnx.State
    buffers: nnx.State
    optimizer: optax.OptState
    sums: Sums
    """Since the last line of the log, so that a resumed run writes the same line."""


def init(model: language.LanguageModel, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update."""
    _, params, buffers = split(model)
    return TrainState(jnp.zeros((), jnp.int32), params, buffers, optimizer.init(params), zero_sums(model))


def split(model: language.LanguageModel):
    """(graph, params, buffers): gradients and the optimiser see params only."""
    return nnx.split(model, nnx.Param, ...)


def zero_sums(model: language.LanguageModel) -> Sums:
    """Totals over nothing."""
    config = model.config
    shape = (config.num_layers - config.first_dense_layers, config.num_experts)
    load_LE = jnp.zeros(shape) if config.num_experts else None
    has_splines = config.ffn == "kan" and config.kan_basis == "bspline"
    scalars = {name: jnp.zeros(()) for name in Sums._fields}
    return Sums(**scalars | {"outside": jnp.zeros(()) if has_splines else None, "load_LE": load_LE})


def make_train_step(graph, optimizer: optax.GradientTransformation, config: StepConfig):
    """Returns step(state, batch) -> state; jit it with the state donated.

    The batch is a dict of arrays `[B, T]` as `data.packing` makes them; B must be a multiple of accumulation_steps.
    """

    def loss(params, buffers, batch, num_tokens):
        sums = _forward(graph, params, buffers, batch)
        balance, outside = jax.tree.map(lambda a: a / config.accumulation_steps, (sums.balance, sums.outside))
        value = sums.nats / num_tokens + config.balance_loss * balance
        return value, sums._replace(balance=balance, outside=outside)

    def microbatch(state, batch, num_tokens):
        return jax.grad(loss, has_aux=True)(state.params, state.buffers, batch, num_tokens)

    def step(state: TrainState, batch) -> TrainState:
        num_tokens = jnp.maximum(jnp.sum(batch["weights"]), 1)
        if config.accumulation_steps == 1:
            grads, sums = microbatch(state, batch, num_tokens)
        else:
            parts = jax.tree.map(lambda a: a.reshape(config.accumulation_steps, -1, *a.shape[1:]), batch)

            def add(total, part):
                return jax.tree.map(jnp.add, total, microbatch(state, part, num_tokens)), None

            zeros = jax.tree.map(jnp.zeros_like, (state.params, state.sums))
            (grads, sums), _ = jax.lax.scan(add, zeros, parts)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        sums = sums._replace(updates=jnp.ones(()), grad_norm=optax.tree.norm(grads))
        buffers = state.buffers
        if config.router_bias_rate and sums.load_LE is not None:
            model = nnx.merge(graph, params, buffers)
            _, _, buffers = split(language.update_router_bias(model, sums.load_LE, config.router_bias_rate))
        total = jax.tree.map(jnp.add, state.sums, sums)
        return TrainState(state.step + 1, params, buffers, optimizer_state, total)

    return step


def size(params: nnx.State) -> float:
    """The parameters' global norm; not a number once any of them is none."""
    return float(optax.tree.norm(params))


def make_evaluate_step(graph):
    """Returns evaluate(params, buffers, batch) -> `Sums`."""

    def evaluate(params, buffers, batch) -> Sums:
        return _forward(graph, params, buffers, batch)

    return evaluate


def means(sums: Sums, balance_loss: float) -> dict[str, float]:
    """The figures of a log line.

    Always nats per token and bits per byte; for sums over updates also the gradient norm; with splines, the share of
    KAN inputs outside their grids; and with experts, the balance loss (1 a layer when even), the total that was
    minimised, and the busiest expert's load over the mean.
    """
    sums = jax.device_get(sums)
    values = {
        "loss": float(sums.nats) / max(float(sums.tokens), 1),
        "bits_per_byte": float(sums.nats) / math.log(2) / max(float(sums.num_bytes), 1),
    }
    if sums.updates:
        values["grad_norm"] = float(sums.grad_norm / sums.updates)
    if sums.updates and sums.outside is not None:
        values["outside_grid"] = float(sums.outside / sums.updates)
    if sums.updates and sums.load_LE is not None:
        values["balance_loss"] = float(sums.balance / sums.updates)
        values["total_loss"] = values["loss"] + balance_loss * values["balance_loss"]
        values["max_load"] = float((sums.load_LE.max(axis=-1) / sums.load_LE.mean(axis=-1)).max())
    return values


def _forward(graph, params, buffers, batch) -> Sums:
    model = nnx.merge(graph, params, buffers)
    output = model(batch["tokens"], segment_ids_BT=batch["segment_ids"])
    zero = zero_sums(model)
    balance, load_LE = (zero.balance, zero.load_LE) if output.balance is None else output.balance[::-1]
    return Sums(
        nats=cross_entropy(output.logits_BTW, batch["targets"], batch["weights"]),
        tokens=jnp.sum(batch["weights"]),
        num_bytes=jnp.sum(batch["num_bytes"]).astype(jnp.float32),
        updates=zero.updates,
        balance=jnp.sum(balance),
        grad_norm=zero.grad_norm,
        outside=None if output.outside_L is None else jnp.mean(output.outside_L),
        load_LE=load_LE,
    )
