"""Where documents come from: one file a family of sets, one protocol (`family.Family`).

A source is read as a stream, file by file and record by record, as often as it is needed: nothing is held whole.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from mixkabrn_jax.data import hub
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import DamagedError, Document, Skipped
from mixkabrn_jax.data.files import Patterns, walk
from mixkabrn_jax.data.sources import code, sotu, synthetic, text
from mixkabrn_jax.data.sources.family import Family

FAMILIES: dict[str, Family] = {
    "sotu": sotu.FAMILY,
    "text": text.FAMILY,
    "code": code.FAMILY,
    "synthetic": synthetic.FAMILY,
}


def read(config: DataConfig, split: str | None, skipped: Skipped) -> Iterator[Document]:
    """The documents of a split of `config.path`, or of all splits, in an order that is the same each time.

    Files whose names name no split are of "train". One file that is named by itself is of the split that is asked for,
    unless its name names another.

    Raises: FileNotFoundError, ValueError naming `config.data.path`; `documents.DamagedError` under on_damage="error".
    """
    family = FAMILIES[config.family]
    try:
        if family.built_in is not None and (family.documents is None or not config.path):
            yield from family.built_in(config, split)
            return
        root = hub.download(config.path) if config.path.startswith(hub.PREFIX) else Path(config.path)
        for file in walk(root, skipped, Patterns(config.include, config.exclude)):
            is_named = root.is_file() and file.name.partition(".")[0] == root.name.partition(".")[0]
            own = family.split_of(file.name) or (split if is_named else "train")
            if split is None or own == split:
                yield from family.documents(file, config, skipped)
    except DamagedError:
        raise
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"config.data.path={config.path!r}: {error}") from error


def validation_config(config: DataConfig) -> DataConfig:
    """The config of what validation reads, where that is a path of its own."""
    return dataclasses.replace(config, path=config.validation_path)
