"""What a family of sets says of itself: how its files become documents."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mixkabrn_jax.data.archives import File, readable
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped

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


def prefix(top: Path, folders_in_split: int) -> str:
    """What stands before the names of files below `top` when their split is looked for, such as `test/` or "".

    A folder, or an archive, is read alike as a whole and from within: `top` itself counts, and so do the folders above
    it that may be a split by the layout. A folder has to be called by the word alone: `MATH/test` is a split, and
    `test_of_mine` may hold anything. A folder `dev` above `top` is where people keep all that they work on.

    Args:
        top: a file, archive or folder.
        folders_in_split: `Family.folders_in_split`.
    """
    *folders, name = Path(os.path.abspath(top)).parts[1:] or [""]
    above = folders[-folders_in_split - top.is_file() :] if folders_in_split or top.is_file() else []
    words = [folder for folder in above if folder.lower() in _SPLITS and folder.lower() != "dev"]
    if top.is_file() or name.lower() in _SPLITS:
        words.append(name)
    return "".join(f"{word}/" for word in words)


# What the names of archives and compressed files end in.
_PACKED = re.compile(r"(\.(tar|tgz|txz|zip|gz|bz2|xz|zst))+$", re.IGNORECASE)


def folders_of(file: File, config: DataConfig) -> list[str]:
    """The names of all folders and archives on the way to a file, without endings such as `.tar.gz`.

    Those above `config.path` are among them: `a/cs.CL`, `a/cs.CL.tar.gz` and `a/cs.CL/train.txt` are all of `cs.CL`.
    """
    folders = file.name.split("/")[:-1]
    root = Path(readable(os.path.abspath(config.path))).parts
    return [_PACKED.sub("", folder) for folder in ([*root[:-1]] if is_named(file.name, config) else [*root]) + folders]


def is_named(name: str, config: DataConfig) -> bool:
    """Whether `config.path` is the file of this name itself, and no folder or archive that it lies in."""
    is_alike = _PACKED.sub("", readable(Path(config.path).name)) == _PACKED.sub("", name)
    return is_alike and not Path(config.path).expanduser().is_dir()  # in `x` may be another `x`


@dataclass(frozen=True)
class Family:
    """One file of `data.sources` is one family, as `FAMILY`."""

    documents: Callable[[File, DataConfig, Skipped], Iterator[Document]] | None = None
    """Those of one file, which it reads once, without holding it whole. None for a family without files."""
    built_in: Callable[[DataConfig, str | None], Iterator[Document]] | None = None
    """The documents of a split, or of all, where no path is given."""
    split_of: Callable[[str], str | None] = split_of
    """The split that a file belongs to, by its name; None of none, which is read for training."""
    splits_beside: bool = False
    """Whether names tell splits by what stands beside them, too, where `split_of` knows none (`published`)."""
    folders_in_split: int = 0
    """So many folders lie between that of a split and a file, where the layout has one for each split."""
    layout: str = ""
    """The files that it reads, said where a path has none of them."""
    legal: str = ""
    """The licence or legal status of the set, said whenever it is read."""
