"""Where documents come from: one file a family of sets, one protocol (`family.Family`).

A source is read as a stream, file by file and record by record, as often as it is needed: nothing is held whole but a
single row of JSON or Parquet.
"""

import dataclasses
import functools
import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixkabrn_jax.data import hub
from mixkabrn_jax.data.config import SPLITS, DataConfig
from mixkabrn_jax.data.documents import DamagedError, Document, Skipped
from mixkabrn_jax.data.files import Patterns, stamp, walk
from mixkabrn_jax.data.sources import amps, code, gsm8k, m2d2, math, openqa, sotu, synthetic, text
from mixkabrn_jax.data.sources.family import Family, is_named

FAMILIES: dict[str, Family] = {
    "sotu": sotu.FAMILY,
    "text": text.FAMILY,
    "m2d2": m2d2.FAMILY,
    "amps": amps.FAMILY,
    "math": math.FAMILY,
    "gsm8k": gsm8k.FAMILY,
    "openqa": openqa.FAMILY,
    "code": code.FAMILY,
    "synthetic": synthetic.FAMILY,
}


class NoDocumentsError(ValueError):
    """There is nothing to read, or all of it was left out."""


class AbsentSplitError(NoDocumentsError):
    """The path has documents, but none of the split that is asked for."""


def read(config: DataConfig, split: str | None, skipped: Skipped, family: Family | None = None) -> Iterator[Document]:
    """The documents of a split of `config.path`, or of all splits, in an order that is the same each time.

    The split of a file is the one that its name names, or else the name of `config.path`; a file for which neither does
    is of "train", or of the one that is asked for where it is named by itself.

    Args:
        family: whose files they are; None for that of the source. A task has one whose records are no documents.

    Raises: FileNotFoundError, ValueError naming `config.data.path`; NoDocumentsError where no document is, and
        AbsentSplitError where all are of other splits; `documents.DamagedError` under on_damage="error".
    """
    family = family or FAMILIES[config.family]
    splits: set[str] = set()
    has_documents = False
    with _naming_path(config):
        if is_built_in(config):
            documents, splits = family.built_in(config, split), {"train"}
        else:
            documents = _documents(config, family, split, splits, skipped)
        for document in documents:
            has_documents = True
            yield document
        if not has_documents:
            raise _nothing(family, split, splits, skipped)


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
        for split, file in _files(config, family, None, skipped):
            split = "train" if is_named(file, config) else split
            if test or split != "test":
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
        **{field: getattr(config, field) for field in ("include", "exclude", "text_column", "licenses", "on_damage")},
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


def _files(config, family, split, skipped):
    """(split, file) of each, given the split that is asked for."""
    top = root(config)
    # A folder has to be called by the word alone: `MATH/test` is a split, and `test_of_mine` may hold anything.
    name = top.absolute().name
    own_of_root = family.split_of(name) if top.is_file() or name.isalpha() else None
    of_hub = f",{hub.CARDS}" if config.path.startswith(hub.PREFIX) else ""
    for file in walk(top, skipped, Patterns(config.include, config.exclude + of_hub)):
        own = family.split_of(file.name) or own_of_root
        yield own or (split if is_named(file, config) else None) or "train", file


def _documents(config, family, split, splits, skipped):
    """Those of a path, whose files' splits are added to `splits` on the way."""
    for own, file in _files(config, family, split, skipped):
        splits.add(own)
        if split is None or own == split:
            yield from family.documents(file, config, skipped)


def _nothing(family, split, splits, skipped):
    """What is wrong where no document is."""
    if split is not None and splits and split not in splits:
        return AbsentSplitError(f"no files of the split {split!r}, only of {', '.join(sorted(splits))}")
    wanted = f" (this source reads {family.layout})" if family.layout else ""
    return NoDocumentsError(f"no documents{wanted}" + (f"; left out were {skipped}" if str(skipped) else ""))


def validation_config(config: DataConfig) -> DataConfig:
    """The config of what validation reads, where that is a path of its own."""
    return dataclasses.replace(config, path=config.validation_path)
