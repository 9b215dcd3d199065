"""Signals that ask a run to stop, and compilations that they do not have to wait for."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Those of them that the platform has."""


class Signals:
    """Remembers the first signal that asks for an end, and acknowledges it; SIGINT ends the run when it comes again.

    The others do not: a run may still be saving. Slurm sends SIGTERM twice within milliseconds where a partition gives
    no grace time (to a step, and once more by srun), and after SIGUSR1, its warning ahead of the time limit
    (--signal=USR1@60). SIGKILL is what ends a run that does not listen.
    """

    def __init__(self, *, is_told: bool = True):
        """
        Args:
            is_told: whether this process is the one that writes to the terminal.
        """
        self.received = 0
        self._is_told, self._previous = is_told, {}

    def __enter__(self):
        # Python gives signals to the main thread; elsewhere, as in a worker of Ray, they are its owner's.
        is_main = threading.current_thread() is threading.main_thread()
        for number in NUMBERS if is_main else ():
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number, _frame):
        is_sigint = number == signal.SIGINT
        if is_sigint or not self.received:
            self._tell(f"{signal.Signals(number).name}: saving after this step{'; once more ends it now' * is_sigint}")
        self.received = self.received or number
        if is_sigint and self._previous[number] != signal.SIG_IGN:
            signal.signal(number, self._end_now)

    def _end_now(self, number, frame):
        self._tell("ended now: the same command goes on from the last checkpoint")
        usual = self._previous[number]
        signal.signal(number, usual)
        if callable(usual):  # as by default: it raises KeyboardInterrupt
            usual(number, frame)
        else:
            signal.raise_signal(number)

    def _tell(self, text):
        if self._is_told:
            # Not by `print`: the signal may have come in the middle of one.
            os.write(2, f"\n{text}\n".encode())

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def interruptible(function: Callable):
    """What the function returns; signals are handled while it runs, even where it is XLA's compiler.

    Python handles signals between two of its own instructions in the main thread: here that one waits and looks.

    Raises: what the function raises; and what a handler raises, at once: then the function goes on by itself.
    """
    pool = ThreadPoolExecutor(1)
    running = pool.submit(function)
    pool.shutdown(wait=False)
    while not running.done():
        wait([running], timeout=0.1)
    return running.result()
