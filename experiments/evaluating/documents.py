"""The documents that a task is asked of: files that are named, or what the run held out."""

import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mixkabrn_jax.data import cache, sources, splitting
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped
from mixkabrn_jax.data.splitting import Split
from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.evaluation.tasks import TASKS, Task
from mixkabrn_jax.runs import model_file
from mixkabrn_jax.runs import workdir as workdirs
from mixkabrn_jax.runs.config import build

_SECONDS_BETWEEN_LINES = 10


class Wanted(NamedTuple):
    """What the flags say of the documents; "" or None is nothing."""

    source: str
    path: str
    split: str | None
    choice: Mapping[str, str]
    """The fields of `DataConfig` that choose what is read of a path."""


class Run(NamedTuple):
    """What a run, or the file of its model, says of itself."""

    workdir: Path
    config: Mapping[str, Any]
    tokenizer: Tokenizer
    fingerprints: Mapping[str, str]
    """What identifies each part of its data, as far as it says so."""


def read_run(path: Path) -> Run:
    """What a workdir, or the file of a model, says of its run.

    Raises: FileNotFoundError for a run without a checkpoint; as `workdir.load_config` and `model_file.read_header`.
    """
    if path.is_file():
        header = model_file.read_header(path)
        return Run(path, header.config, header.tokenizer, header.about.get("data", {}))
    config, tokenizer = workdirs.load_config(path), workdirs.load_tokenizer(path)
    if tokenizer is None:
        raise FileNotFoundError(f"{path} holds no checkpoint yet: train longer")
    return Run(path, config, tokenizer, workdirs.load_data(path))


class Documents:
    """The documents of one task, read anew each time; what is left out is counted, and progress is told."""

    def __init__(self, read: Callable[[Skipped], Iterator[Document]], limit: int, shots: Sequence[Document] = ()):
        """
        Args:
            limit: documents, 0 for all.
            shots: documents that are examples: they are not asked, and are counted among what is left out.
        """
        self._read, self._limit, self._shots = read, limit, {shot.id for shot in shots}
        self.skipped = Skipped()
        self.is_cut = False
        """Whether there were more than the limit."""

    def __iter__(self):
        self.skipped = Skipped()
        number = num_bytes = 0
        told = time.monotonic()
        for document in self._read(self.skipped):
            if self._limit and number == self._limit:
                self.is_cut = True
                return
            if document.id in self._shots:
                self.skipped.left_out("among the examples", document.id)
                continue
            yield document
            number += not getattr(document, "continues", False)
            num_bytes += len(getattr(document, "content", b""))
            if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                print(f"  {number:,} documents, {num_bytes:,} bytes ...", file=sys.stderr, flush=True)


def reader(task: Task, run: Run, wanted: Wanted) -> Callable[[Skipped], Iterator[Document]]:
    """A function that reads the documents of a task: those wanted, else of its own source, else what the run held out.

    What the law says of them is printed.

    Raises: ValueError for a source or a path that the task cannot be asked of, and where the run was begun on other
        data than what is there now; what reading the first document raises.
    """
    config = _config(task, run, wanted)
    if _is_own(task, wanted):
        split = wanted.split or "validation"
        parts = [Split(component) for _, component in config.components]
        if split != "test":
            _require_data(run, parts, split)
        read = functools.partial(splitting.read, parts)
    else:
        read, split = functools.partial(task.read or sources.read, config), wanted.split or task.split or None
    for _, component in config.components:
        if legal := sources.FAMILIES[component.family].legal:
            print(f"{component.family}: {legal}", file=sys.stderr)
    next(read(split, Skipped()), None)
    return lambda skipped: read(split, skipped)


def held_out(run: Run) -> Documents:
    """All that a run held out. Raises: as `reader`."""
    return Documents(reader(TASKS["bits_per_byte"], run, Wanted("", "", None, {})), 0)


def _require_data(run, parts, split):
    """That what is trained on, or held out, is still what the run trained on, or held out."""
    if split not in run.fingerprints:
        print(
            f"warning: {run.workdir} does not say what it was trained on: it may have seen this text", file=sys.stderr
        )
        return
    found = "; ".join(cache.fingerprint(part, split, run.tokenizer) for part in parts)  # as of a `Mixture`
    workdirs.require_data(run.workdir, run.fingerprints, {split: found}, "name a text by --path")


def shots(task: Task, run: Run, wanted: Wanted, number: int) -> tuple[Document, ...]:
    """The first documents of the training split beside those wanted, which stand before each prompt as examples.

    Raises: ValueError where there are fewer; as `reader`.
    """
    if not (number and "shots" in task.takes):
        return ()
    try:
        read = functools.partial(task.read or sources.read, _config(task, run, wanted))
        found = tuple(itertools.islice(read("train", Skipped()), number))
    except sources.AbsentSplitError as error:
        raise ValueError(f"--shots={number} takes its examples from the training split: {error}") from error
    if len(found) < number:
        raise ValueError(f"--shots={number}: the training split has {len(found)} documents")
    return found


def _is_own(task, wanted):
    """Whether it is asked of the documents of the run."""
    return not (wanted.path or wanted.source or task.source or task.read)


def _config(task, run, wanted):
    changes = {}
    if not _is_own(task, wanted):
        if task.path and wanted.source != task.source:  # made up, whatever others of the call read
            source, path = task.source, task.path
        else:
            # What a task reads itself is of no source.
            source, path = "auto" if task.read else wanted.source or task.source or "auto", wanted.path
        if task.source == source and not path:
            raise ValueError(f"--path is needed: the files of {source} that the task is asked of")
        changes = {"mixture": "", "validation_path": "", "source": source, "path": path, **wanted.choice}
    return build(DataConfig, run.config["data"] | changes, "config.data", is_complete=False)
