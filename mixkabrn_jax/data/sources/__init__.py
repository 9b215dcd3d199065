"""Where documents come from: one file a family of sets, one protocol (`family.Family`).

A source is read as a stream, file by file and record by record, as often as it is needed: nothing is held whole but a
single row of JSON or Parquet, or the rows of one article of WikiText.
"""

import dataclasses
import functools
import hashlib
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mixkabrn_jax.data import hub
from mixkabrn_jax.data.config import SPLITS, DataConfig
from mixkabrn_jax.data.documents import DamagedError, Document, Skipped
from mixkabrn_jax.data.files import Patterns, stamp, walk
from mixkabrn_jax.data.sources import (
    amps,
    code,
    gsm8k,
    m2d2,
    math,
    openqa,
    parallel,
    published,
    quiz,
    sotu,
    synthetic,
    text,
)
from mixkabrn_jax.data.sources.family import Family, is_named, prefix

FAMILIES: dict[str, Family] = {
    "sotu": sotu.FAMILY,
    "text": text.FAMILY,
    "m2d2": m2d2.FAMILY,
    "amps": amps.FAMILY,
    "math": math.FAMILY,
    "gsm8k": gsm8k.FAMILY,
    "openqa": openqa.FAMILY,
    "code": code.FAMILY,
    "parallel": parallel.FAMILY,
    "synthetic": synthetic.FAMILY,
    "quiz": quiz.FAMILY,
}


# Fields of a config that documents depend on, besides where they are.
_READING = ("include", "exclude", "text_column", "directions", "licenses", "on_damage", "template")


class NoDocumentsError(ValueError):
    """There is nothing to read, or all of it was left out."""


class AbsentSplitError(NoDocumentsError):
    """The path has documents, but none of the split that is asked for."""


def read(config: DataConfig, split: str | None, skipped: Skipped, family: Family | None = None) -> Iterator[Document]:
    """The documents of a split of `config.path`, or of all splits, in an order that is the same each time.

    The split of a file is the one that its name names, or else a folder that it is in: `config.path` too and what lies
    above it, as far as the layout of the set goes (`family.prefix`); of "text" what stands beside counts, too
    (`published`). A file of which nothing tells is of "train", or of
    the split that is asked for where it is named by itself. Files of other splits are not read, and nothing of them is
    counted as left out (`files.walk`).

    Args:
        family: whose files they are; None for that of the source. A task has one whose records are no documents.

    Raises: FileNotFoundError, ValueError naming `config.data.path`; NoDocumentsError where no document is, and
        AbsentSplitError where all are of other splits; `documents.DamagedError` under on_damage="error".
    """
    family = family or FAMILIES[config.family]
    has_documents = False
    with _naming_path(config):
        found = family.built_in(config, split) if is_built_in(config) else _documents(config, family, split, skipped)
        for document in found:
            has_documents = True
            yield document
        if not has_documents:
            raise _nothing(config, family, split, skipped)


def read_splits(config: DataConfig, skipped: Skipped, *, test: bool = False) -> Iterator[tuple[str, Document]]:
    """(split, document) of all that is published for training or for validation, in one pass; of tests if asked for.

    Splits are those of `read`, with "train" where no name tells and for a file that is named by itself, whatever its
    name: it is all that there is. Errors are those of `read`, but none where there are no documents.
    """
    family = FAMILIES[config.family]
    with _naming_path(config):
        if is_built_in(config):
            for split in SPLITS if test else SPLITS[:2]:
                yield from ((split, document) for document in family.built_in(config, split))
            return
        top = root(config)
        told = _told(config, family, top)

        def own(name):
            return "train" if is_named(name, config) else told(name) or "train"

        for file in _files(config, top, skipped, lambda name: test or own(name) != "test"):
            split = own(file.plain_name)
            yield from ((split, document) for document in family.documents(file, config, skipped))


