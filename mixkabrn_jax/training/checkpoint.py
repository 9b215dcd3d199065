"""Checkpoints by orbax: the model, the optimiser and the data iterator of one step, written together or not at all.

checkpoints/<step>/model, optimizer    arrays, as orbax writes them
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mixkabrn_jax import processes
from mixkabrn_jax.training import hashes

_log = logging.getLogger(__name__)
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class DoesNotFitError(ValueError):
    """A checkpoint is not of this model and optimiser; the message names what differs."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep; fields are those of `config.checkpoint`."""

    every: int
    """Steps between checkpoints; the last step is always saved."""
    keep: int
    """The newest so many are kept; with 1, there is none to go back to when that one is damaged."""
    keep_every: int
    """Those of every so many steps are kept for good; 0 for none."""
    keep_best: int
    """So many with the lowest validation loss are kept, of those before the newest; 0 for none."""

    def __post_init__(self):
        if self.every < 1 or self.keep < 1:
            raise ValueError(f"config.checkpoint.every={self.every}, keep={self.keep}: at least 1 is needed")
        if self.keep_every < 0 or self.keep_every % self.every:
            raise ValueError(
                f"config.checkpoint.keep_every={self.keep_every}: a multiple of config.checkpoint.every={self.every} "
                "is needed, or 0"
            )
        if self.keep_best < 0:
            raise ValueError(f"config.checkpoint.keep_best={self.keep_best}: 0 or more is needed")

    def kept(self, steps: list[int], losses: Mapping[int, float]) -> set[int]:
        """Of these steps in rising order, those whose checkpoints stay; `losses` are those of validated steps."""
        newest = set(steps[-self.keep :])
        for_good = {step for step in steps if self.keep_every and step % self.keep_every == 0}
        # Not the last one, whose loss may be known by now or not: what stays must not depend on how fast a disk is.
        validated = [step for step in steps[:-1] if step in losses]
        best = sorted(validated, key=lambda step: (losses[step], step))[: self.keep_best]
        return newest | for_good | set(best)


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
        self._checkpointer = _checkpointer()
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
            damage = hashes.damage(self._path(step))
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

    def save(self, step: int, parts: Mapping[str, Any], iterator_state) -> None:
        """Starts to write the parts of the state after so many updates, with the position of the data.

        The arrays may be donated once this returns: orbax has copied them from the device or, on a CPU, holds on to
        their memory, of which XLA then makes no further use. The rest is another thread's work; a write that is still
        under way is waited for.

        Raises: OSError as `check_for_errors`.
        """
        self._wait()
        run = {"step": step, "iterator": iterator_state, "about": self._about, "arrays": _arrays(parts)}
        arguments = ocp.args.Composite(**{name: ocp.args.StandardSave(part) for name, part in parts.items()})
        partial = self._directory / f"{step}.partial"
        try:
            self._checkpointer.save(partial, args=arguments)
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

    def restore(self, step: int, abstract_parts: Mapping[str, Any]):
        """Returns (parts, iterator state), with the shapes, dtypes and layout of the abstract parts.

        Raises: DoesNotFitError, a ValueError, naming the arrays that are missing, of no use, or of another shape or
            dtype than in the abstract parts.
        """
        return self._restore(step, abstract_parts), self._run(step)["iterator"]

    def restore_model(self, step: int, params, buffers):
        """Returns (params, buffers) only, on one device: what generation needs. Raises: as `restore`."""
        # Told where to, or orbax asks for the devices of the mesh that wrote it.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def on_one_device(leaf):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

        abstract = jax.tree.map(on_one_device, {"params": params, "buffers": buffers})
        model = self._restore(step, {"model": abstract})["model"]
        return model["params"], model["buffers"]

    def close(self) -> None:
        """Waits until all is written, and releases the threads. Raises: OSError as `check_for_errors`."""
        try:
            self._wait()
        finally:
            self._thread.shutdown()
            self._checkpointer.close()

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

    def _path(self, step):
        return self._directory / str(step)

    def _complete(self, partial, step, run):
        """In a thread of its own: the hashes come after orbax's files and before the directory's name."""
        self._checkpointer.wait_until_finished()  # until all processes have written their parts
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
        self._checkpointer = _checkpointer()  # the old one would tell of the same failure again
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

    def _run(self, step):
        return json.loads((self._path(step) / "run.json").read_text())

    def _restore(self, step, abstract):
        there = self._run(step)["arrays"]
        there = {name: array for name, array in there.items() if name.split(".")[0] in abstract}
        wrong = _differences(there, _arrays(abstract))
        if wrong:
            raise DoesNotFitError(f"the checkpoint {self._path(step)} does not fit: {'; '.join(wrong)}")
        arguments = {name: ocp.args.StandardRestore(part) for name, part in abstract.items()}
        return self._checkpointer.restore(self._path(step), args=ocp.args.Composite(**arguments))


def _checkpointer():
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())


def _reason(error):
    # Tensorstore tells of an error of the system in words only, and of itself at length.
    text = " ".join(str(error).split()).partition(" [tensorstore_spec=")[0]
    return "the disk is full" if any(os.strerror(number) in text for number in _DISK_IS_FULL) else text


def _arrays(tree) -> dict[str, str]:
    """Shape and dtype of every leaf, by a name with dots."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _differences(there, here):
    wrong = [f"{name} is missing" for name in here if name not in there]
    wrong += [f"{name} is there, but nothing here has that name" for name in there if name not in here]
    both = [name for name in here if name in there]
    return wrong + [f"{name} is {there[name]}, not {here[name]}" for name in both if there[name] != here[name]]
