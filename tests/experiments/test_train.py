"""Training as it is run: real processes that are killed, interrupted and given wrong things."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.runs import metrics, workdir
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.runs.config import build
from mixkabrn_jax.training import guard, loop, optimizer, step
from tests import toy

ROOT = Path(__file__).parents[2]
CONFIG = """
import json
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads({text!r})).lock()
"""
# Everything that a run carries from step to step: a router bias, two moments, totals of a record cut in two.
RESUMED = {
    "num_steps": 40,
    "log_every": 3,
    "evaluate_every": 20,
    "checkpoint__every": 5,
    "model__ffn": "mlp",
    "model__mixer": "attention",
    "model__router__dispatch": "dense",
    "data__num_threads": 2,
}

DISKS = ["400k", "300k", "240k"]
"""Room for one checkpoint of that, and not for two; what there is no room for is one file or another."""


def command(tmp_path, config, directory, *more, module="experiments.train"):
    file = tmp_path / "toy_config.py"
    file.write_text(CONFIG.format(text=json.dumps(config)))
    return [sys.executable, "-m", module, f"--config={file}", f"--workdir={directory}", *more]


def start(arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def stop_at(process, directory, at, number):
    """Sends a signal once a line of step `at` or later is in the metrics."""
    path = directory / "metrics.jsonl"
    while not path.exists() or not any(record["step"] >= at for record in metrics.read(path)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.send_signal(number)
    return finish(process)


def final(directory, config):
    """(state, position of the data) of the newest checkpoint."""
    vocab_size = workdir.load_tokenizer(directory).vocab_size
    model = toy.make(build(ModelConfig, config["model"], "config.model"), vocab_size=vocab_size)
    adamw = optimizer.make(optimizer.OptimizerConfig(**config["optimizer"]), config["num_steps"])
    checkpoints = Checkpoints(directory / "checkpoints", read_only=True)
    history = guard.init(guard.GuardConfig(**config["guard"]), config["log_every"])
    like = step.parts(step.init(model, adamw, history))
    state, iterator_state = checkpoints.restore(checkpoints.latest_step(), like)
    checkpoints.close()
    return step.from_parts(state), iterator_state


def records(directory):
    """The records of the metrics without the figures of the machine."""
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    machine = {"tokens_per_second", "model_flops_per_second", "peak_memory_bytes"}
    return [json.dumps({key: value for key, value in record.items() if key not in machine}) for record in records]


@pytest.mark.parametrize("is_interrupted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_and_interrupted_ends_as_if_nothing_had_been(tmp_path, is_interrupted):
    shallow = {"model__num_layers": 1, "model__first_dense_layers": 0}  # starts fast
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), **RESUMED, **shallow)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert loop.train(loop.prepare(config, whole)) == 0

    again = command(tmp_path, config, broken)
    code, output = stop_at(start(again), broken, 12, signal.SIGKILL)
    assert code == -signal.SIGKILL, output
    if is_interrupted:
        code, output = stop_at(start(again), broken, 21, signal.SIGINT)
        assert code == 130, output
        assert "going on from step" in output
        stopped = Checkpoints(broken / "checkpoints", read_only=True)
        assert 21 <= stopped.latest_step() < config["num_steps"]
        assert f"stopped at step {stopped.latest_step()}" in output
        stopped.close()
    assert loop.train(loop.prepare(config, broken)) == 0

    (got, got_position), (want, want_position) = final(broken, config), final(whole, config)
    assert want.step == config["num_steps"]
    assert got_position == want_position
    for (path, leaf), want_leaf in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(want_leaf).tobytes(), jax.tree_util.keystr(path)
    assert records(broken) == records(whole)
    assert len(records(whole)) == 14 + 2


@pytest.mark.parametrize("size", [DISKS[0], *(pytest.param(size, marks=pytest.mark.slow) for size in DISKS[1:])])
def test_a_full_disk_ends_a_run_with_a_sentence_and_leaves_the_checkpoint_before(tmp_path, size):
    """On a file system of a given size, which a process of its own user namespace may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", disk], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if probe.returncode:
        pytest.skip(f"no file system can be mounted here: {probe.stderr.strip()}")
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), **RESUMED)
    train = shlex.join(command(tmp_path, config, disk / "run"))
    shell = (
        f"mount -t tmpfs -o size={size} none {disk} && {{ {train}; code=$?; cp -r {disk}/run {tmp_path}; exit $code; }}"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command_line = ["unshare", "-rm", "sh", "-c", shell]
    run = subprocess.run(command_line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1, run.stdout + run.stderr
    assert run.stderr == (
        f"error: the checkpoint of step 10 could not be written to {disk}/run/checkpoints: the disk is full; the last "
        "good one is that of step 5, and the same command goes on from there\n"
    )
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [5]
        assert checkpoints.latest_intact_step() == 5


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by which ml_collections loads a config file
@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["--config.model.foo=1"], "--config.model.foo=1: the config file declares no such field"),
        (
            {},
            ["--config.model.d_model=16", "--config.model.dmodel=3"],
            "error: --config.model.dmodel=3: the config file declares no such field; is --config.model.d_model meant?",
        ),
        ({}, ["--config.num_steps=many"], "num_steps"),
        ({}, ["stray"], "'stray' is not a flag"),
        ({"model__num_heads": 3}, [], "config.model.num_heads=3 does not divide d_model=16"),
        ({"data__path": "absent.txt"}, [], "config.data.path='absent.txt' does not exist"),
        ({"data__path": "empty.txt"}, [], "empty.txt': no documents (this source reads text"),
        ({"seed": 1}, [], "holds a run of another config: config.seed=1 (there: 0)"),
    ],
)
def test_a_mistake_is_answered_in_one_line_and_nothing_is_written(entry, tmp_path, changes, arguments, message):
    text = toy.write_text(tmp_path / "text.txt")
    (tmp_path / "empty.txt").write_text("")
    directory = tmp_path / "run"
    if "seed" in changes:
        workdir.create(directory, toy.experiment(text), tokenizers.Bytes(), {})
    if changes.get("data__path") == "empty.txt":
        changes = {"data__path": str(tmp_path / "empty.txt")}
    arguments = command(tmp_path, toy.experiment(text, **changes), directory, *arguments)
    before = contents(tmp_path)
    program = entry("train")
    with pytest.raises(SystemExit) as ended:
        program.run(*arguments[3:])
    assert message in ended.value.code
    assert ended.value.code.startswith("error: ")
    assert "\n" not in ended.value.code
    assert {path: data for path, data in contents(tmp_path).items() if "__pycache__" not in path.parts} == before
    assert directory.exists() == ("seed" in changes)


