"""Runs jobs as an array of Slurm's, handed in by submitit."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from experiments.sweeping.executor import STOPPED, Event, Executor, Job, Limits, attempt_here, signal_group

_log = logging.getLogger(__name__)

POLL_SECONDS = 15
"""Between two looks at Slurm's queue, which all of a cluster's users share."""
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"),
    "FORGOTTEN",  # by Slurm, minutes after a job's end
}
# Since 22.05 srun does not inherit it.
_SETUP = ["[ -z $SLURM_CPUS_PER_TASK ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]
# As in docs/clusters.md. An array's last job has the array's own number, by which all of it would be requeued.
_TEARDOWN = [
    "code=$?",
    "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
    "if [ $code = 138 ] || [ $code = 143 ]; then scontrol requeue ${job:-$SLURM_JOB_ID}; fi",
    "exit $code",
]


class SlurmExecutor(Executor):
    """Hands in an array of jobs, of which `slots` run at a time, and looks at Slurm's queue until all have ended.

    Slurm needs nobody who waits: when the sweep is stopped, its jobs stay. They are found again by what submitit keeps
    of each in the folder, a file that is named by the job's id and holds its `Job`: it is in place before the job can
    begin, so none that trains is ever missed, and none is handed in twice.

    A job that is preempted, or warned ahead of its time limit, saves its state, is requeued and goes on.
    """

    def __init__(self, slots: int, limits: Limits, folder: Path, options: Mapping[str, str]):
        """
        Args:
            folder: for submitit's files, on a file system that all nodes share.
            options: of sbatch, such as {"partition": "gpu", "time": "60"}.
        Raises: ImportError without submitit, OSError without Slurm.
        """
        super().__init__()
        try:
            import submitit
        except ImportError as error:
            raise ImportError("--executor=slurm hands in its jobs by submitit: pip install submitit") from error
        if submitit.SlurmExecutor.affinity() < 0:
            raise OSError("--executor=slurm: no command srun is found: start the sweep where Slurm's commands are")
        self._folder, self._limits = folder, limits
        self._job_class = submitit.SlurmJob
        self._submitit = submitit.SlurmExecutor(folder=folder)
        self._submitit.update_parameters(
            job_name="sweep",
            time=None,  # the partition's, in place of submitit's five minutes
            array_parallelism=slots,
            setup=_SETUP,
            teardown=_TEARDOWN,
            additional_parameters={"requeue": True, "signal": "USR1@60", **options},
        )
        self._ids = {}

    @property
    def stopping(self) -> str:
        """How to end the jobs, which stay."""
        arrays = dict.fromkeys(job.job_id.partition("_")[0] for job in self._ids.values())
        return f"the jobs stay in Slurm; `scancel {' '.join(arrays)}` ends them"

    def run(self, jobs: Iterable[Job], is_done: Callable[[Job], bool]) -> Iterator[Event]:  # noqa: ARG002
        """As `Executor.run`; all jobs are taken at once, for they are one array."""
        jobs = {job.name: job for job in jobs}
        self._ids = self._unfinished(jobs)
        if self.received:
            return
        for name, submitted in self._ids.items():
            yield Event(jobs[name], "waits", note=f"is job {submitted.job_id} of an earlier sweep; waiting for it")
        self._ids |= self._submit([job for name, job in jobs.items() if name not in self._ids])
        seen = {}
        while self._ids:
            states = self._states()
            if self.received:
                return
            for name, submitted in list(self._ids.items()):
                state, job_id = states.get(submitted.job_id, "FORGOTTEN"), submitted.job_id
                if state in _ENDED:
                    del self._ids[name]
                    yield self._ended(jobs[name], submitted, state)
                elif state == "RUNNING":
                    kind = "runs" if seen.get(name) == state else "started"
                    yield Event(jobs[name], kind, note=f"job {job_id}, output in {jobs[name].log}")
                elif state == "PENDING" != seen.get(name):
                    yield Event(jobs[name], "waits", note=f"job {job_id} is in Slurm's queue")
                seen[name] = state if state in ("RUNNING", "PENDING") else seen.get(name)
            self._sleep()

    def _unfinished(self, jobs):
        """Of the jobs of earlier sweeps, those that Slurm still has: {name: submitit's job}."""
        ids = [path.name.removesuffix("_submitted.pkl") for path in self._folder.glob("*_submitted.pkl")]
        states = self._states() if ids else {}
        alive = [self._job_class(self._folder, i) for i in ids if states.get(i, "FORGOTTEN") not in _ENDED]
        found = {job.submission().args[0].name: job for job in alive}
        return {name: job for name, job in found.items() if name in jobs}

    def _submit(self, jobs):
        if not jobs:
            return {}
        try:
            with self._submitit.batch():
                submitted = {job.name: self._submitit.submit(_attempt, job, self._limits) for job in jobs}
        except RuntimeError as error:  # of submitit, with what sbatch says
            raise OSError(f"--executor=slurm: {error}") from error
        return submitted

    def _states(self):
        """{id: state} of this user's jobs, of those of an array that wait as well; without meaning once a signal is
        received.
        """
        command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"]
        while True:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0 or self.received:
                return dict(line.split() for line in done.stdout.splitlines())
            _log.warning("squeue: %s; asking again in %d s", " ".join(done.stderr.split()), POLL_SECONDS)
            self._sleep()

    def _ended(self, job, submitted, state):
        if not submitted.paths.result_pickle.exists():
            return Event(job, "ended", 1, f"Slurm's job {submitted.job_id} is {state}")
        if error := submitted.exception():
            return Event(job, "ended", 1, f"Slurm's job {submitted.job_id}: {error}")
        return Event(job, "ended", *submitted.result())

    def _sleep(self):
        """Until it is time to ask again, or a signal is received: by itself a sleep goes on after one."""
        end = time.monotonic() + POLL_SECONDS
        while time.monotonic() < end and not self.received:
            time.sleep(0.1)


def _attempt(job: Job, limits: Limits) -> tuple[int, str]:
    """What Slurm starts: runs the job. A trial that was stopped ends this process too, with its exit code, by which
    the batch script knows that it is to be requeued.

    Returns: exit code and note, as of `Event`.
    """
    processes = []

    def pass_on(number, _frame):
        running = [process for process in processes if process.poll() is None]
        for process in running:
            signal_group(process, number)
        if not running:
            sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, pass_on)
    exit_code, note = attempt_here(job, limits, processes.append)
    if exit_code in STOPPED:
        sys.exit(exit_code if exit_code > 0 else 128 - exit_code)
    return exit_code, note
