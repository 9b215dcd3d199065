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

from mixkabrn_jax.runs import metrics, workdir
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.training import guard, optimizer, step
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

# As docs/clusters.md gives it to users. No trap for SIGTERM: a job that is cancelled would requeue itself.
SCRIPT = """#!/bin/bash
#SBATCH --ntasks=2 --requeue --open-mode=append
#SBATCH --signal=USR1@60
srun --kill-on-bad-exit=1 {command}
code=$?
if [ $code = 138 ] || [ $code = 143 ]; then scontrol requeue $SLURM_JOB_ID; fi
exit $code
"""
ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"}
URGENT = "#!/bin/bash\n#SBATCH --partition=high --ntasks=2\nsleep 1\n"

# What training does with its steps, with a count: saves it when asked to end, goes on from what was saved.
COUNT = """
import os, pathlib, signal, sys, time
task = os.environ["SLURM_PROCID"]
saved, signals, say = pathlib.Path(sys.argv[1] + task), [], sys.stdout.write  # `print` lets others into its lines
sys.stdout.reconfigure(line_buffering=True)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: signals.append(number))
count = int(saved.read_text()) if saved.exists() else 0
say(f"task {task}: {count}\\n")
while count < 30 and not signals:
    time.sleep(0.2)
    count += 1
time.sleep(1)  # a checkpoint takes its time
saved.write_text(str(count))
say(f"task {task}: {count}\\n")
sys.exit(128 + signals[0] if signals else 0)
"""
# Without arguments JAX finds the coordinator, the number of processes and its own among them.
GATHER = """
import sys
import jax
from jax.experimental import multihost_utils
jax.distributed.initialize()
numbers = multihost_utils.process_allgather(jax.numpy.arange(2) + 10 * jax.process_index())
sys.stdout.write(f"gathered {numbers.tolist()} on {jax.device_count()} devices\\n")
"""


@pytest.fixture
def folder(tmp_path_factory):
    """With a short name, for Slurm puts sockets into it."""
    return tmp_path_factory.mktemp("slurm")


def until(cluster, job, happens):
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline, cluster.output(job)
        time.sleep(0.01)


def python(program, *arguments):
    return shlex.join([sys.executable, "-c", program, *map(str, arguments)])


@pytest.mark.parametrize(("grace_time", "how"), [(20, "preempt"), (0, "preempt"), (0, "requeue"), (0, "cancel")])
def test_a_job_that_is_stopped_saves_and_comes_back_unless_it_was_cancelled(tmp_path, folder, grace_time, how):
    with slurm.cluster(PACKAGES, folder, grace_time=grace_time) as cluster:
        job = cluster.submit(SCRIPT.format(command=python(COUNT, tmp_path / "count")))
        until(cluster, job, lambda: cluster.output(job).count(": 0\n") == 2)
        if how == "preempt":
            cluster.wait(cluster.submit(URGENT), {"COMPLETED"}, 60)
        else:
            cluster.run(*{"requeue": ["scontrol", "requeue"], "cancel": ["scancel"]}[how], job)
        comes_back = how != "cancel"
        assert cluster.wait(job, ENDED, 120) == ("COMPLETED" if comes_back else "CANCELLED"), cluster.output(job)
        assert cluster.job(job)["Restarts"] == str(int(comes_back))
        for task in (0, 1):
            counts = [int(count) for count in re.findall(rf"task {task}: (\d+)", cluster.output(job))]
            stopped = counts[1]
            assert 0 < stopped < 30
            assert counts == [0, stopped, stopped, 30][: 4 if comes_back else 2]


def test_jax_finds_the_processes_of_a_step(folder):
    with slurm.cluster(PACKAGES, folder, grace_time=0) as cluster:
        job = cluster.submit(SCRIPT.format(command=f"env JAX_NUM_CPU_DEVICES=4 JAX_PLATFORMS=cpu {python(GATHER)}"))
        assert cluster.wait(job, ENDED, 120) == "COMPLETED", cluster.output(job)
        assert cluster.output(job).count("gathered [[0, 1], [10, 11]] on 8 devices") == 2


def test_nothing_is_left_of_a_cluster(folder):
    """Not even what a job has put into a session of its own."""
    with slurm.cluster(PACKAGES, folder, grace_time=0) as cluster:
        job = cluster.submit("#!/bin/bash\nsetsid sleep 1000 &\necho $! $$ $PPID\nsrun sleep 1000\n")
        until(cluster, job, lambda: cluster.output(job))
        pids = cluster.output(job).split() + [path.read_text().strip() for path in folder.glob("*.pid")]
        assert len(pids) == 6
        assert all(Path("/proc", pid).exists() for pid in pids)
    assert not any(Path("/proc", pid).exists() for pid in pids)


def sha256(directory):
    """Of all that a finished run leaves: the state, the position of the data, the log but for the machine's figures."""
    experiment = Experiment.from_dict(workdir.load_config(directory))
    vocab_size = workdir.load_tokenizer(directory).vocab_size
    adamw = optimizer.make(experiment.optimizer, experiment.num_steps)
    history = guard.init(experiment.guard, experiment.log_every)
    state = jax.eval_shape(lambda: step.init(experiment.new_model(vocab_size), adamw, history))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # it was saved by devices that are not there any more
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest_intact_step() == experiment.num_steps
        like = jax.tree.map(lambda leaf: leaf.update(sharding=here), step.parts(state))
        state, position = checkpoints.restore(experiment.num_steps, like)
    digest = hashlib.sha256(json.dumps(position).encode())
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    for record in metrics.read(directory / "metrics.jsonl"):
        machine = ("tokens_per_second", "model_flops_per_second", "peak_memory_bytes")
        digest.update(json.dumps({key: value for key, value in record.items() if key not in machine}).encode())
    return digest.hexdigest()


def test_training_that_is_pushed_out_ends_with_the_bits_of_training_that_is_not(tmp_path, folder):
    # Starting and compiling three times is nearly all of the test's time: the smallest model that has a state to save.
    model = {"model__ffn": "mlp", "model__mixer": "attention", "model__num_experts": 0, "mesh__data": 2}
    changes = {"num_steps": 40, "log_every": 3, "evaluate_every": 40, "checkpoint__every": 30}
    config = json.dumps(toy.experiment(toy.write_text(tmp_path / "text.txt"), **model, **changes))
    file = tmp_path / "toy_config.py"
    file.write_text(
        "import json\nfrom ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict(json.loads({config!r})).lock()\n"
    )
    train = f"env JAX_PLATFORMS=cpu {sys.executable} -m experiments.train --config={file} --distributed --workdir="
    ends = []
    with slurm.cluster(PACKAGES, folder, grace_time=60) as cluster:
        for name in ("whole", "broken"):
            log = tmp_path / name / "metrics.jsonl"
            job = cluster.submit(SCRIPT.format(command=f"--chdir={ROOT} {train}{log.parent}"))
            if name == "broken":
                until(cluster, job, lambda log=log: log.exists() and log.stat().st_size)
                # Toy steps may be faster than Slurm: they stand still until its SIGTERM and SIGCONT come.
                cluster.run("scancel", "--signal=STOP", job)
                cluster.wait(cluster.submit(URGENT), {"COMPLETED"}, 120)
            assert cluster.wait(job, ENDED, 240) == "COMPLETED", cluster.output(job)
            assert cluster.job(job)["Restarts"] == str(int(name == "broken"))
            assert ("going on from step" in cluster.output(job)) == (name == "broken"), cluster.output(job)
            ends.append(sha256(log.parent))
    assert ends[0] == ends[1]