def is_built_in(config: DataConfig) -> bool:
    """Whether the documents come with the package, or from Python or a program, and not from files of one's own."""
    family = FAMILIES[config.family]
    return family.built_in is not None and (family.documents is None or not config.path)


def identity(config: DataConfig) -> dict:
    """What the documents depend on, in JSON's words: other documents have another identity.

    The code that reads, splits and encodes them is part of it. Of files their names, sizes and times of last change;
    none is read.

    Raises: as `read`.
    """
    about = {
        "source": config.family,
        "path": config.path,
        "code": _code(),
        **{field: getattr(config, field) for field in _READING},
    }
    if is_built_in(config):
        return about | {"python": platform.python_version()}
    with _naming_path(config):
        return about | stamp(root(config))


@functools.cache
def _code():
    """A hash of the code of the whole room."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


@contextmanager
def _naming_path(config):
    try:
        yield
    except DamagedError:
        raise
    except (FileNotFoundError, ValueError) as error:
        if str(error).startswith("config.data."):
            raise
        field = f"path={config.path!r}" if config.path else f"source={config.source!r}"
        kinds = (FileNotFoundError, AbsentSplitError, NoDocumentsError, ValueError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(f"config.data.{field}: {error}") from error


def root(config: DataConfig) -> Path:
    """The file, archive or folder that `config.path` names, brought from the hub where it is there.

    Raises: FileNotFoundError naming `config.data.path`.
    """
    found = hub.download(config.path) if config.path.startswith(hub.PREFIX) else Path(config.path).expanduser()
    if not found.exists():
        raise FileNotFoundError(f"config.data.path={config.path!r} does not exist: give a file, an archive or a folder")
    return found


def _documents(config, family, split, skipped):
    """Those of the files of a split, or of all."""
    top = root(config)
    own = _own(config, family, top, split)
    for file in _files(config, top, skipped, lambda name: split is None or own(name) == split):
        yield from family.documents(file, config, skipped)


def _files(config, top, skipped, is_asked):
    """Those of a path, by `File.plain_name`."""
    of_hub = f",{hub.CARDS}" if config.path.startswith(hub.PREFIX) else ""
    return walk(top, skipped, Patterns(config.include, config.exclude + of_hub), is_asked)


def _told(config, family, top) -> Callable[[str], str | None]:
    """A function from the name of a file to the split that it, or a folder that it is in, names."""
    start = prefix(top, family.folders_in_split)
    if not family.splits_beside:
        return lambda name: family.split_of(start + name)
    beside = published.read(top, config.exclude)
    return lambda name: family.split_of(start + name) or beside.split_of(name)


def notes(config: DataConfig) -> list[str]:
    """What one has to know of how the names of the files were taken, in sentences.

    Raises: as `read`.
    """
    if is_built_in(config) or not FAMILIES[config.family].splits_beside:
        return []
    with _naming_path(config):
        return list(published.read(root(config), config.exclude).notes())


def _own(config, family, top, split):
    """The same, with that of files of which nothing tells, given the split that is asked for."""
    told = _told(config, family, top)
    return lambda name: told(name) or (split if is_named(name, config) else None) or "train"


def _nothing(config, family, split, skipped):
    """What is wrong where no document is."""
    if split is not None:
        splits = {"train"}
        if not is_built_in(config):
            top = root(config)
            own = _own(config, family, top, split)
            splits = {own(file.plain_name) for file in _files(config, top, Skipped(), lambda _: True)}
        if splits and split not in splits:
            return AbsentSplitError(f"no files of the split {split!r}, only of {', '.join(sorted(splits))}")
    wanted = f" (this source reads {family.layout})" if family.layout else ""
    return NoDocumentsError(f"no documents{wanted}" + (f"; left out were {skipped}" if str(skipped) else ""))


def validation_config(config: DataConfig) -> DataConfig:
    """The config of what validation reads, where that is a path of its own."""
    return dataclasses.replace(config, path=config.validation_path)
