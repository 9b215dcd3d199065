"""What a family of sets says of itself: how its files become documents."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped
from mixkabrn_jax.data.files import File

_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def split_of(name: str) -> str | None:
    """The split that a path names, by the word nearest to its end: `math/test/algebra/1.json` is of "test".

    `validation` is what files call valid, val or dev; a path with no such word is of no split.
    """
    for part in reversed(name.lower().split("/")):
        for word in re.split("[^a-z]+", part):
            if word in _SPLITS:
                return _SPLITS[word]
    return None


@dataclass(frozen=True)
class Family:
    """One file of `data.sources` is one family, as `FAMILY`."""

    documents: Callable[[File, DataConfig, Skipped], Iterator[Document]] | None = None
    """Those of one file, which it reads once, without holding it whole. None for a family without files."""
    built_in: Callable[[DataConfig, str | None], Iterator[Document]] | None = None
    """The documents of a split, or of all, where no path is given."""
    split_of: Callable[[str], str | None] = split_of
    """The split that a file belongs to, by its name; None of none, which is read for training."""
    legal: str = ""
    """The licence or legal status of the set, said whenever it is read."""
