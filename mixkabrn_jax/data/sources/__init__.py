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


class AbsentSplitError(ValueError):
    """The path has documents, but none of the split that is asked for."""


def read(config: DataConfig, split: str | None, skipped: Skipped) -> Iterator[Document]:
    """The documents of a split of `config.path`, or of all splits, in an order that is the same each time.

    The split of a file is the one that its name names, or else the name of `config.path`; a file for which neither does
    is of "train", or of the one that is asked for where it is named by itself.

    Raises: FileNotFoundError, ValueError naming `config.data.path`, the latter also where no document is;
        AbsentSplitError where all are of other splits; `documents.DamagedError` under on_damage="error".
    """
    family = FAMILIES[config.family]
    splits: set[str] = set()
    has_documents = False
    try:
        if family.built_in is not None and (family.documents is None or not config.path):
            documents, splits = family.built_in(config, split), {"train"}
        else:
            documents = _documents(config, split, splits, skipped)
        for document in documents:
            has_documents = True
            yield document
        if not has_documents:
            raise _nothing(family, split, splits, skipped)
    except DamagedError:
        raise
    except (FileNotFoundError, ValueError) as error:
        field = f"path={config.path!r}" if config.path else f"source={config.source!r}"
        kind = next(kind for kind in (FileNotFoundError, AbsentSplitError, ValueError) if isinstance(error, kind))
        raise kind(f"config.data.{field}: {error}") from error


def _documents(config, split, splits, skipped):
    """Those of a path, whose files' splits are added to `splits` on the way."""
    family = FAMILIES[config.family]
    root = hub.download(config.path) if config.path.startswith(hub.PREFIX) else Path(config.path)
    # A folder has to be called by the word alone: `MATH/test` is a split, and `test_of_mine` may hold anything.
    name = root.absolute().name
    own_of_root = family.split_of(name) if root.is_file() or name.isalpha() else None
    for file in walk(root, skipped, Patterns(config.include, config.exclude)):
        own = family.split_of(file.name) or own_of_root or (split if is_named(file, config) else None) or "train"
        splits.add(own)
        if split is None or own == split:
            yield from family.documents(file, config, skipped)


def _nothing(family, split, splits, skipped):
    """What is wrong where no document is."""
    if split is not None and splits and split not in splits:
        return AbsentSplitError(f"no files of the split {split!r}, only of {', '.join(sorted(splits))}")
    wanted = f" (this source reads {family.layout})" if family.layout else ""
    return ValueError(f"no documents{wanted}" + (f"; left out were {skipped}" if str(skipped) else ""))


def validation_config(config: DataConfig) -> DataConfig:
    """The config of what validation reads, where that is a path of its own."""
    return dataclasses.replace(config, path=config.validation_path)
