"""What a run shows to people: one status line, and lines that stay."""

import sys
import time


class Progress:
    """A status line that redraws itself on a terminal and is printed line by line elsewhere."""

    def __init__(self, num_steps: int, start_step: int, stream=None, *, is_shown: bool = True):
        """
        Args:
            is_shown: whether this process is the one that writes to the terminal.
        """
        self._num_steps, self._start_step, self._is_shown = num_steps, start_step, is_shown
        self._stream = sys.stdout if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self.start_clock()

    def start_clock(self) -> None:
        """The time left is reckoned from the pace since here."""
        self._start = time.monotonic()

    def show(self, step: int, values: dict[str, float], seconds_after: float = 0.0) -> None:
        """Shows the newest figures and the time left at the average pace so far.

        Args:
            seconds_after: what there is to do after the last step takes, about.
        """
        pace = (time.monotonic() - self._start) / max(step - self._start_step, 1)
        text = (
            f"step {step}/{self._num_steps}  loss {values['loss']:.4f}  bits/byte {values['bits_per_byte']:.4f}  "
            f"{values['tokens_per_second']:,.0f} tokens/s  "
            f"ETA {in_words(pace * (self._num_steps - step) + seconds_after)}"
        )
        if self._is_terminal:
            filled = 20 * step // self._num_steps
            text = f"\r\x1b[K[{'#' * filled}{'.' * (20 - filled)}] {text}"
        else:
            text += "\n"
        self._write(text)

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        self._write(f"\r\x1b[K{text}\n" if self._is_terminal else f"{text}\n")

    def _write(self, text):
        if self._is_shown:
            self._stream.write(text)
            self._stream.flush()


def in_words(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03."""
    seconds = round(seconds)
    return f"{seconds // 3600:d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
