"""Runs under a real Slurm on this machine: pushed out by a more urgent job, requeued, gone on with.

`make test-slurm` unpacks Debian's packages into .slurm (nothing is installed) and runs these tests. By hand:

    mkdir -p .slurm/packages/partial
    apt-get install --download-only --no-install-recommends -y -o Debug::NoLocking=1 \
      -o Dir::Cache::Archives=$PWD/.slurm/packages slurmctld slurmd slurm-client munge
    for package in .slurm/packages/*.deb; do dpkg-deb -x $package .slurm/root; done
    MIXKABRN_SLURM=$PWD/.slurm/root python -m pytest -m slurm
"""

import hashlib
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mixkabrn_jax.training import guard, metrics, optimizer, step, workdir
from mixkabrn_jax.training.checkpoint import Checkpoints
from mixkabrn_jax.training.experiment import Experiment
from tests import slurm, toy

ROOT = Path(__file__).parents[2]
PACKAGES = Path(os.environ.get("MIXKABRN_SLURM", "/"))
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not slurm.is_in(PACKAGES),
        reason=f"no Slurm in MIXKABRN_SLURM={PACKAGES}: `make test-slurm` unpacks one, the head of the file says how",
    ),
]

# As the README gives it to users. No trap for SIGTERM: a job that is cancelled would requeue itself.
SCRIPT = """#!/bin/bash
#SBATCH --ntasks=2 --requeue --open-mode=append
#SBATCH --signal=USR1@60
srun --kill-on-bad-exit=1 {command}
code=$?
if [ $code = 138 ] || [ $code = 143 ]; then scontrol requeue $SLURM_JOB_ID; fi
exit $code
"""
URGENT = "#!/bin/bash\n#SBATCH --partition=high --ntasks=2\nsleep 1\n"

# What training does with its steps, with a count: saves it when asked to end, goes on from what was saved.
COUNT = """
import os, pathlib, signal, sys, time
task = os.environ["SLURM_PROCID"]
saved = pathlib.Path(sys.argv[1]) / f"count.{task}"
signals = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: signals.append(number))
count = int(saved.read_text()) if saved.exists() else 0
print(f"task {task} of {os.environ['SLURM_NTASKS']} starts at {count}", flush=True)
while count < 30 and not signals:
    time.sleep(0.2)
    count += 1
time.sleep(1)  # a checkpoint takes its time
saved.write_text(str(count))
print(f"task {task} ends at {count}", flush=True)
sys.exit(128 + signals[0] if signals else 0)
"""
# Without arguments JAX finds the coordinator, the number of processes and its own among them.
GATHER = """
import jax
from jax.experimental import multihost_utils
jax.distributed.initialize()
numbers = multihost_utils.process_allgather(jax.numpy.arange(2) + 10 * jax.process_index())
print("gathered", numbers.tolist(), "on", jax.device_count(), "devices", flush=True)
"""


def until(cluster, job, happens):
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline, cluster.output(job)
        time.sleep(0.01)


def python(program, *arguments):
    return shlex.join([sys.executable, "-c", program, *map(str, arguments)])


