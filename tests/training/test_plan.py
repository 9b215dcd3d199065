"""What a plan says, against the program it is about: compiled for simulated devices."""

import functools
import math
import re

import jax
import numpy as np
import pytest

from mixkabrn_jax import sharding
from mixkabrn_jax.layers import variables
from mixkabrn_jax.training import guard, optimizer, plan, step
from mixkabrn_jax.training.experiment import Experiment
from tests import toy

ONE_LAYER = {"model__num_layers": 1, "model__first_dense_layers": 0, "data__sequence_length": 12}
SIMPLE = {"model__ffn": "mlp", "model__num_experts": 0, "model__num_shared_experts": 0}


def experiment(sizes, **changes):
    mesh = {f"mesh__{axis}": size for axis, size in zip(("data", "expert", "model", "context"), sizes, strict=True)}
    return Experiment.from_dict(toy.experiment("text.txt", **(ONE_LAYER | mesh | changes)))


def real(of):
    """(state on the mesh, its layout, the step to be jitted)."""
    mesh = sharding.make_mesh(of.mesh)
    model = toy.make(of.model)
    adamw = optimizer.make(of.optimizer, of.num_steps)
    state = step.init(model, adamw, guard.init(of.guard, of.log_every))
    layout = variables.layout(state)
    setup = step.Setup(variables.split(model)[0], of.objective, adamw, of.training, of.guard, mesh)
    update = functools.partial(step.train_step, setup=setup)
    return sharding.place_by(state, layout, mesh), sharding.shardings(layout, mesh), update


def on_one_device(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "sizes",
    [(2, 2, 2, 1), *(pytest.param(s, marks=pytest.mark.slow) for s in ((1, 1, 1, 1), (8, 1, 1, 1), (2, 2, 1, 2)))],
)
def test_bytes_of_parameters_and_optimiser_are_those_on_a_device(sizes):
    of = experiment(sizes)
    state, _, _ = real(of)
    planned = plan.make(of, 29)
    assert planned.num_devices == math.prod(sizes)
    assert planned.parameter_bytes == on_one_device((state.params, state.buffers))
    assert planned.optimizer_bytes == on_one_device(state.optimizer)


def received(text, kind):
    """(how many, bytes that a device receives) of the collectives of a kind in the text of a compiled program."""
    count = total = 0
    for shapes, groups in re.findall(rf"= (\(.*?\)|\S+) {kind}(?:-start)?\(.*?replica_groups=(\S+)", text):
        devices = group_size(groups)
        for size in re.findall(r"[fs]32\[([\d,]*)\]", shapes):
            full = math.prod(int(n) for n in size.split(",") if n) * 4 * (devices if kind == "reduce-scatter" else 1)
            total += full * (devices - 1) // devices
        count += 1
    return np.array([count, total])


def group_size(groups):
    found = re.match(r"\[(\d+),(\d+)\]", groups)
    return int(found[2]) if found else len(re.match(r"\{\{([\d,]*)\}", groups)[1].split(","))


@pytest.mark.parametrize("sizes", [(8, 1, 1, 1), pytest.param((2, 2, 1, 2), marks=pytest.mark.slow)])
def test_all_gathers_and_reduce_scatters_are_those_of_the_compiled_program(sizes):
    """Sums are left out: XLA puts those of many small arrays together."""
    changes = SIMPLE if sizes[0] == 8 else {}
    of = experiment(sizes, **changes, model__num_layers=2)
    state, layout, update = real(of)
    update = jax.jit(update, out_shardings=layout)
    batch = toy.batch(0, of.data.batch_size, of.data.sequence_length)
    text = update.lower(state, sharding.place(batch, "BT", sharding.make_mesh(of.mesh))).compile().as_text()
    two, three = (plan.make(experiment(sizes, **changes, model__num_layers=layers), 29) for layers in (2, 3))
    for kind in ("all-gather", "reduce-scatter"):
        # In the program's text a layer stands once; XLA unrolls a loop over one layer, so there are two.
        layer = totals_of(three, kind) - totals_of(two, kind)
        assert totals_of(two, kind) - layer == pytest.approx(received(text, kind), rel=0.05)


def compiled_temporary_bytes(of):
    """What XLA sets aside on a device for a step, besides the state."""
    state, layout, update = real(of)
    batch = toy.batch(0, of.data.batch_size, of.data.sequence_length)
    batch = sharding.place(batch, "BT", sharding.make_mesh(of.mesh))
    program = jax.jit(update, donate_argnums=0, out_shardings=layout).lower(state, batch).compile()
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (8, 1, 1, 1)])
def test_a_layer_more_takes_a_device_the_bytes_that_are_planned(sizes):
    """As much as it leaves for the backward pass, and its gradients; what it needs as it runs does not grow."""
    large = SIMPLE | {"data__sequence_length": 64, "data__batch_size": 16}
    few, many = (experiment(sizes, **large | {"model__num_layers": layers}) for layers in (4, 12))
    grown = compiled_temporary_bytes(many) - compiled_temporary_bytes(few)
    few, many = plan.make(few, 29), plan.make(many, 29)
    planned = many.activation_bytes - few.activation_bytes + many.gradient_bytes - few.gradient_bytes
    assert planned == pytest.approx(grown, rel=0.05)


def totals_of(planned, kind):
    """(how many, bytes) of a kind."""
    return np.sum([(found.count, found.num_bytes) for found in planned.collectives if found.kind == kind], axis=0)


def test_layers_and_microbatches_multiply_what_crosses():
    one = plan.make(experiment((8, 1, 1, 1), **SIMPLE), 29)
    three = plan.make(experiment((8, 1, 1, 1), **SIMPLE, model__num_layers=3), 29)
    twice = plan.make(experiment((4, 1, 1, 1), **SIMPLE, training__accumulation_steps=2), 29)
    once = plan.make(experiment((4, 1, 1, 1), **SIMPLE), 29)

    def all_gather_of(of):
        return next(found for found in of.collectives if found.kind == "all-gather")

    in_layer = 2 * 7  # matrices, on the way there and back; the embedding and its convolution come on top
    assert [all_gather_of(of).count for of in (one, three, twice)] == [
        2 + in_layer,
        2 + 3 * in_layer,
        2 * (2 + in_layer),
    ]
    assert all_gather_of(twice).num_bytes == 2 * all_gather_of(once).num_bytes
    assert three.activation_bytes > one.activation_bytes


def test_seconds_are_work_over_speed():
    of = experiment((8, 1, 1, 1), **SIMPLE)
    planned = plan.make(of, 29)
    computing, exchanging = planned.seconds(2e6, 1e3)
    tokens = of.data.batch_size * of.data.sequence_length
    assert computing == pytest.approx(planned.flops_per_token * tokens / 8 / 2e6)
    assert exchanging == pytest.approx(sum(found.num_bytes for found in planned.collectives) / 1e3)
    assert "8 devices" in str(planned)


def test_one_device_exchanges_nothing():
    assert plan.make(experiment((1, 1, 1, 1)), 29).collectives == ()
