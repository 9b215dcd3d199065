"""What a batch that would do harm does: nothing, and it is told."""

import functools
import json
import math
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax import runs
from mixkabrn_jax.data import pipeline
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.runs.config import build
from mixkabrn_jax.training import guard, loop, optimizer, skips, step
from mixkabrn_jax.training.guard import GuardConfig
from tests import reference, toy

CONFIG = GuardConfig(history_length=4, sigmas=3.0, max_consecutive_skips=3)
# All that an update changes: experts with a router bias, knots that move before updates 2 and 4.
MODEL = {"num_layers": 1, "num_shared_experts": 0, "router__dispatch": "dense"}
MODEL = toy.model_config(mixer="attention", kan__knots="adaptive", kan__grid__degree=1, **MODEL)
TRAINING = {"router_bias_rate": 0.25, "grid_update_every": 2, "grid_update_until": 4}
SMALL = {"model__ffn": "mlp", "model__num_experts": 0, "model__mixer": "attention", "model__num_layers": 1}


@functools.partial(jax.jit, static_argnums=0)
def reviewed(config, losses, grad_norms):
    """(which updates of a run were accepted, the history at its end), with a record of the log at the end alone."""

    def one(history, figures):
        return guard.review(history, config, *figures)[::-1]

    start = guard.init(config, len(losses))
    return jax.lax.scan(one, start, (jnp.arange(1, len(losses) + 1), losses, grad_norms))[::-1]


@given(st.integers(0, 2**32 - 1))
def test_updates_are_skipped_by_the_criterion_and_told_with_their_figures(seed):
    rng = np.random.default_rng(seed)
    losses, grad_norms = rng.uniform(1, 3, (2, 40)).astype(np.float32)
    for figures in (losses, grad_norms):
        figures[rng.random(40) < 0.1] *= 3  # a spike in some windows and none in others
        is_odd = rng.random(40) < 0.1
        figures[is_odd] = rng.choice([math.nan, math.inf, -math.inf], is_odd.sum())
    is_accepted, history = reviewed(CONFIG, losses, grad_norms)
    want = reference.guarded(losses, grad_norms, CONFIG.history_length, CONFIG.sigmas, CONFIG.max_consecutive_skips)
    assert is_accepted.tolist() == [verdict == "accepted" for verdict in want]
    told = [(record["step"], record["reason"]) for record in skips.records(history.skips)]
    assert told == [(n, verdict) for n, verdict in enumerate(want, 1) if verdict not in ("accepted", "over")]
    for record in skips.records(history.skips):
        batch = record["batch"]
        np.testing.assert_equal((record["loss"], record["grad_norm"]), (losses[batch], grad_norms[batch]))
    assert (history.accepted, history.skipped) == (want.count("accepted"), len(told))
    if "over" in want:
        assert guard.has_given_up(history, CONFIG)


def test_nothing_is_a_spike_before_half_of_the_window_and_equal_values_never_are():
    spike = jax.jit(guard.is_spike, static_argnums=3)
    window_U = np.array([1.0, 1.25, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], np.float32)
    assert not spike(1e6, window_U, 3, 6.0)
    window_U[3] = 1.25
    assert spike(1e6, window_U, 4, 6.0)
    # A mean in float32 of equal values is not always that value.
    for value in np.random.default_rng(0).uniform(0.1, 9, 20).astype(np.float32):
        assert not spike(value, np.full(8, value), 8, 6.0)
        assert spike(np.nextafter(value, np.float32(10)), np.full(8, value), 8, 6.0)


def test_a_long_row_of_good_figures_raises_no_alarm_and_a_lone_peak_does():
    config = GuardConfig(history_length=128, sigmas=6.0, max_consecutive_skips=3)
    rng = np.random.default_rng(0)
    steps = np.arange(3000)
    losses = 2 + 4 * np.exp(-steps / 300) + 0.1 * rng.standard_normal(3000)
    norms = np.exp(2 * rng.standard_normal(3000))  # of a heavy tail, which is left to clipping
    losses[2500] += 1

    is_accepted, history = reviewed(config, losses.astype(np.float32), norms.astype(np.float32))
    assert np.flatnonzero(~np.asarray(is_accepted)).tolist() == [2500]
    assert [record["reason"] for record in skips.records(history.skips)] == ["loss spike"]


