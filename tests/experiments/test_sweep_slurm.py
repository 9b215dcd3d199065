"""A sweep as an array of a real Slurm on this machine: `make test-slurm`, with submitit in the environment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import slurm
from tests.experiments.test_sweep import (
    CONFIG,
    DRIVER,
    FAKE_TRAIN,
    ROOT,
    num_starts,
    run_sweep,
    steps_trained,
    table,
    wait_until,
)

PACKAGES = Path(os.environ.get("MIXKABRN_SLURM", "/"))
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not slurm.is_in(PACKAGES), reason=f"no Slurm in MIXKABRN_SLURM={PACKAGES}: `make test-slurm`"),
]

FOUR_TRIALS = """
def four(config):
    for width in (8, 16, 24, 32):
        yield {"model.width": width}
"""
IN_SLURM = (
    *("--executor=slurm", "--slots=2", "--resources=partition=low"),
    *("--config.num_steps=24", "--config.pause=0.1"),
)


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("submitit")
    polling = "from experiments.sweeping import slurm_executor\nslurm_executor.POLL_SECONDS = 0.5\n"
    files = {"config.py": CONFIG + FOUR_TRIALS, "fake_train.py": FAKE_TRAIN, "driver.py": polling + DRIVER}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def cluster(tmp_path_factory):
    with slurm.cluster(PACKAGES, tmp_path_factory.mktemp("slurm"), grace_time=20) as cluster:
        yield cluster


def start(cluster, folder, sweep):
    command = [sys.executable, "driver.py", "--config=config.py:toy", f"--sweep={sweep}", "--workdir=out", *IN_SLURM]
    environment = cluster.environment | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=-1, stderr=-1)


def finish(process):
    stdout, stderr = process.communicate(timeout=240)
    return process.returncode, stdout, stderr


def job_ids(folder):
    return sorted(path.name.removesuffix("_submitted.pkl") for path in (folder / "out/slurm").glob("*_submitted.pkl"))


def restarts(cluster, folder):
    return [int(cluster.job(job)["Restarts"]) for job in job_ids(folder)]


def test_an_array_of_which_one_is_pushed_out_ends_in_the_table_of_the_local_executor(cluster, folder):
    process = start(cluster, folder, "four")
    # The last one: it has the array's own number, by which all of the array might be requeued.
    wait_until(lambda: len(list(folder.glob("out/*/checkpoint"))) == 4)
    cluster.wait(cluster.submit("#!/bin/bash\n#SBATCH --partition=high --ntasks=2\nsleep 1\n"), {"COMPLETED"}, 60)
    status, _, told = finish(process)
    assert status == 0, told
    assert sorted(restarts(cluster, folder)) == sorted(n - 1 for n in num_starts(folder)) == [0, 0, 0, 1], told
    assert steps_trained(folder) == [list(range(1, 25))] * 4
    rows = table(folder)
    (folder / "out").rename(folder / "slurm")
    assert run_sweep(folder, "--slots=4", *IN_SLURM[3:], sweep="four").returncode == 0
    assert table(folder) == rows


def test_a_sweep_that_is_left_finds_its_jobs_again_and_hands_in_none_twice(cluster, folder):
    first = start(cluster, folder, "four")
    wait_until(lambda: list(folder.glob("out/*/checkpoint")))
    first.send_signal(signal.SIGINT)
    status, _, told = finish(first)
    assert status == 128 + signal.SIGINT
    ids = job_ids(folder)
    assert len(ids) == 4
    assert f"the jobs stay in Slurm; `scancel {ids[0].partition('_')[0]}` ends them" in told
    status, _, told = finish(start(cluster, folder, "four"))
    assert status == 0, told
    assert f"waits, is job {ids[-1]} of an earlier sweep" in told
    assert job_ids(folder) == ids
    assert num_starts(folder) == [1] * 4


def test_a_trial_that_fails_in_slurm_is_named_and_handed_in_again_alone(cluster, folder):
    assert finish(start(cluster, folder, "ablation"))[0] == 1
    assert [row["status"] for row in table(folder)] == ["complete", "failed", "complete"]
    assert table(folder)[1]["error"] == "config.model.mixer=attention | not today"
    (folder / "attention_works").touch()
    assert finish(start(cluster, folder, "ablation"))[0] == 0
    assert num_starts(folder) == [1, 2, 1]
    assert len(job_ids(folder)) == 4


def test_what_sbatch_does_not_take_is_one_line(cluster, folder):
    command = [sys.executable, "driver.py", "--config=config.py:toy", "--sweep=four", "--workdir=out"]
    command += ["--executor=slurm", "--resources=partition=none"]
    done = subprocess.run(
        command, cwd=folder, env=cluster.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: --executor=slurm: sbatch: error: invalid partition")
