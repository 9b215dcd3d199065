"""Runs command lines as processes of this machine, some at a time."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mixkabrn_jax.locks import try_lock


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
class Event:
    """What happened to a job: it waits for a process of an earlier sweep, has started, or has ended."""

    job: Job
    kind: Literal["waits", "started", "ended"]
    exit_code: int = 0
    """Of a job that ended; minus the signal's number when one killed it; 0 when an earlier sweep's process did it."""


class LocalExecutor:
    """Keeps `slots` processes running; used as a context, whose end stops those that are left.

    Where there are at least as many processors as slots, each slot has a share of them to itself (Linux): processes
    whose threads contend for the same cores are slower than one after another.

    A killed sweep leaves processes that train on, and a second one in the same folder would ruin the first one's
    files. So each holds a lock (flock) on its log, through the open file that is its standard output: the lock lasts
    exactly as long as the process, whoever started it and however it ends, with no file to clean up. A job whose log is
    locked waits in its slot, since the process it waits for takes that slot's share of the machine. Letting processes
    die with the sweep (PR_SET_PDEATHSIG) would be Linux only, throw away work, and need the lock all the same while
    they save their state.
    """

    def __init__(self, slots: int, *, poll_seconds: float = 0.1):
        self.received: list[int] = []
        """Signals that asked the sweep to stop."""
        self._free = _shares(slots)  # of slots without a job, the processors
        self._poll_seconds = poll_seconds
        self._processes: list[subprocess.Popen] = []
        self._previous = {}

    def __enter__(self):
        names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last of which Windows lacks
        for number in [getattr(signal, name) for name in names if hasattr(signal, name)]:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP under nohup
                self._previous[number] = signal.signal(number, lambda number, _frame: self.received.append(number))
        return self

    def __exit__(self, *_):
        """Asks what still runs to save its state and end, and waits; a second signal ends it at once."""
        self._signal_all(signal.SIGTERM)
        is_killed = False
        while any(process.poll() is None for process in self._processes):
            if len(self.received) > 1 and not is_killed:
                self._signal_all(signal.SIGKILL)
                is_killed = True
            time.sleep(self._poll_seconds)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, jobs: Iterable[Job], is_done: Callable[[Job], bool]) -> Iterator[Event]:
        """Runs the jobs in order and yields what happens to them; ends early when a signal is received.

        `is_done` is asked of a job that waited, once its log is free: the earlier sweep's process may have done it.
        """
        queue, lives = deque(jobs), []
        while (queue or lives) and not self.received:
            while queue and self._free:
                processors = self._free.pop(0)
                lives.append((self._live(queue.popleft(), processors, is_done), processors))
            for life, processors in list(lives):
                event = next(life)
                if event is not None:
                    yield event
                    if event.kind == "ended":
                        lives.remove((life, processors))
                        self._free.append(processors)
            time.sleep(self._poll_seconds)

    def _live(self, job: Job, processors: set[int], is_done: Callable[[Job], bool]) -> Iterator[Event | None]:
        """A job from its lock to its end, as its events with None for each moment between them."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab", buffering=0) as log:
            if not try_lock(log):
                yield Event(job, "waits")
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
        if processors:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                os.sched_setaffinity(process.pid, processors)  # for the threads that it is yet to start, too
        self._processes.append(process)
        yield Event(job, "started")
        while (exit_code := process.poll()) is None:
            yield None
        self._processes.remove(process)
        yield Event(job, "ended", exit_code)

    def _signal_all(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                # It may end in this very moment; macOS then answers with the second error.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)


def _shares(slots):
    """The processors of each slot, in even parts; empty sets where they are not to be told apart."""
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if slots == 1 or len(processors) < slots:
        return [set() for _ in range(slots)]
    return [set(processors[slot::slots]) for slot in range(slots)]