@functools.cache
def guarded_step():
    """(a jitted step, the state before it); the state is not donated, so tests can look back."""
    adamw = optimizer.make(optimizer.OptimizerConfig(**toy.section("optimizer")), 10)
    model = toy.make(MODEL)
    update = toy.train_step(model, adamw, CONFIG, **TRAINING)
    return jax.jit(update), step.init(model, adamw, guard.init(CONFIG, log_every=8))


def make_batch(seed):
    """Of tokens enough for every expert's knots to move."""
    return toy.batch(seed, batch_size=16)


def poisoned(batch):
    loss_mask = batch["loss_mask"].copy()
    loss_mask[0, 0] = math.nan
    return batch | {"loss_mask": loss_mask}


def assert_same_bits(got, want):
    for (path, leaf), want_leaf in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(want_leaf).tobytes(), jax.tree_util.keystr(path)


def test_a_skipped_update_leaves_no_trace_in_the_state_or_in_later_updates():
    """Of update 3, before which knots are due: parameters, bias, knots, moments and their counts, and the totals."""
    update, state = guarded_step()
    for seed in range(2):
        state = update(state, make_batch(seed))
    after = update(state, poisoned(make_batch(2)))
    assert_same_bits(after._replace(step=state.step, guard=None), state._replace(guard=None))
    assert after.step == 3
    assert [record["reason"] for record in skips.records(after.guard.skips)] == ["non-finite loss"]
    # The same batch without the poison moves every part of them.
    moved = update(state, make_batch(2))
    for part in ("params", "buffers", "optimizer", "totals"):
        for leaf, old in zip(jax.tree.leaves(getattr(moved, part)), jax.tree.leaves(getattr(state, part)), strict=True):
            assert part == "totals" or np.any(leaf != old)
    # A run that never saw the batch, but for the position of the data.
    never = state._replace(step=after.step)
    for seed in range(3, 6):
        after, never = update(after, make_batch(seed)), update(never, make_batch(seed))
        assert_same_bits(after._replace(guard=None), never._replace(guard=None))
        assert_same_bits(after.guard._replace(skipped=0, skips=0), never.guard._replace(skipped=0, skips=0))


def test_a_state_that_has_skipped_too_much_stays_as_it_is():
    update, state = guarded_step()
    after = state
    for _ in range(CONFIG.max_consecutive_skips):
        assert not guard.has_given_up(after.guard, CONFIG)
        after = update(after, poisoned(make_batch(0)))
    assert guard.has_given_up(after.guard, CONFIG)
    later = update(after, make_batch(1))
    assert_same_bits(later._replace(step=after.step), after)
    assert_same_bits(later._replace(step=0, guard=0), state._replace(step=0, guard=0))


def test_without_a_history_there_is_no_guard_and_the_program_is_the_one_without():
    off = GuardConfig(history_length=0, sigmas=3.0, max_consecutive_skips=3)
    assert guard.init(off, 8) is None
    model = toy.make(toy.model_config(**{key.removeprefix("model__"): value for key, value in SMALL.items()}))
    adamw = optimizer.make(optimizer.OptimizerConfig(**toy.section("optimizer")), 10)
    state, batch = step.init(model, adamw), toy.batch(0)
    programs = [jax.make_jaxpr(toy.train_step(model, adamw, config))(state, batch) for config in (None, off)]
    assert str(programs[0]) == str(programs[1])
    state = state._replace(guard=guard.init(CONFIG, 8))
    guarded = jax.make_jaxpr(toy.train_step(model, adamw, CONFIG))(state, batch)
    assert str(guarded) != str(programs[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("history_length", -1),
        ("history_length", 1),
        ("sigmas", 0.0),
        ("sigmas", math.inf),
        ("max_consecutive_skips", 0),
    ],
)
def test_a_field_that_cannot_be_is_named(field, value):
    with pytest.raises(ValueError, match=rf"config\.guard\.{field}={value}"):
        GuardConfig(**toy.section("guard", **{field: value}))


