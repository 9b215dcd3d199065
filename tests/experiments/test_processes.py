"""A run of two processes, as it is run: real ones, of which one is killed, interrupted or given something else."""

import os
import re
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest

from mixkabrn_jax.runs import metrics
from mixkabrn_jax.training import loop
from tests import toy
from tests.experiments import test_train as runs

CHANGES = {"num_steps": 16, "log_every": 3, "evaluate_every": 8, "mesh__data": 2, "data__num_threads": 2}
# Compiles fast: on a CPU, JAX keeps programs for the first process only.
SMALL = {"model__mixer": "attention", "model__ffn": "mlp", "model__num_experts": 0, "model__num_layers": 1}
HEARTBEAT = 10


def start(arguments, num_processes=2, num_devices=1, last=()):
    """The processes of a run, over loopback; or one without others. The last one is given some more arguments."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(num_devices)}
    each = [[]]
    if num_processes > 1:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"--coordinator_address=localhost:{probe.getsockname()[1]}"
        run = [address, f"--num_processes={num_processes}", f"--heartbeat_seconds={HEARTBEAT}"]
        each = [[*run, f"--process_id={process}"] for process in range(num_processes)]
        each[-1] += last
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [subprocess.Popen([*arguments, *own], cwd=runs.ROOT, env=environment, **streams) for own in each]


def finish(processes):
    """[(exit status, output)], without what Gloo says of itself."""
    ends = [runs.finish(process) for process in processes]
    return [(code, re.sub(r".*Gloo.*\n|^Expected number of connected.*\n", "", output)) for code, output in ends]


def wait_for_step(processes, directory, at):
    path = directory / "metrics.jsonl"
    while not path.exists() or not any(record["step"] >= at for record in metrics.read(path)):
        assert all(process.poll() is None for process in processes), [p.communicate()[0] for p in processes]
        time.sleep(0.01)


def check_ended_well(processes):
    for code, output in finish(processes):
        assert code == 0, output


def check_same(directory, other, config):
    """Bit for bit."""
    (got, got_position), (want, want_position) = runs.final(directory, config), runs.final(other, config)
    assert want.step == config["num_steps"]
    assert got_position == want_position
    for (path, leaf), want_leaf in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(want_leaf).tobytes(), jax.tree_util.keystr(path)
    assert runs.records(directory) == runs.records(other)


@pytest.mark.slow
def test_one_of_two_processes_is_killed_and_the_run_ends_as_one_of_one_process_with_two_devices(tmp_path):
    """The sum of two is the same in either order."""
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), **CHANGES, **SMALL)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert loop.train(loop.prepare(config, whole)) == 0

    again = runs.command(tmp_path, config, broken)
    processes = start(again)
    wait_for_step(processes, broken, 6)
    processes[1].kill()
    began = time.monotonic()
    (code, output), _ = finish(processes)
    assert code not in (0, None)
    assert time.monotonic() - began < 3 * HEARTBEAT
    assert "cannot go on" in output or "another task died" in output, output
    (code, output), _ = finish(start(again))
    assert code == 0, output
    assert "going on from step 4 " in output  # a run from step 0 would have the same bits
    check_same(broken, whole, config)


@pytest.mark.slow
def test_one_of_two_processes_is_signalled_and_the_run_ends_as_if_it_had_not_been(tmp_path):
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), **CHANGES, **SMALL)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    check_ended_well(start(runs.command(tmp_path, config, whole)))

    again = runs.command(tmp_path, config, broken)
    processes = start(again)
    wait_for_step(processes, broken, 6)
    processes[1].send_signal(signal.SIGUSR1)
    (code, output), (other_code, other_output) = finish(processes)
    assert (code, other_code) == (128 + signal.SIGUSR1,) * 2, output + other_output
    assert re.search(r"stopped at step \d+;", output), output
    assert "step" not in other_output  # the first process speaks for both
    check_ended_well(start(again))
    check_same(broken, whole, config)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("--config.seed=5", "this is not process 1 of the run of process 0: config.seed=5 (there: 0)"),
        pytest.param(
            "--config.data.path=absent.txt",
            "config.data.path='absent.txt' does not exist",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_wrong_in_one_process_is_said_by_all_and_nothing_is_written(tmp_path, last, message):
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), **CHANGES, **SMALL)
    directory = tmp_path / "run"
    for code, output in finish(start(runs.command(tmp_path, config, directory), last=[last])):
        assert code == 1, output
        (sentence,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert message in sentence
    assert not directory.exists()


@pytest.mark.slow
def test_fifty_steps_of_two_processes_with_four_devices_each_are_those_of_one_process(tmp_path):
    """The same mesh in both: only Gloo's order of sums may differ, and what fifty steps make of it."""
    mesh = {"mesh__data": 2, "mesh__expert": 2, "mesh__context": 2}
    changes = {"num_steps": 50, "log_every": 1, "evaluate_every": 25, "checkpoint__every": 25}
    rates = {"optimizer__peak_rate": 1e-3, "optimizer__second_peak_rate": 1e-3}
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), **changes, **mesh, **rates)
    one, two = tmp_path / "one", tmp_path / "two"
    check_ended_well(start(runs.command(tmp_path, config, one), 1, 8))
    check_ended_well(start(runs.command(tmp_path, config, two), 2, 4))
    want, got = ([record["loss"] for record in metrics.read(run / "metrics.jsonl")] for run in (one, two))
    assert len(want) == 50 + 2
    model = toy.model_config()
    np.testing.assert_allclose(got, want, rtol=0, atol=toy.rounding(np.array(want), model, 16))
