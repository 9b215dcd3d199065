"""Where documents come from: one file a family of sets, one protocol (`family.Family`).

A source is read as a stream, file by file and record by record, as often as it is needed: nothing is held whole.
"""

import dataclasses
import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixkabrn_jax.data import hub
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import DamagedError, Document, Skipped
from mixkabrn_jax.data.files import Patterns, stamp, walk
from mixkabrn_jax.data.sources import sotu, text
from mixkabrn_jax.data.sources.family import Family

FAMILIES: dict[str, Family] = {
    "sotu": sotu.FAMILY,
    "text": text.FAMILY,
}


def read(config: DataConfig, split: str | None, skipped: Skipped) -> Iterator[Document]:
    """The documents of a split of `config.path`, or of all splits, in an order that is the same each time.

    Files whose names name no split are of "train". One file that is named by itself is of the split that is asked for,
    unless its name names another.

    Raises: FileNotFoundError, ValueError naming `config.data.path`; `documents.DamagedError` under on_damage="error".
    """
    family = FAMILIES[config.family]
    if is_built_in(config):
        yield from family.built_in(config, split)
        return
    with _naming_path(config):
        root = _root(config)
        for file in walk(root, skipped, Patterns(config.include, config.exclude)):
            is_named = root.is_file() and file.name.partition(".")[0] == root.name.partition(".")[0]
            own = family.split_of(file.name) or (split if is_named else "train")
            if split is None or own == split:
                yield from family.documents(file, config, skipped)


def read_splits(config: DataConfig, skipped: Skipped) -> Iterator[tuple[str, Document]]:
    """(split, document) of all that is published for training or validation, in one pass; errors are those of `read`.

    What names no split is of "train".
    """
    family = FAMILIES[config.family]
    if is_built_in(config):
        for split in ("train", "validation"):
            yield from ((split, document) for document in family.built_in(config, split))
        return
    with _naming_path(config):
        for file in walk(_root(config), skipped, Patterns(config.include, config.exclude)):
            split = family.split_of(file.name) or "train"
            if split != "test":
                yield from ((split, document) for document in family.documents(file, config, skipped))


def is_built_in(config: DataConfig) -> bool:
    """Whether the documents come with the package, or from Python or a program, and not from files of one's own."""
    family = FAMILIES[config.family]
    return family.built_in is not None and (family.documents is None or not config.path)


def identity(config: DataConfig) -> dict:
    """What the documents depend on, as JSON has words for: other documents have another identity.

    Of files their names, sizes and times of last change; nothing is read.

    Raises: as `read`.
    """
    code = Path(__file__).with_name(f"{config.family}.py").read_bytes()
    about = {
        "source": config.family,
        "path": config.path,
        "code": hashlib.sha256(code).hexdigest(),
        **{field: getattr(config, field) for field in ("include", "exclude", "text_column", "licenses", "on_damage")},
    }
    if is_built_in(config):
        return about | {"python": platform.python_version()}
    with _naming_path(config):
        return about | stamp(_root(config))


def _root(config):
    return hub.download(config.path) if config.path.startswith(hub.PREFIX) else Path(config.path)


@contextmanager
def _naming_path(config):
    try:
        yield
    except DamagedError:
        raise
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"config.data.path={config.path!r}: {error}") from error


def validation_config(config: DataConfig) -> DataConfig:
    """The config of what validation reads, where that is a path of its own."""
    return dataclasses.replace(config, path=config.validation_path)
