"""What a run takes on a mesh that is not there: its step is traced on an abstract mesh, nothing is computed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.sharding import PartitionSpec

from mixkabrn_jax import sharding
from mixkabrn_jax.layers import variables
from mixkabrn_jax.models.language import count_parameters
from mixkabrn_jax.training import guard, optimizer, step
from mixkabrn_jax.training.experiment import Experiment
from mixkabrn_jax.training.utilisation import model_flops_per_token

COLLECTIVES = {
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "psum": "all-reduce",
    "all_to_all": "all-to-all",
}
"""JAX's names and XLA's."""


class Collective(NamedTuple):
    """Exchanges of one kind along the same axes."""

    kind: str
    axes: tuple[str, ...]
    count: int
    """In one step."""
    num_bytes: int
    """That each device receives in one step, by the ring algorithms."""


@dataclass(frozen=True)
class Plan:
    """One step of a run, for each device."""

    num_devices: int
    num_parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    gradient_bytes: int
    """As long as parameters that are trained; where copies of them are summed over devices, twice that for a moment."""
    activation_bytes: int
    """Kept from the forward pass for the backward pass, and the logits; what a layer needs as it runs comes on top."""
    collectives: tuple[Collective, ...]
    flops_per_token: float
    """Of the model, as in `utilisation.model_flops_per_token`, whatever is computed again."""
    tokens: int
    """In a step, of all devices."""

    def __str__(self):
        lines = [
            f"{self.num_parameters:,} parameters on {self.num_devices} devices, {self.tokens:,} tokens a step",
            "on each device:",
            f"  parameters   {_readable(self.parameter_bytes)}",
            f"  optimiser    {_readable(self.optimizer_bytes)}",
            f"  gradients    {_readable(self.gradient_bytes)}",
            f"  activations  {_readable(self.activation_bytes)}",
            f"  flops        {self.flops_per_token * self.tokens / self.num_devices:.3e} a step, "
            f"{self.flops_per_token:.3e} a token",
        ]
        for kind, axes, count, num_bytes in sorted(self.collectives, key=lambda found: -found.num_bytes):
            lines.append(f"  {kind:14} along {' and '.join(axes):16} {count:6} times, {_readable(num_bytes)} in all")
        return "\n".join(lines)

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> tuple[float, float]:
        """(computing, exchanging) in one step at these figures of a chip; they overlap at best and add up at worst."""
        computing = self.flops_per_token * self.tokens / self.num_devices / flops_per_second
        return computing, sum(collective.num_bytes for collective in self.collectives) / bytes_per_second


def make(experiment: Experiment, vocab_size: int) -> Plan:
    """Traces the whole training step of an experiment, for the processor of `config.model.backend`; not of adapters.

    What crosses along `model` is XLA's to choose and counted by formula: in each layer the mixer and the feed-forward
    end in one sum of the residual stream over the devices, and on the way back begin in one.
    """
    if experiment.adapter.rank:
        raise ValueError(f"config.adapter.rank={experiment.adapter.rank}: a plan is of a model that is trained whole")
    mesh, config = sharding.abstract_mesh(experiment.mesh), experiment.model
    model, state, program = _traced(experiment, vocab_size, mesh)
    exchanged = [*_collectives(*program, mesh.shape), *_along_model(experiment, config, mesh.shape)]
    parameters = count_parameters(model)
    return Plan(
        num_devices=experiment.mesh.size,
        num_parameters=parameters["total"],
        parameter_bytes=_bytes_on_one((state.params, state.buffers), mesh.shape),
        optimizer_bytes=_bytes_on_one(state.optimizer, mesh.shape),
        gradient_bytes=_bytes_on_one(state.params, mesh.shape),
        activation_bytes=_kept(program[0]) + _logit_bytes(experiment, vocab_size),
        collectives=_total(exchanged),
        flops_per_token=model_flops_per_token(model, parameters, experiment.data.sequence_length),
        tokens=experiment.data.batch_size * experiment.data.sequence_length,
    )


def _traced(experiment, vocab_size, mesh):
    """(abstract model, abstract state, (the program of one device, how often it runs in a step))."""
    adamw = optimizer.make(experiment.optimizer, experiment.num_steps)

    def start():
        model = experiment.new_model(vocab_size)
        return model, step.init(model, adamw, guard.init(experiment.guard, experiment.log_every))

    model, state = jax.eval_shape(start)
    graph, _, _ = variables.split(model)
    setup = step.Setup(graph, experiment.objective, adamw, experiment.training, experiment.guard, mesh)
    shape_BT = experiment.data.batch_size, experiment.data.sequence_length
    batch = {
        key: jax.ShapeDtypeStruct(shape_BT, jnp.int32) for key in ("tokens", "targets", "segment_ids", "num_bytes")
    }
    batch["loss_mask"] = jax.ShapeDtypeStruct(shape_BT, jnp.float32)
    traced = jax.jit(partial(step.train_step, setup=setup)).trace(state, batch).jaxpr.jaxpr
    (program,) = _programs(traced) if experiment.mesh.size > 1 else [(traced, 1)]
    return model, state, program


def _bytes_on_one(tree, sizes):
    """Of the device with the largest parts."""

    def of_one(spec, part):  # which holds no array where another optimiser trains the parameter
        parts = math.prod(sizes[axis] for entry in spec if entry for axis in sharding.axes_of(entry))
        return sum(leaf.size // parts * leaf.dtype.itemsize for leaf in jax.tree.leaves(part))

    layout = variables.layout(tree)
    found = jax.tree.map(of_one, layout, tree, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
    return sum(jax.tree.leaves(found))


def _programs(jaxpr, times=1) -> Iterator[tuple]:
    """The programs of one device in a program, and how often each runs."""
    for equation in jaxpr.eqns:
        for inner in core.jaxprs_in_params(equation.params):
            if equation.primitive.name == "shard_map":
                yield inner, times
            else:
                yield from _programs(inner, times * _turns(equation))


def _turns(equation):
    return equation.params["length"] if equation.primitive.name == "scan" else 1


def _collectives(jaxpr, times, sizes) -> Iterator[Collective]:
    for equation in jaxpr.eqns:
        kind = COLLECTIVES.get(equation.primitive.name)
        if kind is not None:
            axes = equation.params["axes"] if kind == "all-reduce" else equation.params["axis_name"]
            axes = axes if isinstance(axes, tuple) else (axes,)
            yield _collective(kind, axes, times, max(_bytes(equation.invars), _bytes(equation.outvars)), sizes)
        for inner in core.jaxprs_in_params(equation.params):
            yield from _collectives(inner, times * _turns(equation), sizes)


def _collective(kind, axes, times, num_bytes, sizes):
    devices = math.prod(sizes[axis] for axis in axes)
    passes = 2 if kind == "all-reduce" else 1
    return Collective(kind, tuple(axes), times, times * passes * num_bytes * (devices - 1) // devices)


def _along_model(experiment, config, sizes) -> Iterator[Collective]:
    if sizes["model"] > 1:
        devices = sizes["data"] * sizes["expert"] * sizes["context"]
        tokens = experiment.data.batch_size * experiment.data.sequence_length // devices
        num_bytes = tokens * config.d_model * jnp.dtype(config.compute_dtype).itemsize
        yield _collective("all-reduce", ("model",), 4 * config.num_layers, num_bytes, sizes)


def _total(collectives):
    """One for each kind and axes."""
    found = {}
    for kind, axes, count, num_bytes in collectives:
        before = found.get((kind, axes), Collective(kind, axes, 0, 0))
        found[kind, axes] = Collective(kind, axes, before.count + count, before.num_bytes + num_bytes)
    return tuple(found.values())


def _kept(jaxpr) -> int:
    """Bytes that loops over layers leave behind one layer after the other, in the pass that leaves most."""
    left = [0]
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            left.append(_bytes(equation.outvars[equation.params["num_carry"] :]))
        else:
            left += [_kept(inner) for inner in core.jaxprs_in_params(equation.params)]
    return max(left)


def _logit_bytes(experiment, vocab_size):
    mesh, data = experiment.mesh, experiment.data
    rows = data.batch_size // experiment.training.accumulation_steps // (mesh.data * mesh.expert)
    return rows * data.sequence_length // mesh.context * vocab_size * 4


def _bytes(variables_of):
    return sum(variable.aval.size * variable.aval.dtype.itemsize for variable in variables_of)


def _readable(num_bytes):
    thousands = min(int(math.log10(max(num_bytes, 1)) // 3), 3)
    return f"{num_bytes / 1000**thousands:.4g} {('bytes', 'kB', 'MB', 'GB')[thousands]}"
