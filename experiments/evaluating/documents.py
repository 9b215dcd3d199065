"""The documents that a task is asked of: files that are named, or what the run held out."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mixkabrn_jax.data import sources, splitting
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped
from mixkabrn_jax.evaluation.tasks import Task
from mixkabrn_jax.runs.config import build

_SECONDS_BETWEEN_LINES = 10


class Wanted(NamedTuple):
    """What the flags say of the documents; "" or None is nothing."""

    source: str
    path: str
    split: str | None


class Documents:
    """The documents of one task, read anew each time; what is left out is counted, and progress is told."""

    def __init__(self, read: Callable[[Skipped], Iterator[Document]], limit: int, shots: Sequence[Document] = ()):
        """
        Args:
            limit: documents, 0 for all.
            shots: documents that are examples, of which none may be asked.
        """
        self._read, self._limit, self._shots = read, limit, {shot.id for shot in shots}
        self.skipped = Skipped()

    def __iter__(self):
        self.skipped = Skipped()
        number = num_bytes = 0
        told = time.monotonic()
        for document in self._read(self.skipped):
            if self._limit and number == self._limit:
                return
            if document.id in self._shots:
                raise ValueError(
                    f"--shots={len(self._shots)}: {document.id} would be an example and be asked as well: --path has "
                    "to hold a training split beside what is asked, which --split names"
                )
            yield document
            number += not getattr(document, "continues", False)
            num_bytes += len(getattr(document, "content", b""))
            if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                print(f"  {number:,} documents, {num_bytes:,} bytes ...", file=sys.stderr, flush=True)


def reader(task: Task, section: dict, wanted: Wanted) -> Callable[[Skipped], Iterator[Document]]:
    """A function that reads the documents of a task: those wanted, else of its own source, else what the run held out.

    What the law says of them is printed.

    Args:
        section: `config["data"]` of the run.
    Raises: ValueError for a source or a path that the task cannot be asked of.
    """
    if not (wanted.path or wanted.source or task.source or task.read):
        config = _config(section)
        read, split = splitting.read, wanted.split or "validation"
    else:
        # What a task reads itself is of no source.
        source = "auto" if task.read else wanted.source or task.source or "auto"
        path = task.path if task.path and not wanted.source else wanted.path
        if task.source == source and not path:
            raise ValueError(f"--path is needed: the files of {source} that the task is asked of")
        config = _config(section, **_ONE_SOURCE, source=source, path=path, include="", exclude="", text_column="")
        read, split = task.read or sources.read, wanted.split or task.split or None
    for _, component in config.components:
        if legal := sources.FAMILIES[component.family].legal:
            print(f"{component.family}: {legal}", file=sys.stderr)
    return lambda skipped: read(config, split, skipped)


def shots(task: Task, section: dict, wanted: Wanted, number: int) -> tuple[Document, ...]:
    """The first documents of the training split beside those wanted, which stand before each prompt as examples."""
    if not (number and task.takes_shots):
        return ()
    source = "auto" if task.read else wanted.source or task.source
    config = _config(section, **_ONE_SOURCE, source=source, path=wanted.path)
    return tuple(itertools.islice((task.read or sources.read)(config, "train", Skipped()), number))


_ONE_SOURCE = {"mixture": "", "validation_path": ""}


def _config(section, **changes):
    return build(DataConfig, section | changes, "config.data", is_complete=False)
