"""More processes of this machine for work that one of them can describe: they end with the one that started them."""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_PROCESSES = 8
"""With the one that starts them: each of them takes memory, 150 MB where it encodes subwords."""
# Not by multiprocessing: it would run the main program's file again, or fork a process that has threads.
_PROGRAM = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from mixkabrn_jax.data import workers; "
    "workers.serve()"
)


def num_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def started(function: Callable[[], object], number: int) -> Iterator[list[subprocess.Popen]]:
    """Around work that others help with: each of them calls the function, which is pickled, once.

    What they print or raise is not seen: the one that started them must be able to do without them. They end when the
    context does, and when this process does, however that ends.
    """
    content = pickle.dumps(sys.path) + pickle.dumps(function)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([sys.executable, "-c", _PROGRAM], **pipes) for _ in range(number)]
    try:
        for process in processes:
            try:
                process.stdin.write(content)
                process.stdin.flush()
            except BrokenPipeError:  # it has ended already
                pass
        yield processes
    finally:
        for process in processes:
            process.stdin.close()
            process.wait()


def serve() -> None:
    """What such a process does."""
    function = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_other, daemon=True).start()
    function()
    os._exit(0)  # Python's own end would wait for that thread


def _end_with_the_other():
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)
