"""A step on a mesh is the step on one device, and between devices goes what the layout asks for, no more."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.extend import core

from mixkabrn_jax import sharding
from mixkabrn_jax.data.tokenizers import Bytes
from mixkabrn_jax.layers import variables
from mixkabrn_jax.models.adapters import AdapterConfig, put_in
from mixkabrn_jax.runs import model_file
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.runs.model import abstract as abstract_model
from mixkabrn_jax.sharding import MeshConfig
from mixkabrn_jax.training import guard, optimizer, step, totals
from tests import toy

AXES = ("data", "expert", "model", "context")
ROWS, LENGTH = 8, 12
LOSSES = {"balance_loss": 0.01, "sequence_balance_loss": 0.01, "device_balance_loss": 0.01, "router_z_loss": 0.001}
TRAINING = LOSSES | {"router_bias_rate": 0.001}
MUON = optimizer.OptimizerConfig(**toy.section("optimizer", matrices="muon", peak_rate=0.1))
OPTIMIZERS = {"sgd": optax.sgd(0.1), "adam": optax.adam(1e-3), "muon": optimizer.make(MUON, 10)}
GUARD = guard.GuardConfig(history_length=4, sigmas=6.0, max_consecutive_skips=2)
# None with ternary matrices: their products with integer codes are integers, many of them halfway between two codes of
# the next layer, where the rounding of another order of sums ends up in another code.
MODELS = {
    "retention, KAN experts": {},
    "attention, MLP experts": {
        "mixer": "attention",
        "ffn": "mlp",
        "router__dispatch": "dense",
        "num_shared_experts": 2,
        "first_dense_layers": 1,
    },
    "gated retention, no experts": {
        "retention__decay": "gated",
        "retention__normalization": "none",
        "num_experts": 0,
        "num_shared_experts": 0,
        "first_dense_layers": 0,
    },
}


ADAPTERS = "adapters beside retention and KAN experts"


def model_of(name):
    if name != ADAPTERS:
        return toy.make(toy.model_config(**MODELS[name]))
    model = toy.make(toy.model_config(kan__spline_linear="ternary", quantization__embedding="int8"), vocab_size=257)
    frozen, _, _ = model_file.frozen_from_bytes(model_file.to_bytes(model, Bytes(), toy.document()))
    graph, params, buffers = variables.split(put_in(frozen, AdapterConfig(rank=2), rngs=nnx.Rngs(0)))
    params = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(a.size).normal(0, 0.1, a.shape), a.dtype), params)
    return variables.merge(graph, params, buffers)


def mesh_of(*sizes):
    return sharding.make_mesh(MeshConfig(**dict(zip(AXES, sizes, strict=True))))


def batch(seed):
    """Packed documents that end anywhere, padding, and a row of padding alone."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 29, (ROWS, LENGTH + 1)).astype(np.int32)
    segments = 1 + np.cumsum(rng.random((ROWS, LENGTH)) < 0.15, axis=1, dtype=np.int32)
    segments[2, 7:], segments[5] = 0, 0
    counts = (segments > 0).astype(np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": segments,
        "loss_mask": counts.astype(np.float32),
        "num_bytes": counts,
    }


def start(model, mesh, optimizer):
    state = step.init(model, OPTIMIZERS[optimizer], guard.init(GUARD, 2))
    return sharding.place_by(state, variables.layout(state), mesh)


def compiled(model, mesh, training=TRAINING, optimizer="sgd"):
    state = start(model, mesh, optimizer)
    layout = sharding.shardings(variables.layout(state), mesh)
    update = jax.jit(toy.train_step(model, OPTIMIZERS[optimizer], GUARD, mesh, **training), out_shardings=layout)
    return update.lower(state, sharding.place(batch(0), "BT", mesh)).compile(), state


def trained(model, mesh, training=TRAINING, optimizer="sgd"):
    """(the state after two steps, its figures, those of an evaluation)."""
    update, state = compiled(model, mesh, training, optimizer)
    for seed in range(2):
        state = update(state, sharding.place(batch(seed), "BT", mesh))
    evaluate = jax.jit(toy.evaluate_step(model, mesh))
    found = evaluate(state.params, state.buffers, sharding.place(batch(2), "BT", mesh))
    objective = toy.setup(model, None, **training).objective
    return jax.device_get(state), totals.means(state.totals, objective), totals.means(found, objective)


def check_equal(model, mesh, training=TRAINING, optimizer="sgd", slack=1.0):
    want_state, want, want_evaluated = trained(model, mesh_of(1, 1, 1, 1), training, optimizer)
    state, got, got_evaluated = trained(model, mesh, training, optimizer)
    rounding = slack * toy.rounding(1.0, model.config, 64)
    assert got == pytest.approx(want, rel=rounding, abs=rounding)
    assert got_evaluated == pytest.approx(want_evaluated, rel=rounding, abs=rounding)
    for (path, leaf), want_leaf in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(want_state), strict=True
    ):
        scale = max(np.abs(want_leaf).max(initial=0), 1.0)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, want_leaf, rtol=0, atol=rounding * scale, err_msg=name)


