"""A line on the terminal about what takes more than a few seconds."""

import sys
import time

_SILENT_SECONDS = 3.0


class Progress:
    """Says on standard error how far something is: a line that redraws itself on a terminal, else one now and then."""

    def __init__(self, what: str, total: int = 0, stream=None):
        """
        Args:
            what: is being done, as in "encoding".
            total: bytes in all; 0 where that is not known.
        """
        self._what, self._total = what, total
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._start = time.monotonic()
        self._next, self._is_shown = self._start + _SILENT_SECONDS, False
        self._done = 0

    def add(self, num_bytes: int) -> None:
        """So many more are done."""
        self._done += num_bytes
        now = time.monotonic()
        if now < self._next:
            return
        self._next, self._is_shown = now + (0.5 if self._is_terminal else 10.0), True
        rate = self._done / (now - self._start)
        text = f"{self._what}: {self._done / 1e6:,.0f}"
        if self._total:
            left = max(self._total - self._done, 0) / max(rate, 1)
            text += f" of {self._total / 1e6:,.0f}"
        text += f" MB, {rate / 1e6:,.1f} MB/s" + (f", {left:,.0f} s left" if self._total else "")
        self._stream.write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Clears the line."""
        if self._is_shown and self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
