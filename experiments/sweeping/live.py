"""What a sweep shows while it runs: lines that stay and, on a terminal, a table below them that redraws itself."""

import shutil
import sys
import time
from collections.abc import Mapping

from experiments.sweeping.executor import Event
from experiments.sweeping.results import Row
from experiments.sweeping.trials import Trial
from mixkabrn_jax.runs import metrics
from mixkabrn_jax.training.progress import in_words


class LiveTable:
    """How many trials are done and how long the others take at the pace so far; then a line for each that runs."""

    def __init__(self, trials: Mapping[str, Trial], rows: Mapping[str, Row], stream=None):
        """
        Args:
            trials: those that are not complete, by name; rows: of all, by name. Both are read anew for each drawing.
        """
        self._trials, self._rows = trials, rows
        self._stream = sys.stderr if stream is None else stream
        self._running: list[str] = []
        self._height = 0  # lines that are drawn now
        self._start, self._first_steps = time.monotonic(), self._num_steps()

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        self._erase()
        print(text, file=self._stream, flush=True)
        self._draw()

    def update(self, event: Event) -> None:
        """Draws the table as it is after an event."""
        name = event.job.name
        if event.kind == "ended" and name in self._running:
            self._running.remove(name)
        elif event.kind in ("started", "runs") and name not in self._running:
            self._running.append(name)
        self._erase()
        self._draw()

    def close(self) -> None:
        """Takes the table away."""
        self._running.clear()
        self._erase()

    def _draw(self):
        if not (self._stream.isatty() and self._running):
            return
        width = shutil.get_terminal_size().columns - 1  # a line that fills the last column may break
        lines = [self._summary(), *map(self._line, self._running)]
        self._stream.write("".join(f"{line[:width]}\n" for line in lines))
        self._stream.flush()
        self._height = len(lines)

    def _erase(self):
        if self._height:
            self._stream.write(f"\x1b[{self._height}F\x1b[J")
            self._height = 0

    def _summary(self):
        counts = {status: sum(row.status == status for row in self._rows.values()) for status in ("complete", "failed")}
        done = self._num_steps() - self._first_steps
        pace = (time.monotonic() - self._start) / done if done else None
        left = sum(trial.num_steps for trial in self._trials.values()) - self._num_steps()
        eta = f", ETA {in_words(pace * left)}" if pace else ""
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        return f"{counts['complete']} of {len(self._rows)} trials complete{failed}{eta}"

    def _line(self, name):
        trial = self._trials[name]
        records = metrics.read(trial.workdir / "metrics.jsonl") if (trial.workdir / "metrics.jsonl").exists() else []
        training = [record for record in records if record["split"] == "train"]
        figures = "starting"
        if training:
            last = training[-1]
            figures = f"{last['bits_per_byte']:.4f} bits/byte  {last['tokens_per_second']:,.0f} tokens/s"
        step = training[-1]["step"] if training else 0
        return f"  step {step}/{trial.num_steps}  {figures:<34}  {name}"

    def _num_steps(self):
        """Of all trials that were not complete when the sweep began, as their rows have it."""
        return sum(self._rows[name].steps for name in self._trials)
