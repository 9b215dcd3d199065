"""A whole Slurm on one machine: munged, slurmctld and slurmd out of a folder of unpacked packages.

Nothing is installed and nothing written outside of the given folder; whoever starts it, jobs are theirs.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
PluginDir={plugins}
# A requeued job waits until the credentials of its last start have expired: two minutes, unless told.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# Processes of a job are known by their parents: cgroups would be the system's.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# The node has two CPUs, whatever the machine has; and a name that resolves, for JAX's processes meet there.
SlurmdParameters=config_overrides
NodeName=localhost CPUs=2
# A job has the node for itself, so that another one can only push it out.
SelectType=select/linear
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
# JAX's processes meet at a port made of the job's id: not that of another such cluster beside this one.
FirstJobId={controller_port}
KillWait={kill_wait}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime={grace_time} Default=YES
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


class Cluster:
    """What a user of it can do."""

    def __init__(self, packages: Path, folder: Path, environment: dict[str, str]):
        self._bin, self._folder = packages / "usr/bin", folder
        self.environment = environment
        """In which its commands are found and find it."""

    def run(self, command: str, *arguments: object, text: str = "") -> str:
        """Output of one of Slurm's commands. Raises: RuntimeError with what it says when it fails."""
        words, where = [self._bin / command, *map(str, arguments)], {"cwd": self._folder, "env": self.environment}
        done = subprocess.run(words, **where, input=text, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr.strip()}")
        return done.stdout

    def submit(self, script: str) -> int:
        """Hands in a batch script. Returns the job's id."""
        return int(self.run("sbatch", "--parsable", f"--output={self._folder}/%j.out", text=script).split(";")[0])

    def job(self, job: int) -> dict[str, str]:
        """What `scontrol show job` says of it: JobState, Restarts, ExitCode and more."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: int, states: set[str], seconds: float) -> str:
        """Returns the first of the states that the job is seen in. Raises: TimeoutError with its output."""
        deadline = time.monotonic() + seconds
        while (state := self.job(job)["JobState"]) not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job} is {state} after {seconds} s, not {states}:\n{self.output(job)}")
            time.sleep(0.1)
        return state

    def output(self, job: int) -> str:
        """All that it has printed."""
        path = self._folder / f"{job}.out"
        return path.read_text() if path.exists() else ""


def is_in(packages: Path) -> bool:
    """Whether there is a Slurm under this root."""
    return all((packages / "usr/sbin" / name).exists() for name in ("slurmctld-wlm", "slurmd-wlm", "munged"))


@contextmanager
def cluster(packages: Path, folder: Path, *, grace_time: int, kill_wait: int = 20) -> Iterator[Cluster]:
    """One node with room for two tasks, and two partitions: a job of `high` pushes one of `low` out.

    Args:
        packages: root of the unpacked packages; / for installed ones.
        folder: for sockets (so its path is at most 70 characters long), state, logs and output.
        grace_time: seconds between a preemption's SIGTERM and the requeueing; 0 for both at once.
        kill_wait: seconds from SIGTERM to SIGKILL when a job is requeued or cancelled.
    Raises: RuntimeError with the logs when it does not start.
    """
    packages = packages.resolve()
    plugins = next(packages.glob("usr/lib/*/slurm-wlm"))
    for name in ("controller", "node"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as other:
        names = {"controller_port": one.getsockname()[1], "node_port": other.getsockname()[1]}
    names |= {"user": os.getuid(), "plugins": plugins, "folder": folder}
    (folder / "slurm.conf").write_text(_CONFIG.format(**names, grace_time=grace_time, kill_wait=kill_wait))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    environment["SLURM_CONF"] = str(folder / "slurm.conf")
    environment["PATH"] = f"{packages}/usr/bin:{environment['PATH']}"
    libraries = [str(plugins), str(plugins.parent), environment.get("LD_LIBRARY_PATH")]
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    here = Cluster(packages, folder, environment)
    with (folder / "daemons.log").open("w") as log:
        out = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log}
        keeper = subprocess.Popen([sys.executable, __file__, packages, folder], env=environment, **out)
    try:
        _await_node(here, keeper, folder)
        yield here
    finally:
        keeper.communicate()


def _await_node(here, keeper, folder):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and keeper.poll() is None:
        with suppress(RuntimeError):  # nobody listens yet
            if here.run("sinfo", "--noheader", "--format=%T", "--partition=low").strip() == "idle":
                return
        time.sleep(0.1)
    raise RuntimeError("\n".join(["no node:", *(path.read_text() for path in sorted(folder.glob("*.log")))]))


def _keep(packages, folder):
    """Runs the daemons until the input ends, and so at the latest with the parent; then ends all that came of them."""
    # Orphans become children of this process (PR_SET_CHILD_SUBREAPER), for a job's processes leave slurmd.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    sbin = packages / "usr/sbin"
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    try:
        subprocess.Popen([sbin / "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files])
        subprocess.Popen([sbin / "slurmctld-wlm", "-D"])
        subprocess.Popen([sbin / "slurmd-wlm", "-D", "-d", sbin / "slurmstepd-wlm"])
        sys.stdin.read()
    finally:
        with suppress(ChildProcessError):
            while True:
                for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
                os.wait()


if __name__ == "__main__":
    _keep(*map(Path, sys.argv[1:]))
