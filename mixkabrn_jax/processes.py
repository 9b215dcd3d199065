"""The processes of one run: each has devices of its own, all run the same program, and the first one writes.

What they tell each other goes over their devices, as everything else does between them: every process has to come to
each of these functions, in the same order. In a run of one process they do nothing.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class ElsewhereError(OSError):
    """Another process failed at what all of them have to do; the message says which one, and how."""


class LostError(OSError):
    """Another process is not there any more, or a program that all of them run has failed in this one."""


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int,
) -> None:
    """Makes this process one of those of a run; before JAX computes anything.

    Without the three arguments JAX finds the other processes by itself under Slurm and Open MPI, on Kubernetes and on
    TPU pods.

    Args:
        coordinator_address: host:port that process 0 listens at.
        num_processes: of the run.
        process_id: of this one, from 0.
        heartbeat_seconds: a process that is not heard of for so long counts as dead, and all others end.
    Raises: ValueError when JAX finds no other processes, OSError when something else listens at the address.
    """
    if process_id == 0 and coordinator_address is not None:
        _require_free(coordinator_address)
    # It would take SIGTERM for itself, which is the loop's.
    jax.config.update("jax_enable_preemption_service", False)
    # With one CPU device a process, programs that do not wait for each other run side by side, see `AllReduceMax`.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=heartbeat_seconds,
            shutdown_timeout_seconds=heartbeat_seconds,
        )
    except ValueError as error:
        raise ValueError(
            f"no other processes are found here ({error}); JAX looks for those of Slurm, Open MPI, Kubernetes and TPU "
            "pods: give coordinator_address, num_processes and process_id"
        ) from error


def _require_free(address):
    port = int(address.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:  # JAX would end in a segmentation fault
        raise OSError(error.errno, f"{error.strerror}: choose another port", address) from error


def shutdown(code: int) -> NoReturn:
    """Ends this process at once: `sys.exit` would have JAX wait for the others, which may wait for this one."""
    if not jax.distributed.is_initialized():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():
        time.sleep(2)  # without it JAX ends the others, which may be about to say why they end
    os._exit(code)


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def broadcast_from_first(function: Callable):
    """What the function returns in the first process, in all of them; the others do not call it.

    Args:
        function: returns what JSON has words for.
    Raises: what the function raises; in the other processes ElsewhereError.
    """
    if jax.process_count() == 1:
        return function()
    told = ""
    with ErrorConsensus():
        if is_first():
            told = json.dumps(function())
    return json.loads(_exchanged(told)[0])


@contextmanager
def exchange() -> Iterator[None]:
    """Around what needs the other processes.

    Raises: LostError where JAX reports an error of an exchange with them, or any other of a running program.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in reason:  # its own memory
            raise
        raise LostError(
            f"process {jax.process_index()} of {jax.process_count()} cannot go on ({reason}): if another one has "
            "ended, see what that said last; start all of them again, and the same command goes on from the newest "
            "checkpoint"
        ) from error


class ErrorConsensus:
    """A context for what may fail in some processes only: then it fails in all, and none waits for the others for ever.

    Raises: ElsewhereError where it did not fail.
    """

    def __enter__(self):
        return self

    def __exit__(self, _kind, error, _traceback):
        if jax.process_count() == 1:
            return
        failures = _exchanged("" if error is None else str(error) or type(error).__name__)
        elsewhere = [f"process {process}: {failure}" for process, failure in enumerate(failures) if failure]
        if error is None and elsewhere:
            raise ElsewhereError("; ".join(elsewhere))


def require_same(**values: dict) -> None:
    """Makes sure that all processes have the same values.

    Args:
        values: by name, flat dicts of what JSON has words for.
    Raises: ValueError naming what differs from the first process.
    """
    if jax.process_count() == 1:
        return
    first = json.loads(_exchanged(json.dumps(values))[0])
    with ErrorConsensus():
        differing = [
            f"{name}.{key}={mine.get(key)!r} (there: {first[name].get(key)!r})"
            for name, mine in values.items()
            for key in sorted(mine.keys() | first[name].keys())
            if mine.get(key) != first[name].get(key)
        ]
        if differing:
            raise ValueError(
                f"this is not process {jax.process_index()} of the run of process 0: {', '.join(differing)}"
            )


def _exchanged(text):
    """The texts of all processes, in order."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(len(data)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


class AllReduceMax:
    """The largest of the numbers that the processes come with, and nobody waits for it: it is told one turn later.

    All processes are told the same at the same turn. In a run of one process it is told at once.
    """

    def __init__(self):
        self._on_its_way = None
        if jax.process_count() == 1:
            return
        # All devices, though one of each process would do: on CPUs, programs of several devices of a process run in
        # the order of their start, and one of a single device may run beside them; then Gloo mixes up their messages.
        mesh = Mesh(np.array(jax.devices()), "device", axis_types=(AxisType.Auto,))
        self._apart = NamedSharding(mesh, PartitionSpec("device"))
        self._maximum = jax.jit(jax.numpy.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, number: int) -> int:
        """Comes with this turn's number, and is told the largest one of the turn before; 0 at first."""
        if jax.process_count() == 1:
            return number
        mine = np.full(jax.local_device_count(), number, np.int32)
        numbers = jax.make_array_from_process_local_data(self._apart, mine)
        before, self._on_its_way = self._on_its_way, self._maximum(numbers)
        return 0 if before is None else int(before)
