"""Runs jobs as processes of this machine, some at a time."""

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator

from experiments.sweeping.executor import Event, Executor, Job, Limits, attempt, signal_group


class LocalExecutor(Executor):
    """Keeps `slots` processes running; the end of its context stops those that are left.

    Where there are at least as many processors as slots, each slot has a share of them to itself (Linux): processes
    whose threads contend for the same cores are slower than one after another. A job that still has a process of an
    earlier sweep waits in its slot, since the process it waits for takes that slot's share of the machine.
    """

    stopping = "each trial that runs saves its state first; once more to kill them"

    def __init__(self, slots: int, limits: Limits | None = None, *, poll_seconds: float = 0.1):
        super().__init__()
        self._limits = limits or Limits()
        self._free = _shares(slots)  # of slots without a job, the processors
        self._poll_seconds = poll_seconds
        self._processes: list[subprocess.Popen] = []

    def __exit__(self, *_):
        """Asks what still runs to save its state and end, and waits; a second signal ends it at once."""
        self._signal_all(signal.SIGTERM)
        is_killed = False
        while any(process.poll() is None for process in self._processes):
            if len(self.received) > 1 and not is_killed:
                self._signal_all(signal.SIGKILL)
                is_killed = True
            time.sleep(self._poll_seconds)
        super().__exit__()

    def run(self, jobs: Iterable[Job], is_done: Callable[[Job], bool]) -> Iterator[Event]:
        """As `Executor.run`; a job is taken from `jobs` once there is a slot for it."""
        queue, lives = iter(jobs), []
        while not self.received:
            while self._free and (job := next(queue, None)):
                processors = self._free.pop(0)
                begun = functools.partial(self._begin, processors)
                lives.append((attempt(job, self._limits, is_done, begun), processors))
            if not lives:
                return
            for life, processors in list(lives):
                event = next(life)
                if event is not None:
                    yield event
                    if event.kind == "ended":
                        lives.remove((life, processors))
                        self._free.append(processors)
            time.sleep(self._poll_seconds)

    def _begin(self, processors: set[int], process: subprocess.Popen) -> None:
        if processors:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                os.sched_setaffinity(process.pid, processors)  # for the threads that it is yet to start, too
        self._processes.append(process)

    def _signal_all(self, number: int) -> None:
        for process in self._processes:
            signal_group(process, number)


def _shares(slots):
    """The processors of each slot, in even parts; empty sets where they are not to be told apart."""
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if slots == 1 or len(processors) < slots:
        return [set() for _ in range(slots)]
    return [set(processors[slot::slots]) for slot in range(slots)]
