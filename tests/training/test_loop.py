"""A run in this process; tests/experiments/test_train.py kills real ones."""

import errno
import importlib
import json
import os
import re
import signal
import threading
import time

import jax
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax import runs
from mixkabrn_jax.runs import hashes, metrics, workdir
from mixkabrn_jax.training import loop, signals
from mixkabrn_jax.training.signals import Signals, interruptible
from tests import toy

SMALL = {"model__ffn": "mlp", "model__num_experts": 0, "model__mixer": "attention"}


def train(config, directory):
    return loop.train(loop.prepare(config, directory))


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_a_run_learns_reports_and_saves_and_is_then_finished(tmp_path, capsys):
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), num_steps=13, **SMALL)
    directory = tmp_path / "run"
    training = loop.prepare(config, directory)
    assert json.loads((directory / "config.json").read_text()) == config
    assert loop.train(training) == 0

    records = metrics.read(directory / "metrics.jsonl")
    by_step = {record["step"]: record for record in records if record["split"] == "train"}
    validation = {record["step"]: record for record in records if record["split"] == "validation"}
    assert list(by_step) == [2, 4, 6, 8, 10, 12, 13]  # the last step is always reported
    assert list(validation) == [6, 12, 13]
    figures = {"step", "split", "loss", "bits_per_byte", "grad_norm", "learning_rate", "tokens_per_second"}
    figures |= {"model_flops_per_second", "peak_memory_bytes"}
    assert figures <= by_step[2].keys()
    assert all(record["tokens_per_second"] > 0 for record in by_step.values())
    assert by_step[13]["loss"] < by_step[2]["loss"] - 0.5
    # A few windows on the way, all of them at the end; each validation byte is a target once, as is the separator.
    num_bytes = len((tmp_path / "text.txt").read_bytes()) - len(training.corpus.train) * 16
    assert validation[6]["tokens"] <= 3 * 16
    assert abs(validation[13]["tokens"] - num_bytes) <= 17
    assert validation[13]["tokens"] == training.corpus.validation.num_targets
    assert {path.name for path in (directory / "checkpoints").iterdir()} == {"12", "13"}
    assert (directory / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "new run in" in capsys.readouterr().out
    model, tokenizer, _ = runs.open(directory)
    assert model.vocab_size == tokenizer.vocab_size == 257

    before = contents(directory)
    assert train(config, directory) == 0
    after = contents(directory)
    assert "going on from step 13" in capsys.readouterr().out
    for name in ("metrics.jsonl", "config.json", "tokenizer.json"):
        assert after[name] == before[name]
    assert {name for name in after if name.startswith("checkpoints")} == {
        name for name in before if name.startswith("checkpoints")
    }


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGUSR1))],
)
def test_a_signal_stops_a_run_at_a_step_boundary_with_its_state_saved(tmp_path, number, capsys):
    toy.write_text(tmp_path / "text.txt")
    changes = SMALL | {"num_steps": 100_000, "log_every": 1, "evaluate_every": 100_000, "checkpoint__every": 100_000}
    directory = tmp_path / "run"
    training = loop.prepare(toy.experiment(tmp_path / "text.txt", **changes), directory)
    handlers = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]

    def interrupt():
        while not (directory / "metrics.jsonl").exists() or len(metrics.read(directory / "metrics.jsonl")) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert loop.train(training) == 128 + number
    thread.join()
    last = metrics.read(directory / "metrics.jsonl")[-1]["step"]
    assert 3 <= last < 100_000
    assert [path.name for path in (directory / "checkpoints").iterdir()] == [str(last)]
    assert f"stopped at step {last}" in capsys.readouterr().out
    assert [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers


def test_a_signal_between_saving_and_the_next_step_loses_nothing(tmp_path, monkeypatch):
    """The end of a step's work is where a signal once ended the run without a checkpoint."""

    is_due = loop._is_due

    def signal_at_the_end_of_step_2(step, every, last):
        if step == 2 and every == 1000:  # of evaluations, which come last
            signal.raise_signal(signal.SIGTERM)
        return is_due(step, every, last)

    monkeypatch.setattr(loop, "_is_due", signal_at_the_end_of_step_2)
    directory = tmp_path / "run"
    changes = SMALL | {"num_steps": 100, "checkpoint__every": 100, "evaluate_every": 1000}
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), **changes)
    training = loop.prepare(config, directory)
    with workdir.lock(directory), pytest.raises(BlockingIOError, match="another process trains in"):
        loop.train(training)
    assert loop.train(training) == 128 + signal.SIGTERM
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["3"]