class Faulty:
    """The batches of a run with some of them poisoned, and a signal before one of them."""

    def __init__(self, batches, poisoned, stop_at):
        self._batches, self._poisoned, self._stop_at = batches, poisoned, stop_at

    def __next__(self):
        position = self._batches.get_state()["next_index"]
        batch = next(self._batches)
        if position == self._stop_at:
            signal.raise_signal(signal.SIGTERM)
        return poisoned(batch) if position in self._poisoned else batch

    def __getattr__(self, name):
        return getattr(self._batches, name)


SHORT = {"num_steps": 14, "log_every": 2, "evaluate_every": 100}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(name, poisoned batches, ..., **changes) -> the exit code of a run in tmp_path / name."""
    make = pipeline.train_batches
    text = toy.write_text(tmp_path / "text.txt")

    def run(name, poisoned, stop_at=None, **changes):
        monkeypatch.setattr(pipeline, "train_batches", lambda *a: Faulty(make(*a), poisoned, stop_at))
        config = toy.experiment(text, **(SMALL | changes))
        return loop.train(loop.prepare(config, tmp_path / name))

    return run


def records(directory):
    """The records of the metrics, read as strict JSON, without the figures of the machine."""

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    machine = {"tokens_per_second", "model_flops_per_second", "peak_memory_bytes"}
    text = (directory / "metrics.jsonl").read_text()
    records = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    return [{key: value for key, value in record.items() if key not in machine} for record in records]


def final(directory, num_places=None):
    """All that the newest checkpoint of a run holds, which has room for so many skips; None for the usual."""
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    config = json.loads((directory / "config.json").read_text())
    model = toy.make(build(ModelConfig, config["model"], "config.model"), vocab_size=257)
    adamw = optimizer.make(optimizer.OptimizerConfig(**config["optimizer"]), config["num_steps"])
    history = guard.init(GuardConfig(**config["guard"]), num_places or config["log_every"])
    like = step.parts(step.init(model, adamw, history))
    stored, position = checkpoints.restore(checkpoints.latest_step(), like)
    checkpoints.close()
    return step.from_parts(stored), position


@pytest.mark.slow
def test_skipped_updates_are_told_and_a_run_stopped_among_them_goes_on_bit_for_bit(train, tmp_path):
    bad, changes = {4, 5, 8, 13}, SHORT | {"checkpoint__every": 100}
    assert train("whole", bad, **changes) == 0
    whole = records(tmp_path / "whole")
    skipped = [record for record in whole if record["split"] == "skipped"]
    assert skipped == [
        {"step": n + 1, "split": "skipped", "reason": "non-finite loss", "loss": None, "grad_norm": None, "batch": n}
        for n in sorted(bad)
    ]
    told = {record["step"]: record for record in whole if record["split"] == "train"}
    assert {at: record["skipped"] for at, record in told.items()} == {2: 0, 4: 0, 6: 2, 8: 0, 10: 1, 12: 0, 14: 1}
    config = optimizer.OptimizerConfig(**toy.section("optimizer"))
    for at, record in told.items():
        # The schedule goes by accepted updates; the optimiser has its position from its own count.
        updates = at - sum(skip["step"] <= at for skip in skipped)
        assert record["learning_rate"] == float(optimizer.learning_rate(config, 14)(updates - 1))
        assert (record["loss"] is None) == (at == 6)  # a record of skipped updates alone has no mean

    # After a skip that is in no line yet; then the line is written, and the process killed before the next checkpoint.
    assert train("broken", bad, stop_at=8, **changes) == 128 + signal.SIGTERM
    saved = tmp_path / "saved"
    shutil.copytree(tmp_path / "broken", saved)
    assert train("broken", bad, stop_at=10, **changes) == 128 + signal.SIGTERM
    shutil.rmtree(tmp_path / "broken" / "checkpoints")
    shutil.copytree(saved / "checkpoints", tmp_path / "broken" / "checkpoints")
    assert train("broken", bad, **changes) == 0
    assert records(tmp_path / "broken") == whole
    (got, got_position), (want, want_position) = final(tmp_path / "broken"), final(tmp_path / "whole")
    assert got_position == want_position == {"next_index": 14}
    assert_same_bits(got, want)
    assert (int(want.optimizer[1].count), int(want.guard.accepted), int(want.guard.skipped)) == (10, 10, 4)


def test_too_many_skips_in_a_row_end_the_run_and_nothing_is_saved(train, tmp_path, capsys):
    message = (
        r"step 9 skipped for its non-finite loss \(loss nan, gradient norm nan, batch 8\), the last of "
        r"config\.guard\.max_consecutive_skips=3 in a row; the last good checkpoint is that of step 6 in .*checkpoints"
    )
    with pytest.raises(FloatingPointError, match=message):
        train("run", set(range(6, 14)), **SHORT, checkpoint__every=3)
    directory = tmp_path / "run"
    assert {path.name for path in (directory / "checkpoints").iterdir()} == {"3", "6"}
    model, _, _ = runs.open(directory)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.state(model)))
    assert [r["batch"] for r in records(directory) if r["split"] == "skipped"] == [6, 7, 8]
    assert [r["step"] for r in records(directory)] == [2, 4, 6, 7, 8, 8, 9]
    assert "step 7 skipped for its non-finite loss" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(6, 2), (2, 6)])
def test_another_distance_between_records_changes_no_skip_and_no_bit_of_the_state(train, tmp_path, before, after):
    """Stopped after skips that are in no record yet, of which there are more than the new distance has steps."""
    bad = {7, 8, 9, 12, 13} if before == 6 else {8, 9, 12, 13}
    changes = SHORT | {"checkpoint__every": 100, "guard__max_consecutive_skips": 4}
    assert train("whole", bad, **changes | {"log_every": after}) == 0
    assert train("broken", bad, stop_at=9, **changes | {"log_every": before}) == 128 + signal.SIGTERM
    config = json.loads((tmp_path / "broken" / "config.json").read_text()) | {"log_every": after}
    (tmp_path / "broken" / "config.json").write_text(json.dumps(config))
    assert train("broken", bad, **changes | {"log_every": after}) == 0
    # Three skips were in no record at step 10, and two more could come before the next one.
    (got, _), (want, _) = final(tmp_path / "broken", 5 if before == 6 else 6), final(tmp_path / "whole")
    assert_same_bits(got._replace(guard=None, totals=None), want._replace(guard=None, totals=None))
    skipped = [[r for r in records(tmp_path / name) if r["split"] == "skipped"] for name in ("broken", "whole")]
    assert skipped[0] == skipped[1]
    assert len(skipped[0]) == len(bad)


def test_skips_fit_lists_of_another_length():
    _, history = reviewed(CONFIG, np.full(9, np.nan, np.float32), np.ones(9, np.float32))
    assert int(history.skips.count) == CONFIG.max_consecutive_skips
    told = skips.records(history.skips)
    # Three so far, and up to two more before the next record.
    assert guard.resize(history, 9, 5) is history
    for log_every, number, num_places in ((2, 8, 5), (2, 9, 4), (20, 3, 20)):
        resized = guard.resize(history, log_every, number)
        assert len(resized.skips.step_U) == len(resized.skips.loss_U) == num_places
        assert str(skips.records(resized.skips)) == str(told)
    assert guard.resize(None, 2, 3) is None


@pytest.mark.slow
def test_real_training_raises_no_alarm(train, tmp_path):
    """At the toy's rate, with gradients that now and then are 40 deviations above their mean."""
    lengths = {"num_steps": 200, "log_every": 50, "evaluate_every": 200, "checkpoint__every": 200}
    assert train("run", set(), **lengths, model__num_layers=2) == 0
    assert [r["skipped"] for r in records(tmp_path / "run") if r["split"] == "train"] == [0, 0, 0, 0]
