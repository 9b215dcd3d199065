"""Checkpoints: the parts of a run, such as its model, and the position of its data, written together or not at all.

checkpoints/<step>/model, optimizer    arrays, as orbax writes them; a folder for each part
checkpoints/<step>/run.json            step, position of the data, config, name, shape and dtype of every array
checkpoints/<step>/hashes.json         size and SHA-256 of every other file
checkpoints/<step>.partial*            being written; of a killed run: removed by the next one
checkpoints/<step>.damaged             was found changed, and another one was gone on with
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax

from mixkabrn_jax import processes
from mixkabrn_jax.runs import arrays, hashes
from mixkabrn_jax.runs.policy import CheckpointConfig

_log = logging.getLogger(__name__)
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class DoesNotFitError(ValueError):
    """A checkpoint is not of the parts that are to be restored; the message names what differs."""


class Checkpoints:
    """The checkpoints of one run. A step directory exists only once everything in it is on disk.

    One run writes into the directory at a time: what another one left half written is removed. Of its processes each
    writes the arrays that it holds, and the first one does all else; what is here for all of them to see, such as the
    newest step, is for the first one to look up.
    """

    def __init__(
        self,
        directory: Path,
        policy: CheckpointConfig | None = None,
        *,
        about: Mapping | None = None,
        read_only: bool = False,
    ):
        """
        Args:
            directory: created unless read_only.
            policy: which checkpoints are deleted once a newer one is complete; None keeps all.
            about: what each checkpoint says of its run, as JSON; the config, say.
            read_only: nothing is changed, not even what is damaged.
        """
        self._directory, self._policy, self._about, self._read_only = directory.resolve(), policy, about, read_only
        self._losses: dict[int, float] = {}
        self._writing: tuple[int, Future] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._arrays = arrays.ArrayFiles()
        self._is_first = processes.is_first()
        if not read_only and self._is_first:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._remove_partial()

    def steps(self) -> list[int]:
        """Of all complete checkpoints, in rising order."""
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, damaged or not."""
        return max(self.steps(), default=None)

    def latest_step_in_time(self) -> int | None:
        """`latest_step` once a write that is under way has ended."""
        self._wait()
        return self.latest_step()

    def latest_intact_step(self) -> int | None:
        """The newest checkpoint in which no byte has changed since it was written; None when there is none at all.

        Newer ones that are damaged are logged and, unless read_only, renamed to `<step>.damaged`.

        Raises: OSError when there are checkpoints, but every one is damaged; then nothing is renamed.
        """
        damaged = {}
        for step in reversed(self.steps()):
            damage = hashes.verify(self._path(step))
            if damage is None:
                break
            damaged[step] = damage
        else:
            if damaged:
                found = "; ".join(f"{step}: {damage}" for step, damage in damaged.items())
                raise OSError(
                    f"no checkpoint in {self._directory} is intact ({found}): put back a copy of one, or move the "
                    "directory away to train from step 0"
                )
            return None
        for number, damage in damaged.items():
            path = self._path(number)
            kept = "" if self._read_only else f" (kept as {self._set_aside(number).name})"
            _log.warning("the checkpoint %s is damaged%s: %s; going on from step %d", path, kept, damage, step)
        return step

    def require_intact(self, step: int) -> None:
        """Raises: ValueError when there is no checkpoint of this step; OSError when one of its bytes has changed."""
        if step not in (steps := self.steps()):
            there = ", ".join(map(str, steps)) or "none"
            raise ValueError(f"step={step}: {self._directory} has no checkpoint of it; there are those of {there}")
        if damage := hashes.verify(self._path(step)):
            raise OSError(f"the checkpoint {self._path(step)} is damaged: {damage}")

    def save(self, step: int, parts: Mapping[str, object], iterator_state) -> None:
        """Starts to write what there is after `step` updates.

        The arrays may be donated once this returns. The rest is another thread's work; a write that is still under way
        is waited for.

        Args:
            parts: trees of arrays by name, such as "model".
            iterator_state: the position of the data, of what JSON has words for.
        Raises: OSError as `check_for_errors`.
        """
        self._wait()
        run = {"step": step, "iterator": iterator_state, "about": self._about, "arrays": arrays.describe(dict(parts))}
        partial = self._directory / f"{step}.partial"
        try:
            self._arrays.save(partial, parts)
        except (OSError, ValueError) as error:  # tensorstore has no errors of its own
            raise self._not_written(step, error) from error
        self._writing = step, self._thread.submit(self._complete, partial, step, json.dumps(run, indent=1))

    def note_loss(self, step: int, loss: float) -> None:
        """The validation loss of a step, by which `keep_best` chooses."""
        self._losses[step] = loss

    def check_for_errors(self) -> None:
        """Costs nothing, and waits for nothing: to be called once a step.

        Raises: OSError with a sentence when a checkpoint could not be written; the one before is untouched.
        """
        if self._writing is not None and self._writing[1].done():
            self._wait()

    def arrays(self, step: int) -> dict[str, str]:
        """Shape and dtype of every array of a checkpoint, as in "float32[2, 3]", by a name with dots."""
        return self._run(step)["arrays"]

    def restore(self, step: int, abstract_parts: Mapping[str, object]) -> tuple[dict, object]:
        """Returns (parts, iterator state), with the shapes, dtypes and layout of `abstract_parts`.

        Args:
            abstract_parts: the trees to restore, by name; parts of the checkpoint that are not named are not read.
        Raises: DoesNotFitError, a ValueError, naming the arrays that are missing, of no use, or of another shape or
            dtype than in `abstract_parts`.
        """
        run = self._run(step)
        there = {name: array for name, array in run["arrays"].items() if name.split(".")[0] in abstract_parts}
        wrong = arrays.differences(there, arrays.describe(dict(abstract_parts)))
        if wrong:
            raise DoesNotFitError(f"the checkpoint {self._path(step)} does not fit: {'; '.join(wrong)}")
        return self._arrays.restore(self._path(step), abstract_parts), run["iterator"]

    def close(self) -> None:
        """Waits until all is written, and releases the threads. Raises: OSError as `check_for_errors`."""
        try:
            self._wait()
        finally:
            self._thread.shutdown()
            self._arrays.close()

    def __enter__(self):
        return self

    def __exit__(self, _kind, error, _traceback):
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            return  # a write that is under way waits for a process that may have ended
        try:
            self.close()
        except OSError as failed:
            if error is None:
                raise
            _log.warning("%s", failed)  # what ends the run is the other error

    def _run(self, step):
        return json.loads((self._path(step) / "run.json").read_text())

    def _path(self, step):
        return self._directory / str(step)

    def _complete(self, partial, step, run):
        """In a thread of its own: the hashes come after orbax's files and before the directory's name."""
        self._arrays.wait()  # until all processes have written their parts
        if not self._is_first:
            return
        (partial / "run.json").write_text(run)
        hashes.write(partial)
        hashes.rename(partial, self._path(step))
        if self._policy is not None:
            steps = self.steps()
            for old in set(steps) - self._policy.kept(steps, dict(self._losses)):
                # By another name first: a directory half deleted would pass for a damaged checkpoint.
                shutil.rmtree(self._path(old).rename(self._directory / f"{old}.partial"))

    def _wait(self):
        if self._writing is None:
            return
        (step, writing), self._writing = self._writing, None
        error = writing.exception()
        if error is not None:
            raise self._not_written(step, error) from error

    def _not_written(self, step, error):
        if self._is_first:
            self._remove_partial()  # the disk may be full of it
        last = self.latest_step()
        before = "there is none before it" if last is None else f"the last good one is that of step {last}"
        return OSError(
            f"the checkpoint of step {step} could not be written to {self._directory}: {_reason(error)}; {before}, and "
            "the same command goes on from there"
        )

    def _remove_partial(self):
        for path in self._directory.glob("*.partial*"):
            shutil.rmtree(path, ignore_errors=True)

    def _set_aside(self, step):
        target = self._directory / f"{step}.damaged"
        number = 1
        while target.exists():  # the same step has been damaged before
            number += 1
            target = self._directory / f"{step}.damaged-{number}"
        return self._path(step).rename(target)


def _reason(error):
    # Tensorstore tells of an error of the system in words only, and of itself at length.
    text = " ".join(str(error).split()).partition(" [tensorstore_spec=")[0]
    return "the disk is full" if any(os.strerror(number) in text for number in _DISK_IS_FULL) else text
