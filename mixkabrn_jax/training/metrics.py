"""`metrics.jsonl`: what a run reports for programs."""

import json
import math
import os
from pathlib import Path

from mixkabrn_jax.training.workdir import write_atomically


class MetricsFile:
    """One JSON object a line. Lines after the step a run resumes from are dropped, so curves have no overlaps."""

    def __init__(self, path: Path, resume_step: int, *, is_written: bool = True):
        """
        Args:
            is_written: False for a process that is not the one that writes; then only `kept` is of use.
        """
        self.kept = [record for record in read(path) if record["step"] <= resume_step] if path.exists() else []
        """The lines of the run so far."""
        if is_written:
            write_atomically(path, "".join(json.dumps(record) + "\n" for record in self.kept))
        self._path, self._is_written = path, is_written
        # Unbuffered: a line that a full disk refused must not be tried again by `close`.
        self._file = (path if is_written else Path(os.devnull)).open("ab", buffering=0)

    def write(self, step: int, split: str, values: dict[str, float | str]) -> None:
        """Appends a line and hands it to the operating system. JSON knows no NaN and no infinity: they become null.

        Raises: OSError naming the file and the step when there is no room for it, say.
        """
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
        line = (json.dumps({"step": step, "split": split, **finite}) + "\n").encode()
        try:
            while line:  # a file system that is nearly full takes a part of it
                line = line[self._file.write(line) :]
        except OSError as error:
            reason = f"{error.strerror}; the line of step {step} is not written; the same command goes on"
            raise OSError(error.errno, reason, str(self._path)) from error

    def sync(self) -> None:
        """Waits until all lines would survive a power cut: a checkpoint must not outlive the log before it."""
        if self._is_written:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(path: Path) -> list[dict]:
    """All records; a last line cut short by a killed process is left out.

    Raises: ValueError naming file and line when any other line is not a JSON object with step and split.
    """
    lines = path.read_text().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not a JSON object ({error})") from error
        if not isinstance(record, dict) or not {"step", "split"} <= record.keys():
            raise ValueError(f"{path}, line {number}: an object with step and split is needed, not {line[:80]}")
        records.append(record)
    return records
