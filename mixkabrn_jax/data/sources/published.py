"""The splits of sets as they are published, among texts that may be called anything.

A name by itself tells where it is one that nobody gives by chance: `test-00000-of-00001.parquet`, `wiki.test.tokens`.
Of other names only those beside each other tell: a `test.jsonl` or a folder `test` is of tests where a `train.jsonl` or
a folder `train` stands beside it, a `ptb.test.txt` where a `ptb.valid.txt` does, and else a text like any other.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mixkabrn_jax.data import archives, files
from mixkabrn_jax.data.config import SPLITS
from mixkabrn_jax.data.files import Patterns
from mixkabrn_jax.data.sources import family

_BY_ITSELF = re.compile(r"(?:^|[._-])(train|validation|valid|test)(?:[.-]\d{5}-of-\d{5}|\.(?:tokens|raw)$)")
# `train`, `val.jsonl.zst`, `ptb.test.txt`, `dev_01.txt`: what stands before the word has to be the same in all of them.
_BESIDE = re.compile(r"((?:.*[._-])?)(train|validation|valid|val|dev|test)(?:[._-]?\d+(?:-of-\d+)?)?(?:\.[a-z]\w*)*")
_SHOWN = 3


def split_of(name: str) -> str | None:
    """The split of a file whose name tells it by itself. An archive that is named so is of one."""
    parts = reversed(name.lower().split("/"))
    found = next((found for found in map(_BY_ITSELF.search, parts) if found), None)
    return found and family.split_of(found[1])


class Published(NamedTuple):
    """What stands beside each other at the top of a path, or in a folder there."""

    beside: dict[tuple[str, str], dict[str, str]]
    """By (folder, what stands before the word) the splits that are named, two or more, and an entry of each."""
    sets: tuple[str, ...]
    """Folders at the top that have files of several splits, if there are several such folders."""

    def split_of(self, name: str) -> str | None:
        """The split of a file by its name below the path; the outer folder decides."""
        for folder, entry in _entries(name):
            start, split = _word(entry)
            if split and (folder, start) in self.beside:
                return split
        return None

    def notes(self) -> Iterator[str]:
        """What a reader has to know, in sentences: of what its name by itself does not tell."""
        told = [
            ", ".join("/".join(filter(None, (folder, entries[split]))) for split in SPLITS if split in entries)
            for (folder, _), entries in self.beside.items()
            if not all(map(split_of, entries.values()))
        ]
        if told:
            yield (
                f"{_first(told, '; ')} stand beside each other and are read as the splits that they are named after: "
                "of them only what is of train is trained on"
            )
        if self.sets:
            yield (
                f"{_first(self.sets, ', ')} have splits of their own and are read as one set: name the folder of one "
                "to read it alone"
            )


def read(root: Path, exclude: str) -> Published:
    """What the names below a path tell; archives are gone through for those of their members, and no text is read.

    Args:
        exclude: `config.data.exclude`; what is in archives of such names tells nothing.
    Raises: FileNotFoundError where nothing is at `root`.
    """
    return _read(root, exclude, files.stamp(root)["sha256"])


@functools.lru_cache(maxsize=8)  # a tar is gone through to its end for the names, and a corpus is read several times
def _read(root, exclude, stamp):
    del stamp
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    own: dict[str, set[str]] = defaultdict(set)

    def note(name):
        for folder, entry in _entries(name):
            start, split = _word(entry)
            if split:
                found[folder, start].setdefault(split, entry)
        if "/" in name and (split := split_of(name)):
            own[name.partition("/")[0]].add(split)

    files.names(root, Patterns(exclude=exclude), note)
    # Without a `train`, `test` beside `dev` may be anything; `ptb.test` beside `ptb.dev` is nobody's chance.
    beside = {key: each for key, each in found.items() if len(each) > 1 and ("train" in each or key[1])}
    for folder, _ in beside:
        if folder:
            own[folder] |= {"train", ""}
    sets = sorted(folder for folder, splits in own.items() if len(splits) > 1)
    return Published(beside, tuple(sets) if len(sets) > 1 else ())


def _entries(name) -> Iterator[tuple[str, str]]:
    """(folder, entry in it) of a name: at the top, in a folder there, and in the folder that an archive there holds."""
    parts = name.split("/", 3)
    for depth, entry in enumerate(parts[: 3 if archives.has_ending(parts[0]) else 2]):
        yield "/".join(parts[:depth]), entry


def _first(things, between):
    more = f" (and {len(things) - _SHOWN} more)" if len(things) > _SHOWN else ""
    return between.join(things[:_SHOWN]) + more


def _word(entry):
    """(what stands before the word, the split); ("", None) without such a word."""
    found = _BESIDE.fullmatch(entry.lower())
    return (found[1], family.split_of(found[2])) if found else ("", None)
