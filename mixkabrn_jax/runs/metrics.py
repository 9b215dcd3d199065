"""`metrics.jsonl`: what a run reports, one JSON object (a record) a line."""

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from mixkabrn_jax.runs.workdir import write_atomically

_log = logging.getLogger(__name__)


class MetricsFile:
    """The records of a run, open for more. Those after the step it resumes from are dropped, so curves never overlap.

    A file that is deleted meanwhile is begun anew, and the log says so.
    """

    def __init__(self, path: Path, resume_step: int, *, is_written: bool = True):
        """
        Args:
            is_written: False for a process that is not the one that writes; then only `kept` is of use.
        """
        self.kept = [record for record in read(path) if record["step"] <= resume_step] if path.exists() else []
        """The records of the run so far."""
        if is_written:
            if resume_step and not path.exists():
                _log.warning("%s is missing: it begins anew, without the records up to step %d", path, resume_step)
            write_atomically(path, "".join(json.dumps(record) + "\n" for record in self.kept))
        self._path, self._is_written = path, is_written
        self._file = self._opened()

    def write(self, step: int, split: str, values: dict[str, float | str]) -> None:
        """Appends a record and hands it to the operating system. JSON knows no NaN and no infinity: they become null.

        Raises: OSError naming the file and the step when the disk is full, say.
        """
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
        line = (json.dumps({"step": step, "split": split, **finite}) + "\n").encode()
        try:
            self._reopen_if_deleted()
            while line:  # a file system that is nearly full takes a part of it
                line = line[self._file.write(line) :]
        except OSError as error:
            reason = f"{error.strerror}; the record of step {step} is not written; the same command goes on"
            raise OSError(error.errno, reason, str(self._path)) from error

    def _opened(self):
        # Unbuffered: a record that a full disk refused must not be tried again by `close`.
        return (self._path if self._is_written else Path(os.devnull)).open("ab", buffering=0)

    def _reopen_if_deleted(self):
        if self._is_written and not self._path.exists():
            _log.warning("%s was deleted while the run went on: it begins anew, without the records so far", self._path)
            self._file.close()
            self._file = self._opened()

    def sync(self) -> None:
        """Waits until all records would survive a power cut: a checkpoint must not outlive the log before it."""
        if self._is_written:
            os.fsync(self._file.fileno())

    def records(self) -> list[dict]:
        """All records of the file; none of one that was deleted."""
        return read(self._path) if self._path.exists() else []

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


def final(records: Sequence[dict], num_steps: int) -> dict | None:
    """The record of the validation after the last step, over all of the validation data; None before it."""
    found = [record for record in records if (record["step"], record["split"]) == (num_steps, "validation")]
    return found[-1] if found else None
