"""What runs the trials of a sweep: the interface of all executors, and one job from its first attempt to its last."""

import contextlib
import errno
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from mixkabrn_jax import locks
from mixkabrn_jax.training import signals

TIMEOUT = 124
"""Exit code of a job whose time was over, as of coreutils' `timeout`."""
STOPPED = {code for number in signals.NUMBERS for code in (-number, 128 + number)}
"""Exit codes of a process that was asked from outside to end."""
_SAVING_SECONDS = 60
_REPORT_SECONDS = 10


@dataclass(frozen=True)
class Job:
    """A command line, and the file that its output is appended to."""

    name: str
    command: tuple[str, ...]
    log: Path

    @property
    def header(self) -> str:
        """The line that begins each run in the log."""
        return f"$ {shlex.join(self.command)}\n"


@dataclass(frozen=True)
class Limits:
    """What each job may take."""

    timeout_minutes: float = 0.0
    """Of one process: one that is still there is asked to save its state and end, a minute later it is killed. 0 for
    as long as it takes.
    """
    retries: int = 0
    """How often a job that failed is started again, from its last checkpoint; not one that was stopped or took too
    long.
    """


@dataclass(frozen=True)
class Event:
    """What happened to a job: it waits, has started, runs on (said now and then), or has ended."""

    job: Job
    kind: Literal["waits", "started", "runs", "ended"]
    exit_code: int = 0
    """Of a job that ended; minus the signal's number when one killed it; 0 when an earlier sweep's process did it."""
    note: str = ""
    """More about it, for people."""


class Executor:
    """Runs jobs; used as a context, within which signals that ask the sweep to stop are remembered."""

    stopping = ""
    """What becomes of the jobs when the sweep is stopped, for those who did it."""

    def __init__(self):
        self.received: list[int] = []
        """Signals that asked the sweep to stop."""
        self._previous = {}

    def __enter__(self):
        names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last of which Windows lacks
        for number in [getattr(signal, name) for name in names if hasattr(signal, name)]:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP under nohup
                self._previous[number] = signal.signal(number, lambda number, _frame: self.received.append(number))
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, jobs: Iterable[Job], is_done: Callable[[Job], bool]) -> Iterator[Event]:
        """Runs the jobs in order and yields what happens to them; ends early when a signal is received.

        `is_done` is asked of a job that another process had: that one may have done it.
        """
        raise NotImplementedError


def attempt(
    job: Job, limits: Limits, is_done: Callable[[Job], bool], begun: Callable[[subprocess.Popen], None]
) -> Iterator[Event | None]:
    """A job from its lock to the end of its last process, as its events with None for each moment between them.

    A killed sweep leaves processes that train on, and a second one in the same folder would ruin the first one's
    files. So each holds a lock (flock) on its log, through the open file that is its standard output: the lock lasts
    exactly as long as the process, whoever started it and however it ends, with no file to clean up. Letting processes
    die with the sweep (PR_SET_PDEATHSIG) would be Linux only, throw away work, and need the lock all the same while
    they save their state.

    Args:
        begun: is told of each process, the leader of a group of its own.
    """
    for number in range(1, 2 + limits.retries):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab", buffering=0) as log:
            if not try_lock(log):
                yield Event(job, "waits", note="still trained by a process of an earlier sweep; waiting for it")
                while not try_lock(log):
                    yield None
                if is_done(job):
                    yield Event(job, "ended")
                    return
            log.write(job.header.encode())
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # a terminal's Ctrl-C is for the sweep alone, which passes on SIGTERM
            )
        begun(process)
        yield Event(job, "started", note=f"attempt {number}, " * (number > 1) + f"output in {job.log}")
        is_late = yield from _await(job, process, limits.timeout_minutes)
        if is_late or process.returncode == 0 or process.returncode in STOPPED:
            break
    notes = [f"timeout after {limits.timeout_minutes:g} minutes"] if is_late else []
    notes += [f"attempt {number}"] if number > 1 else []
    yield Event(job, "ended", TIMEOUT if is_late else process.returncode, ", ".join(notes))


def attempt_here(job: Job, limits: Limits, begun: Callable[[subprocess.Popen], None]) -> tuple[int, str]:
    """Runs a job where a cluster has put it. Returns: exit code and note of its last event."""
    last = None
    for event in attempt(job, limits, lambda _: False, begun):
        last = event or last
        time.sleep(0.1)
    return last.exit_code, last.note


def signal_group(process: subprocess.Popen, number: int) -> None:
    """Sends a signal to a process and those that it has started, unless it has ended."""
    if process.poll() is None:
        # It may end in this very moment; macOS then answers with the second error.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def try_lock(file: IO) -> bool:
    """`locks.try_lock`; True as well where a cluster's file system has no locks, as Lustre without `flock`."""
    try:
        return locks.try_lock(file)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            return True
        raise


def _await(job, process, minutes):
    """Until the process has ended. Returns: whether its time was over before."""
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    end, is_late, next_report = signal.SIGTERM, False, time.monotonic() + _REPORT_SECONDS
    while process.poll() is None:
        now = time.monotonic()
        if now > deadline:
            signal_group(process, end)
            end, is_late, deadline = signal.SIGKILL, True, now + _SAVING_SECONDS
        if now > next_report:
            next_report = now + _REPORT_SECONDS
            yield Event(job, "runs")
        yield None
    return is_late