@pytest.mark.parametrize(
    ("grace_time", "end"), [(20, "preempted"), (0, "preempted"), (0, "requeued"), (0, "cancelled")]
)
def test_a_job_that_is_stopped_saves_and_comes_back_unless_it_was_cancelled(tmp_path, grace_time, end):
    with slurm.cluster(PACKAGES, tmp_path, grace_time=grace_time) as cluster:
        job = cluster.submit(SCRIPT.format(command=python(COUNT, tmp_path)))
        until(cluster, job, lambda: cluster.output(job).count("starts at 0") == 2)
        if end == "preempted":
            urgent = cluster.submit(URGENT)
            cluster.wait(urgent, {"COMPLETED"}, 60)
        else:
            cluster.run(*{"requeued": ["scontrol", "requeue"], "cancelled": ["scancel"]}[end], job)
        assert cluster.wait(job, {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT"}, 120) == (
            "CANCELLED" if end == "cancelled" else "COMPLETED"
        )
        assert cluster.job(job)["Restarts"] == ("0" if end == "cancelled" else "1")
        said = sorted(re.findall(r"task (\d) (?:of 2 )?(starts|ends) at (\d+)", cluster.output(job)))
    for task in "01":
        ends = [int(count) for which, what, count in said if (which, what) == (task, "ends")]
        starts = [int(count) for which, what, count in said if (which, what) == (task, "starts")]
        assert sorted(starts) == [0, *sorted(ends)[:-1]] if end != "cancelled" else starts == [0]
        assert max(ends) == 30 if end != "cancelled" else max(ends) < 30


def test_jax_finds_the_processes_of_a_step(tmp_path):
    with slurm.cluster(PACKAGES, tmp_path, grace_time=0) as cluster:
        job = cluster.submit(SCRIPT.format(command=f"env JAX_NUM_CPU_DEVICES=4 JAX_PLATFORMS=cpu {python(GATHER)}"))
        assert cluster.wait(job, {"COMPLETED", "FAILED"}, 120) == "COMPLETED", cluster.output(job)
        assert cluster.output(job).count("gathered [[0, 1], [10, 11]] on 8 devices") == 2


def test_nothing_is_left_of_a_cluster(tmp_path):
    """Not even what a job has put into a session of its own."""
    with slurm.cluster(PACKAGES, tmp_path, grace_time=0) as cluster:
        job = cluster.submit("#!/bin/bash\nsetsid sleep 1000 &\necho $! $$ $PPID\nsrun sleep 1000\n")
        until(cluster, job, lambda: cluster.output(job))
        pids = cluster.output(job).split() + [path.read_text().strip() for path in tmp_path.glob("*.pid")]
        assert len(pids) == 6
        assert all(Path("/proc", pid).exists() for pid in pids)
    assert not any(Path("/proc", pid).exists() for pid in pids)


def sha256(directory):
    """Of all that a finished run leaves: the state, the position of the data, the log but for the machine's figures."""
    experiment = Experiment.from_dict(workdir.load_config(directory))
    vocab_size = workdir.load_tokenizer(directory).vocab_size
    rule = optimizer.make(experiment.optimizer, experiment.num_steps)
    history = guard.init(experiment.guard, experiment.log_every)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.eval_shape(lambda: step.init(experiment.new_model(vocab_size), rule, history))
    abstract = jax.tree.map(lambda leaf: leaf.update(sharding=here), abstract)
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest_intact_step() == experiment.num_steps
        state, position = checkpoints.restore(experiment.num_steps, abstract)
    digest = hashlib.sha256(json.dumps(position).encode())
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    machine = {"tokens_per_second", "model_flops_per_second", "peak_memory_bytes"}
    for record in metrics.read(directory / "metrics.jsonl"):
        digest.update(json.dumps({key: value for key, value in record.items() if key not in machine}).encode())
    return digest.hexdigest()


def test_training_that_is_pushed_out_ends_with_the_bits_of_training_that_is_not(tmp_path):
    changes = {"num_steps": 40, "log_every": 3, "evaluate_every": 20, "checkpoint__every": 30, "model__ffn": "mlp"}
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), mesh__data=2, **changes)
    file = tmp_path / "toy_config.py"
    file.write_text(
        f"import json\nfrom ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({json.dumps(config)!r})).lock()\n"
    )
    train = f"env JAX_PLATFORMS=cpu {sys.executable} -m experiments.train --config={file} --distributed --workdir="
    ends = {}
    with slurm.cluster(PACKAGES, tmp_path, grace_time=60) as cluster:
        for name in ("whole", "broken"):
            job = cluster.submit(SCRIPT.format(command=f"--chdir={ROOT} {train}{tmp_path / name}"))
            if name == "broken":
                until(cluster, job, (tmp_path / name / "metrics.jsonl").exists)
                until(cluster, job, lambda: (tmp_path / "broken" / "metrics.jsonl").stat().st_size)
                # Toy steps may be faster than Slurm: they stand still until its SIGCONT and SIGTERM come.
                cluster.run("scancel", "--signal=STOP", job)
                cluster.wait(cluster.submit(URGENT), {"COMPLETED"}, 120)
            state = cluster.wait(job, {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"}, 240)
            assert state == "COMPLETED", cluster.output(job)
            assert cluster.job(job)["Restarts"] == str(int(name == "broken"))
            assert ("going on from step" in cluster.output(job)) == (name == "broken"), cluster.output(job)
            ends[name] = sha256(tmp_path / name)
    assert ends["broken"] == ends["whole"]
