"""Knots that move in training: when, to what, and with what of the optimiser."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers import variables
from mixkabrn_jax.models import grid
from mixkabrn_jax.training import optimizer, step
from mixkabrn_jax.training.experiment import Experiment
from mixkabrn_jax.training.losses import token_nats
from mixkabrn_jax.training.step import StepConfig
from tests import reference, toy

ADAMW = optimizer.make(optimizer.OptimizerConfig(**toy.section("optimizer", peak_rate=1e-2)), 20)
SCHEDULE = {"grid_update_every": 2, "grid_update_until": 4, "grid_uniform_fraction": 0.25}
CONFIG = toy.model_config(mixer="attention", num_experts=0, num_layers=1, kan__knots="adaptive", kan__grid__degree=2)
make_batch = functools.partial(toy.batch, batch_size=8)


@functools.cache
def make(config=CONFIG, **training):
    """(a step to be jitted, the state before it)."""
    model = toy.make(config)
    return toy.train_step(model, ADAMW, router_bias_rate=0.0, **training), step.init(model, ADAMW)


@functools.cache
def trained():
    """The states before and after each of seven updates on batches of their own, with knots due before 2 and 4."""
    update, state = make(**SCHEDULE)
    update = jax.jit(update)
    states = [state]
    for seed in range(7):
        states.append(update(states[-1], make_batch(seed)))
    return update, states


def knots(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.buffers)]


def model_of(state):
    return nnx.merge(variables.split(toy.make(CONFIG))[0], state.params, state.buffers)


@jax.jit
def moved(state, batch):
    """The state with its knots where they are due, and with the new knots under the old coefficients."""
    graph, params, buffers = variables.split(model_of(state))
    where = {"segment_ids_BT": batch["segment_ids"], "uniform_fraction": SCHEDULE["grid_uniform_fraction"]}
    updates = grid.compute_grid_update(model_of(state), batch["tokens"], **where)

    def updated(params):
        return variables.split(grid.apply_grid_update(nnx.merge(graph, params, buffers), updates))[1]

    _, params, buffers = variables.split(grid.update_grid(model_of(state), batch["tokens"], **where))
    moments = optimizer.carry_moments(state.optimizer, updated)
    return state._replace(params=params, buffers=buffers, optimizer=moments), state._replace(buffers=buffers)


def test_knots_move_on_schedule_and_only_then():
    _, states = trained()
    moves = [
        any((old != new).any() for old, new in zip(knots(before), knots(after), strict=True))
        for before, after in itertools.pairwise(states)
    ]
    assert moves == [False, False, True, False, True, False, False]


def test_a_step_that_moves_knots_is_a_step_behind_a_grid_update_with_moments_carried():
    update, states = trained()
    want = update(moved(states[2], make_batch(2))[0]._replace(step=jnp.int32(1)), make_batch(2))  # 1: not due
    got = states[3]
    for part in ("params", "buffers", "optimizer", "totals"):
        leaves = zip(jax.tree.leaves(getattr(got, part)), jax.tree.leaves(getattr(want, part)), strict=True)
        for leaf, want_leaf in leaves:
            atol = 20 * toy.rounding(np.asarray(want_leaf, np.float64), CONFIG, 12)  # through a fit and Adam's root
            reference.assert_close(leaf, want_leaf, atol=atol)
    # What has no knots keeps its moments to the bit; second moments are none of them negative.
    old, new = states[2].optimizer[1], moved(states[2], make_batch(2))[0].optimizer[1]
    for old_moments, new_moments in ((old.mu, new.mu), (old.nu, new.nu)):
        pairs = zip(jax.tree_util.tree_leaves_with_path(old_moments), jax.tree.leaves(new_moments), strict=True)
        for (path, old_leaf), new_leaf in pairs:
            assert (old_leaf == new_leaf).all() == ("spline" not in jax.tree_util.keystr(path))
    assert all((leaf >= 0).all() for leaf in jax.tree.leaves(new.nu))


def test_the_loss_does_not_jump_where_knots_move():
    """Nor does any logit: with the knots under coefficients that are not refitted they would, ten times as far."""
    batch = make_batch(4)

    @jax.jit
    def logits_and_loss(state):
        logits_BTW = model_of(state)(batch["tokens"], segment_ids_BT=batch["segment_ids"]).logits_BTW
        nats_BT = token_nats(logits_BTW, batch["targets"]) * batch["loss_mask"]
        return logits_BTW, nats_BT.sum() / batch["loss_mask"].sum()

    _, states = trained()
    refitted, misfitted = moved(states[4], batch)
    (logits, loss), (near, near_loss), (far, _) = map(logits_and_loss, (states[4], refitted, misfitted))
    counts = batch["segment_ids"] > 0
    assert abs(near_loss - loss) < 0.005 * loss
    assert np.abs(near - logits)[counts].max() < 0.2 * np.abs(far - logits)[counts].max()


def test_training_that_is_resumed_between_moves_is_bitwise_that_which_was_not():
    update, states = trained()
    state = jax.tree.map(jnp.asarray, jax.device_get(states[3]))  # as from a checkpoint
    for seed in range(3, 7):
        state = update(state, make_batch(seed))
    jax.tree.map(np.testing.assert_array_equal, state, states[7])


@pytest.mark.slow
def test_without_a_schedule_or_splines_the_program_is_as_if_there_were_none():
    def program(config, **training):
        update, state = make(config, **training)
        return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(update)(state, make_batch(0))))

    mlp = toy.model_config(mixer="attention", num_experts=0, num_layers=1, ffn="mlp")
    assert program(mlp, **SCHEDULE) == program(mlp)
    assert "qr[" in program(CONFIG, **SCHEDULE)
    without = program(CONFIG)
    assert "qr[" not in without
    assert program(CONFIG, grid_update_until=5, grid_uniform_fraction=0.5) == without


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"grid_update_every": -1}, "grid_update_every=-1"),
        ({"grid_update_every": 4, "grid_update_until": 3}, "grid_update_until=3"),
        ({"grid_uniform_fraction": 1.5}, r"grid_uniform_fraction=1\.5"),
    ],
)
def test_a_field_that_cannot_be_is_named(changes, field):
    with pytest.raises(ValueError, match=rf"config\.training\.{field}"):
        StepConfig(**toy.section("training", **changes))


def test_a_schedule_for_knots_that_do_not_move_names_both_fields():
    changes = {"training__grid_update_every": 2, "training__grid_update_until": 4}
    message = r"config\.training\.grid_update_every=2 .* config\.model\.kan\.knots='uniform'"
    with pytest.raises(ValueError, match=message):
        Experiment.from_dict(toy.experiment("text.txt", **changes))
    Experiment.from_dict(toy.experiment("text.txt", model__kan__knots="adaptive", **changes))
    Experiment.from_dict(toy.experiment("text.txt", model__ffn="mlp", **changes))  # an ablation of the KAN
