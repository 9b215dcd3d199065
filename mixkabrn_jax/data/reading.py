"""Batches in order, read ahead of their use by threads that may hang without the run hanging with them."""

import queue
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Sequence

_SECONDS_TO_END = 1.0
"""What threads that do not hang have, many times over, to end the batch they are at."""


class Batches:
    """An iterator over an endless sequence of batches, with a position that can be saved.

    The position counts the batches that were handed out, however many are ready.
    """

    def __init__(self, source: Sequence, num_threads: int, timeout_seconds: float):
        """
        Args:
            source: gives batch i for index i, to several threads at once.
            num_threads: threads that read ahead, two batches each; with 0, batches are read when they are asked for.
            timeout_seconds: longest time that `next` waits for a batch; 0 is for ever.
        """
        self._source, self._timeout = source, timeout_seconds
        # With no thread to read ahead, the caller reads, unless it is to stop waiting: then one thread reads for it.
        self._num_threads = num_threads or int(timeout_seconds > 0)
        self._num_ahead = max(2 * num_threads, 1)
        self._position, self._ahead, self._threads = 0, deque(), None

    def __iter__(self):
        return self

    def __next__(self):
        """The next batch.

        Raises: TimeoutError when it is not there in time; whatever the source raised. The position stays: the same
            batch is waited for, or read again, by the next call.
        """
        batch = self._wait() if self._num_threads else self._source[self._position]
        self._position += 1
        if self._num_ahead > 1:
            self._ask()  # before the caller's next turn, not at it
        return batch

    def _wait(self):
        if self._threads is None:
            self._threads = _Threads(self._num_threads)
            # At the end of the process too, whatever ended it.
            self._end = weakref.finalize(self, self._threads.end)
        self._ask()
        reading = self._ahead[0]
        if not reading.is_done.wait(self._timeout or None):
            raise TimeoutError(
                f"batch {self._position} is not there after config.data.timeout_seconds={self._timeout}: "
                f"{reading.whereabouts()}; see what that waits for (a network disk that config.data.path is on?), or "
                "set a longer time, or 0 to wait for ever"
            )
        if reading.error is not None:
            self.close()
            raise reading.error
        return self._ahead.popleft().batch

    def _ask(self):
        while len(self._ahead) < self._num_ahead:
            self._ahead.append(_Reading(self._source, self._position + len(self._ahead)))
            self._threads.readings.put(self._ahead[-1])

    def get_state(self) -> dict[str, int]:
        """The position: how many batches were handed out."""
        return {"next_index": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on from the position of `get_state`."""
        self.close()
        self._position = state["next_index"]

    def close(self) -> None:
        """Ends the threads; one that hangs is waited for no longer than a second. `next` would begin with new ones."""
        if self._threads is not None:
            self._end()
            self._threads = None
            self._ahead.clear()


class _Threads:
    """Daemons of our own: those of an executor are waited for when a process ends, so one that hangs keeps it alive."""

    def __init__(self, number):
        self.readings = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=_serve, args=(self.readings,), name=f"batches-{i}", daemon=True)
            for i in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def end(self):
        """Those that do not hang must end before the process does: one that wakes up in C++ then aborts it."""
        while not self.readings.empty():
            try:
                self.readings.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self.readings.put(None)
        deadline = time.monotonic() + _SECONDS_TO_END
        for thread in self._threads:
            if thread is not threading.current_thread():  # where garbage is collected is anyone's guess
                thread.join(max(deadline - time.monotonic(), 0))


def _serve(readings):
    while (reading := readings.get()) is not None:
        reading.run()


class _Reading:
    """One batch on its way. As a context it keeps what is raised inside, for the one who asked for the batch."""

    def __init__(self, source, index):
        self._source, self._index = source, index
        self.is_done = threading.Event()
        self.batch = self.error = self._thread = None

    def run(self):
        self._thread = threading.get_ident()
        with self:
            self.batch = self._source[self._index]

    def __enter__(self):
        return self

    def __exit__(self, _kind, error, _traceback):
        self.error = error
        self.is_done.set()
        return True

    def whereabouts(self):
        """Where in the program its thread is."""
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return "no thread is free to read it"
        at = traceback.extract_stack(frame)[-1]
        return f"the thread that reads it is in {at.name}, {at.filename}:{at.lineno}"