@pytest.mark.parametrize(
    ("name", "sizes", "training"),
    [
        ("retention, KAN experts", (2, 2, 1, 2), TRAINING),
        (ADAPTERS, (2, 2, 1, 2), LOSSES),
        pytest.param(
            *("attention, MLP experts", (1, 2, 2, 2), LOSSES | {"accumulation_steps": 2}), marks=pytest.mark.slow
        ),
    ],
)
def test_a_step_on_a_mesh_is_the_step_on_one_device(name, sizes, training):
    check_equal(model_of(name), mesh_of(*sizes), training)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, ADAPTERS])
@pytest.mark.parametrize(
    "sizes",
    [
        *((2, 1, 1, 1), (4, 1, 1, 1), (8, 1, 1, 1), (1, 2, 1, 1), (1, 4, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)),
        *((1, 1, 1, 4), (2, 2, 2, 1), (2, 2, 1, 2), (1, 2, 2, 2), (1, 2, 1, 4)),
    ],
)
def test_a_step_on_any_mesh_is_the_step_on_one_device(name, sizes):
    check_equal(model_of(name), mesh_of(*sizes), LOSSES if name == ADAPTERS else TRAINING)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 1, 1, 1), (8, 1, 1, 1), (1, 4, 1, 1), (1, 1, 2, 1), (2, 2, 2, 1), (1, 2, 1, 4)])
def test_a_step_of_muon_on_any_mesh_is_the_step_on_one_device(sizes):
    check_equal(model_of("attention, MLP experts"), mesh_of(*sizes), optimizer="muon")


@pytest.mark.slow
def test_microbatches_of_a_mesh_are_those_of_one_device():
    training = LOSSES | {"accumulation_steps": 2}
    changes = {"mixer": "attention", "ffn": "mlp", "router__dispatch": "dense"}
    check_equal(toy.make(toy.model_config(**changes)), mesh_of(2, 1, 1, 2), training)


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", ["sorted", "dense"])
def test_devices_with_a_capacity_are_microbatches_with_one(dispatch):
    """Each counts its own tokens; the balance losses, which are over the whole batch, are left out."""
    changes = {"mixer": "attention", "ffn": "mlp", "router__dispatch": dispatch, "router__capacity_factor": 0.75}
    model = toy.make(toy.model_config(**changes))
    whole = {"balance_loss": 0.0, "router_bias_rate": 0.001}
    want_state, want, _ = trained(model, mesh_of(1, 1, 1, 1), whole | {"accumulation_steps": 4})
    state, got, _ = trained(model, mesh_of(2, 2, 1, 1), whole)
    assert want["dropped"] > 0.05
    rounding = toy.rounding(1.0, model.config, 64)
    for figure in ("loss", "grad_norm", "dropped", "max_load", "router_z_loss"):
        assert got[figure] == pytest.approx(want[figure], rel=rounding, abs=rounding), figure
    for leaf, want_leaf in zip(jax.tree.leaves(state.params), jax.tree.leaves(want_state.params), strict=True):
        np.testing.assert_allclose(leaf, want_leaf, rtol=0, atol=rounding * max(np.abs(want_leaf).max(), 1.0))


def split_variables(tree, axis):
    specs = jax.tree.leaves(variables.layout(tree), is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec))
    return sum(axis in spec for spec in specs)


NO_EXPERTS = {"num_experts": 0, "num_shared_experts": 0, "first_dense_layers": 0}


def collectives(program):
    """How many of each kind; those within a scan over layers count once."""
    kinds = r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    return Counter(re.findall(kinds, program.as_text()))


@pytest.mark.parametrize(
    ("sizes", "changes", "gathers", "scatters", "swaps"),
    [
        # Tokens, segments and positions of the whole rows, and of each part its decay and ends: 5. In a layer the
        # states, again when it is recomputed with its decay; the gradient of a state goes back to where it came from.
        ((1, 1, 1, 2), {"mixer": "retention"}, 5 + 1 + 2, 1, 0),
        # Tokens; segments, again in the backward pass; keys and values, recomputed, and their gradients.
        ((1, 1, 1, 2), {"mixer": "attention"}, 1 + 2 + 2 + 2, 2, 0),
        # Tokens, their experts and weights, recomputed; the sum back to its rows, whose gradient is a gather; the
        # gradients of tokens and of weights.
        ((1, 2, 1, 1), {"mixer": "attention", "num_experts": 4}, 3 + 3 + 1, 1 + 2, 0),
        # Rows to their experts and back, recomputed, and the gradients of both.
        ((1, 2, 1, 1), {"mixer": "attention", "num_experts": 4, "router__capacity_factor": 1.0}, 0, 0, 2 + 2 + 2),
        # Heads and hidden widths: sums of what each device has a part of, nothing else.
        ((1, 1, 2, 1), {"mixer": "retention"}, 0, 0, 0),
        pytest.param((1, 1, 2, 1), {"mixer": "attention"}, 0, 0, 0, marks=pytest.mark.slow),
    ],
)
def test_between_devices_goes_what_the_layers_ask_for(sizes, changes, gathers, scatters, swaps):
    model = toy.make(toy.model_config(**{"ffn": "mlp"} | NO_EXPERTS | changes))
    update, _ = compiled(model, mesh_of(*sizes))
    found = collectives(update)
    found.pop("all-reduce")
    assert found == +Counter({"all-gather": gathers, "reduce-scatter": scatters, "all-to-all": swaps})