@pytest.fixture
def _sigint_as_usual():
    """A shell starts what it sends to the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint_as_usual")
def test_only_a_second_sigint_acts_as_usual():
    """Slurm sends SIGTERM after SIGUSR1, and SIGTERM twice, whether the run is still saving or not."""
    with Signals() as signals:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.raise_signal(number)
        assert signals.received == signal.SIGUSR1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("_sigint_as_usual")
def test_a_signal_is_acknowledged_at_once_and_a_second_sigint_ends_what_compiles(capfd):
    """Which stands still in a thread here, as XLA's compiler does."""
    hold = threading.Event()
    acknowledged = []

    def interrupt():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
            acknowledged.append(capfd.readouterr().err)

    began, thread = time.monotonic(), threading.Thread(target=interrupt)
    with Signals() as received:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            interruptible(lambda: hold.wait(60))
    thread.join()
    hold.set()
    assert time.monotonic() - began < 30
    assert received.received == signal.SIGINT
    assert "SIGINT: saving after this step; once more ends it now" in acknowledged[0]
    assert "ended now: the same command goes on from the last checkpoint" in acknowledged[1]


def test_what_can_be_interrupted_returns_and_raises_as_usual():
    assert interruptible(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)


def test_a_platform_without_a_signal_does_without_it(monkeypatch):
    monkeypatch.delattr(signal, "SIGUSR1")
    reloaded = importlib.reload(signals)
    assert reloaded.NUMBERS == (signal.SIGINT, signal.SIGTERM)
    with reloaded.Signals():
        pass
    monkeypatch.undo()
    importlib.reload(signals)


def test_what_is_hardly_meant_is_said_in_a_line_each(tmp_path, caplog, capsys):
    (tmp_path / "text.txt").write_bytes(b"a" * 17)
    config = toy.experiment(tmp_path / "text.txt", **SMALL, num_steps=2, optimizer__warmup_steps=2)
    assert train(config, tmp_path / "run") == 0
    assert len(caplog.messages) == 2
    assert "config.optimizer.warmup_steps=2 of config.num_steps=2: the rate only rises" in caplog.messages[0]
    assert "1 window(s) of config.data.sequence_length=16: each batch of config.data.batch_size=8" in caplog.messages[1]
    *_, announced, validated, summary, done = capsys.readouterr().out.splitlines()
    tokens = re.fullmatch(r"step 2  validating on all ([\d,]+) tokens", announced)[1]
    assert f"over {tokens} tokens" in validated
    assert re.fullmatch(r"0:\d\d:\d\d in this process; .* tokens seen, 16 epochs; lowest .* at step 2", summary)
    assert done.startswith("done at step 2: ")


def test_tokens_that_count_are_told_from_those_that_are_read(tmp_path, capsys):
    record = json.dumps({"prompt": "How many?", "completion": "One."})
    (tmp_path / "asked.jsonl").write_text(f"{record}\n" * 20)
    changes = SMALL | {"num_steps": 2, "optimizer__warmup_steps": 1, "data__loss_on": "targets"}
    assert train(toy.experiment(tmp_path / "asked.jsonl", **changes), tmp_path / "run") == 0
    *_, announced, validated, _, _ = capsys.readouterr().out.splitlines()
    read, counted = 2 * len("[How many?\nOne."), 2 * len("One.]")  # of two records, each with a separator
    assert announced == f"step 2  validating on all {read} tokens, of which those of prompts do not count"
    assert f"over {counted} tokens" in validated


