"""The same fifty steps on every mesh: as far from those of one device as rounding carries a run, and no farther."""

import itertools

import jax
import numpy as np
import pytest

from mixkabrn_jax import sharding
from mixkabrn_jax.data import pipeline
from mixkabrn_jax.layers import variables
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.training import guard, optimizer, step
from tests import toy

STEPS, ROWS, LENGTH = 50, 8, 16
AXES = ("data", "expert", "model", "context")
ONE = (1, 1, 1, 1)
ALONG_ONE_AXIS = [tuple(n if i == axis else 1 for i in range(4)) for axis in range(4) for n in (2, 4, 8)]
MIXED = [(2, 2, 2, 1), (2, 2, 1, 2), (2, 1, 2, 2), (1, 2, 2, 2)]
# Every size divides by 8. Heads are wide and steps small: norms of two values, or leaps, would make noise of rounding.
SIZES = {
    "num_heads": 8,
    "key_width": 8,
    "value_width": 8,
    "hidden_width": 16,
    "num_experts": 8,
    "expert_width": 8,
    "first_dense_layers": 1,
}
TRAINING = {"sequence_balance_loss": 0.01, "router_z_loss": 0.001}
GUARD = guard.GuardConfig(history_length=16, sigmas=60.0, max_consecutive_skips=2)
ADAMW = optimizer.make(
    optimizer.OptimizerConfig(**toy.section("optimizer", peak_rate=1e-3, second_peak_rate=1e-3)), STEPS
)


@pytest.fixture(scope="module")
def model():
    return toy.make(toy.model_config(**SIZES), vocab_size=259)


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    text = toy.write_text(tmp_path_factory.mktemp("data") / "text.txt", num_lines=300)
    fields = {"path": str(text), "sequence_length": LENGTH, "batch_size": ROWS, "num_threads": 0}
    config = pipeline.DataConfig(**toy.section("data", **fields))
    corpus = pipeline.load(config)
    return list(itertools.islice(pipeline.train_batches(corpus.train, config, seed=3), STEPS))


def mesh_of(sizes):
    return sharding.make_mesh(sharding.MeshConfig(**dict(zip(AXES, sizes, strict=True))))


def start(model, sizes):
    state = step.init(model, ADAMW, guard.init(GUARD, STEPS))
    return sharding.place_by(state, variables.layout(state), mesh_of(sizes))


def trained(model, batches, sizes, state=None):
    """(losses `[STEPS]` in nats per token, the state after the last step)."""
    mesh = mesh_of(sizes)
    state = start(model, sizes) if state is None else state
    layout = sharding.shardings(variables.layout(state), mesh)
    update = jax.jit(toy.train_step(model, ADAMW, GUARD, mesh, **TRAINING), out_shardings=layout)
    totals = []
    for batch in batches:
        state = update(state, sharding.place_rows(batch, mesh, ROWS))
        totals.append((float(state.totals.nats), float(state.totals.tokens)))
    nats, tokens = np.diff(np.array([(0.0, 0.0), *totals]), axis=0).T
    assert state.guard.skipped == 0
    return nats / tokens, state


@pytest.fixture(scope="module")
def on_one_device(model, batches):
    return trained(model, batches, ONE)


@pytest.fixture(scope="module")
def allowed(model, batches, on_one_device):
    """`[STEPS]`, in nats per token.

    Every order of sums rounds otherwise, and training carries that on. How far, runs on one device say that begin with
    parameters of which each is moved by a rounding error.
    """

    def distance(seed):
        rng, eps = np.random.default_rng(seed), np.finfo(np.float32).eps
        state = start(model, ONE)
        moved = jax.tree.map(lambda w: w * (1 + eps * rng.choice([-1, 1], w.shape).astype(w.dtype)), state.params)
        return np.abs(trained(model, batches, ONE, state._replace(params=moved))[0] - on_one_device[0])

    farthest = np.maximum.accumulate(np.max([distance(seed) for seed in range(3)], axis=0))
    return 8 * np.maximum(farthest, toy.rounding(on_one_device[0], model.config, LENGTH))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [*ALONG_ONE_AXIS, *MIXED])
def test_fifty_steps_on_a_mesh_are_those_on_one_device(model, batches, on_one_device, allowed, sizes, tmp_path):
    losses, state = trained(model, batches, sizes)
    distance = np.abs(losses - on_one_device[0])
    assert losses[-1] < 0.7 * losses[0]  # it learns
    assert (distance <= allowed).all()
    restored_elsewhere(model, state, sizes, tmp_path)


def restored_elsewhere(model, state, sizes, tmp_path):
    """The checkpoint, on two other meshes, bit for bit."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(STEPS, step.parts(state), {"next_index": STEPS})
    every = [ONE, *ALONG_ONE_AXIS, *MIXED]
    here = every.index(sizes)
    for other in (every[here - 1], every[(here + 5) % len(every)]):
        like = start(model, other)
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            restored, _ = checkpoints.restore(STEPS, step.parts(like))
        trees = step.from_parts(restored), state, like
        for got, want, place in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_array_equal(got, want)
            assert got.sharding == place.sharding