def test_parameters_are_all_gathered_for_a_layer_and_their_gradients_reduce_scattered():
    """FSDP: each matrix is gathered on the way there and on the way back, and its gradient is reduce-scattered once."""
    model = toy.make(toy.model_config(ffn="mlp", **NO_EXPERTS))
    update, state = compiled(model, mesh_of(8, 1, 1, 1))
    found = collectives(update)
    in_layers = split_variables(state.params["dense_blocks"], "data")
    outside = split_variables(state.params, "data") - in_layers
    assert (in_layers, outside) == (5 + 2, 2)  # of retention and of the MLP; the embedding and its convolution
    assert found["all-gather"] == 2 * in_layers + outside
    assert found["reduce-scatter"] == in_layers + outside
    assert not {"all-to-all", "collective-permute"} & set(found)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_gradients_are_summed_over_devices_in_float32_whatever_the_layers_compute_in():
    model = toy.make(toy.model_config(ffn="mlp", compute_dtype="bfloat16", **NO_EXPERTS))
    mesh = mesh_of(4, 1, 1, 1)
    update = toy.train_step(model, OPTIMIZERS["sgd"], GUARD, mesh, **TRAINING)
    program = jax.make_jaxpr(update)(step.init(model, OPTIMIZERS["sgd"], guard.init(GUARD, 2)), batch(0)).jaxpr
    products = [found for found in equations(program) if found.primitive.name == "dot_general"]
    assert jnp.dtype("bfloat16") in {found.outvars[0].aval.dtype for found in products}
    psums = [found for found in equations(program) if found.primitive.name in ("psum", "reduce_scatter")]
    assert len(psums) > 7
    kinds = {variable.aval.dtype for found in psums for variable in found.invars}
    assert kinds == {jnp.dtype("float32")}


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_parameters_and_moments_take_a_device_one_part_of_their_bytes(devices):
    model = toy.make(toy.model_config())
    state = start(model, mesh_of(devices, 1, 1, 1), "adam")
    matrices = jax.tree.leaves((state.params, state.optimizer))
    total = sum(leaf.nbytes for leaf in matrices)
    replicated = sum(leaf.nbytes for leaf in matrices if leaf.sharding.is_fully_replicated)
    on_one = sum(leaf.addressable_shards[0].data.nbytes for leaf in matrices)
    if devices > 1:
        assert on_one == replicated + (total - replicated) // devices
        assert replicated < 0.05 * total  # scales of norms
    else:
        assert on_one == total


def test_a_checkpoint_of_any_mesh_is_restored_on_any_other(tmp_path):
    model = toy.make(toy.model_config())
    written = start(model, mesh_of(2, 2, 1, 2), "adam")._replace(step=jnp.int32(3))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, step.parts(written), {"next_index": 3})
    for sizes in ((8, 1, 1, 1), (1, 1, 1, 1), (1, 2, 2, 1)):
        abstract = start(model, mesh_of(*sizes), "adam")
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            restored, position = checkpoints.restore(3, step.parts(abstract))
        assert position == {"next_index": 3}
        trees = step.from_parts(restored), written, abstract
        for got, want, like in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_array_equal(got, want)
            assert got.sharding == like.sharding
    # Generation has one device and no mesh.
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        part = checkpoints.restore(3, {"model": abstract_model(model.config, model.vocab_size)[1]})[0]["model"]
    for got, want in zip(jax.tree.leaves(part["params"]), jax.tree.leaves(written.params), strict=True):
        np.testing.assert_array_equal(got, want)
        assert len(got.sharding.device_set) == 1


def test_every_matrix_is_split_while_it_is_not_in_use():
    """One that is not would grow with the model on every device."""
    for changes in MODELS.values():
        params = variables.split(toy.make(toy.model_config(**changes)))[1]
        for path, variable in nnx.to_flat_state(params):
            spec = variables.layout({"one": variable})["one"]
            stacked = 1 if path[0] in ("dense_blocks", "routed_blocks") else 0
            assert (variable.ndim - stacked < 2) or "data" in spec, (path, spec)
            assert ("expert" in spec) == ("experts" in path), (path, spec)