def final_state(directory):
    """The bytes of all arrays of the last checkpoint, and the log without the figures of the machine."""
    model, _, _ = runs.open(directory)
    run = json.loads((directory / "checkpoints" / "12" / "run.json").read_text())
    machine = ("tokens_per_second", "model_flops_per_second", "peak_memory_bytes")
    records = metrics.read(directory / "metrics.jsonl")
    told = [{key: value for key, value in record.items() if key not in machine} for record in records]
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(nnx.state(model))], run, told


def test_a_run_goes_on_from_before_a_damaged_checkpoint_and_ends_as_if_it_had_not_been(tmp_path, caplog):
    changes = SMALL | {"checkpoint__every": 2, "checkpoint__keep": 3, "log_every": 3}
    config, directory = toy.experiment(toy.write_text(tmp_path / "text.txt"), **changes), tmp_path / "run"
    assert train(config, directory) == 0
    want = final_state(directory)
    for step, name in ((12, "run.json"), (10, "hashes.json")):
        (directory / "checkpoints" / str(step) / name).write_text("{")
    assert train(config, directory) == 0
    assert [message.partition(" is damaged")[0] for message in caplog.messages] == [
        f"the checkpoint {directory}/checkpoints/{step}" for step in (12, 10)
    ]
    assert all(message.endswith("; going on from step 8") for message in caplog.messages)
    assert final_state(directory) == want
    names = {path.name for path in (directory / "checkpoints").iterdir()}
    assert names == {"8", "10", "12", "10.damaged", "12.damaged"}
    for step in (8, 10, 12):
        (directory / "checkpoints" / str(step) / "run.json").unlink()
    before = contents(directory)
    with pytest.raises(OSError, match=r"no checkpoint in .* is intact"):
        train(config, directory)
    assert contents(directory) == before


def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_the_next_step(tmp_path, monkeypatch):
    write = hashes.write

    def fill_the_disk(directory):
        if directory.name == "8.partial":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(directory)

    monkeypatch.setattr(hashes, "write", fill_the_disk)
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), **SMALL)
    with pytest.raises(OSError, match=r"step 8 could not be written to .*: the disk is full; .* step 4, and the same"):
        train(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]
    assert metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]["step"] >= 6


def test_the_best_checkpoints_of_a_run_are_kept_over_its_end(tmp_path):
    changes = SMALL | {"checkpoint__keep": 1, "checkpoint__keep_best": 1, "evaluate_every": 4}
    directory = tmp_path / "run"
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), **changes)
    assert train(config, directory) == 0
    losses = {r["step"]: r["loss"] for r in metrics.read(directory / "metrics.jsonl") if r["split"] == "validation"}
    assert {path.name for path in (directory / "checkpoints").iterdir()} == {"12", str(min((4, 8), key=losses.get))}


@pytest.mark.parametrize("history_length", [128, pytest.param(0, marks=pytest.mark.slow)])
def test_a_loss_that_is_no_number_ends_the_run_and_is_in_no_checkpoint(tmp_path, history_length):
    """With a guard, which can do nothing for parameters that are none themselves, and without one."""
    changes = SMALL | {"num_steps": 60, "log_every": 20, "checkpoint__every": 2, "optimizer__peak_rate": 1e38}
    changes["guard__history_length"] = history_length
    directory = tmp_path / "run"
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), **changes)
    message = r"the (loss|size of the parameters) is (nan|inf) at step \d+.*config\.optimizer\.peak_rate"
    with pytest.raises(FloatingPointError, match=message):
        train(config, directory)
    if list((directory / "checkpoints").iterdir()):
        model, _, _ = runs.open(directory)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.state(model)))
    assert all(np.isfinite(record["loss"]) for record in metrics.read(directory / "metrics.jsonl"))


def test_nothing_is_written_for_a_config_that_cannot_be(tmp_path):
    text = toy.write_text(tmp_path / "text.txt")
    for changes, message in (
        ({"model__num_heads": 3}, r"config\.model\.num_heads=3"),
        ({"data__path": str(tmp_path / "absent.txt")}, r"config\.data\.path=.*absent\.txt"),
        ({"mesh__data": 16, "data__batch_size": 16}, r"config\.mesh\.data=16"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            loop.prepare(toy.experiment(text, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