def test_a_mistake_is_all_that_the_command_prints(tmp_path):
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), model__num_heads=3)
    code, output = finish(start(command(tmp_path, config, tmp_path / "run")))
    assert code == 1
    assert output == "error: config.model.num_heads=3 does not divide d_model=16\n"


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_what_was_left_out_of_the_data_is_said_and_changed_data_is_refused(entry, tmp_path, caplog):
    folder = tmp_path / "texts"
    folder.mkdir()
    text = Path(toy.write_text(folder / "a.txt"))
    text.write_bytes(text.read_bytes() + b"\xff")
    (folder / "empty.txt").write_text("")
    changes = RESUMED | {"num_steps": 1, "evaluate_every": 1, "model__num_experts": 0, "data__tokenizer": "characters"}
    config = toy.experiment(str(folder), **changes)
    arguments = command(tmp_path, config, tmp_path / "run")[3:]
    program = entry("train")
    caplog.set_level("INFO")
    assert not program.run(*arguments)
    assert "left out 1 empty (first: empty.txt)" in caplog.text
    assert "1 places were no characters and are U+FFFD now" in caplog.text
    text.write_bytes(text.read_bytes()[:-2] + b"a\xff")
    with pytest.raises(SystemExit, match=r"holds a run on other data: ") as ended:
        program.run(*arguments)
    assert "\n" not in ended.value.code


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_names_that_are_taken_for_splits_are_said_each_time(entry, tmp_path, caplog):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train", "test"):
        toy.write_text(folder / f"{name}.txt")
    changes = RESUMED | {"num_steps": 1, "evaluate_every": 1, "model__num_experts": 0}
    config = toy.experiment(str(folder), **changes)
    for run in ("first", "second"):  # from texts, and from the cache
        caplog.clear()
        assert not entry("train").run(*command(tmp_path, config, tmp_path / run)[3:])
        assert f"config.data.path={str(folder)!r}: train.txt, test.txt stand beside each other and are" in caplog.text
