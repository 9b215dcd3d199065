"""Runs jobs as tasks of a Ray cluster."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping

from experiments.sweeping.executor import Event, Executor, Job, Limits, attempt_here, signal_group


class RayExecutor(Executor):
    """Keeps `slots` tasks at Ray, which places each where its resources are free; the end of its context stops those
    that are left. Each task starts its job's command, as the local executor does, in the sweep's folder: all nodes must
    share it.
    """

    stopping = "each trial that runs saves its state first; once more to kill them"

    def __init__(self, slots: int, limits: Limits, options: Mapping[str, str]):
        """
        Args:
            options: resources of a task, such as {"num_cpus": "4", "num_gpus": "1"}; other names are the cluster's own.
        Raises: ImportError without Ray, ValueError for an amount that is no number.
        """
        super().__init__()
        try:
            import ray
        except ImportError as error:
            raise ImportError("--executor=ray needs Ray: pip install ray") from error
        given = {name: _amount(name, value) for name, value in options.items()}
        own = {name: given.pop(name) for name in ("num_cpus", "num_gpus", "memory") if name in given}
        ray.init(log_to_driver=False)  # at RAY_ADDRESS, else on this machine
        # Not by Ray: a task that it started again would not know what the limits say.
        self._task = ray.remote(_attempt).options(max_retries=0, resources=given, **own)
        self._ray, self._slots, self._limits = ray, slots, limits
        self._running = {}

    def __exit__(self, *_):
        """Asks what still runs to save its state and end, and waits; a second signal ends it at once."""
        is_killed = False
        self._cancel()
        while self._running and self._ended():
            if len(self.received) > 1 and not is_killed:
                self._cancel()
                is_killed = True
        self._ray.shutdown()
        super().__exit__()

    def run(self, jobs: Iterable[Job], is_done: Callable[[Job], bool]) -> Iterator[Event]:  # noqa: ARG002
        """As `Executor.run`; a job is taken from `jobs` once there is a slot for it."""
        queue = iter(jobs)
        while not self.received:
            while len(self._running) < self._slots and (job := next(queue, None)):
                self._running[self._task.remote(job, self._limits, os.getcwd())] = job
                yield Event(job, "started", note=f"a task of Ray, output in {job.log}")
            if not self._running:
                return
            yield from self._ended()

    def _ended(self):
        """The events of tasks that end within a moment."""
        done, _ = self._ray.wait(list(self._running), timeout=0.1)
        return [self._end(task) for task in done]

    def _end(self, task):
        job = self._running.pop(task)
        try:
            return Event(job, "ended", *self._ray.get(task))
        except self._ray.exceptions.RayError as error:  # its node is gone, say
            return Event(job, "ended", 1, f"Ray's task: {str(error).strip().splitlines()[-1]}")

    def _cancel(self):
        for task in self._running:
            self._ray.cancel(task)


def _amount(name, value):
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(f"--resources={name}={value}: a number is needed") from error


def _attempt(job: Job, limits: Limits, folder: str) -> tuple[int, str]:
    """In a worker of Ray: runs the job to its end. A cancellation, which Ray makes a SIGINT, asks it to save its state
    and end; a second one kills it.

    Returns: exit code and note, as of `Event`.
    """
    os.chdir(folder)
    processes = []

    def stop(*_):
        running = [process for process in processes if process.poll() is None]
        for process in running:
            signal_group(process, signal.SIGKILL if is_stopping else signal.SIGTERM)
        if is_stopping or not running:
            raise KeyboardInterrupt
        is_stopping.append(True)

    is_stopping = []
    usual = signal.signal(signal.SIGINT, stop)
    try:
        return attempt_here(job, limits, processes.append)
    finally:
        signal.signal(signal.SIGINT, usual)
