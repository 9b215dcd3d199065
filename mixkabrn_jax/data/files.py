"""The files of a folder in sorted order, whatever they are packed in (`data.archives`); what is left out is counted."""

import fnmatch
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mixkabrn_jax.data import archives
from mixkabrn_jax.data.archives import File, plain_name, readable
from mixkabrn_jax.data.documents import Skipped

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Patterns:
    """Which names are wanted: those that match one of `include`, if there are any, and none of `exclude`."""

    def __init__(self, include: str = "", exclude: str = ""):
        """Takes shell patterns with commas between them, such as "*.txt,notes/*"; "*" stands for "/" too."""
        self._include, self._exclude = (
            [pattern.strip() for pattern in patterns.split(",") if pattern.strip()] for patterns in (include, exclude)
        )

    def wants(self, name: str) -> bool:
        """Whether a name is among them."""
        is_included = not self._include or any(fnmatch.fnmatchcase(name, pattern) for pattern in self._include)
        return is_included and not self.excludes(name)

    def excludes(self, name: str) -> bool:
        """Whether a name is one of those that are not wanted."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._exclude)


@dataclass(frozen=True)
class Order:
    """What a walk is asked for, by `File.plain_name`, and the account of what it leaves out."""

    skipped: Skipped
    patterns: Patterns
    is_asked: Callable[[str], bool]
    """As for `walk`."""

    def reason(self, name: str) -> str | None:
        """Why a file of this name is not read; "" where others are asked for, None where it is read."""
        if "/." in f"/{name}" or "/__MACOSX" in f"/{name}":
            return "hidden"
        if not self.is_asked(name):
            return ""
        return None if self.patterns.wants(name) else "not wanted"

    def takes(self, name: str) -> bool:
        """Whether a file is read; what is asked for and left out is counted."""
        reason = self.reason(name)
        if reason:
            self.skipped.left_out(reason, name)
        return reason is None


def walk(
    root: Path,
    skipped: Skipped,
    patterns: Patterns | None = None,
    is_asked: Callable[[str], bool] = lambda _: True,
) -> Iterator[File]:
    """The files of a folder in sorted order, of an archive, or the one file that there is.

    An archive in a folder, and a tar in an archive, is a folder of that name; compressed files are unpacked. Members of
    a zip come in sorted order, those of a tar in its own. Hidden files and folders, linked folders, what is not regular
    (pipes, broken links), empty files and names that are not wanted are left out and counted, and so is all that
    follows the damage of an archive. A byte order mark of UTF-8 is passed over.

    Args:
        is_asked: of a `File.plain_name`. A file that is not asked for is neither read nor counted; an archive is read
            for its members, and its damage counts: nobody knows what it was. What is hidden, a linked folder or not
            regular counts whatever its name.

    Raises: FileNotFoundError where nothing is at `root`; DamagedError at a damaged archive, under "error".
    """
    if not root.exists():
        raise FileNotFoundError(f"{str(root)!r} does not exist: give a file, an archive or a folder")
    order = Order(skipped, patterns or Patterns(), is_asked)
    is_root = root.is_file()
    own = readable(root.name)
    found = [(str(root), own, plain_name(own))] if is_root else _regular_files(root, order)
    for path, name, unpacked_name in found:
        plain = plain_name(name)
        if not is_root and order.patterns.excludes(name):  # of an archive, all that is in it
            if is_asked(plain) or archives.has_ending(name):
                skipped.left_out("not wanted", name)
            continue
        with open(path, "rb") as raw:
            # What was named by itself is wanted, whatever it is called.
            is_read = is_asked(plain) if is_root else order.reason(plain) is None
            if not (is_read or archives.is_archive(raw, name)):
                order.takes(plain)
                continue
            for file in archives.unpacked(raw, name, unpacked_name, "" if is_root else f"{name}/", order):
                is_taken = is_read if file.plain_name == plain else order.takes(file.plain_name)
                if is_taken and _has_content(file, skipped):
                    yield file


def _has_content(file, skipped):
    """Whether there is anything in a file besides a byte order mark, which is read; counts the empty one."""
    head = file.stream.peek(1)
    if head.startswith(_BYTE_ORDER_MARK):
        file.stream.read(len(_BYTE_ORDER_MARK))
        head = file.stream.peek(1)
    if not head and not file.stream.raw.is_damaged:
        skipped.left_out("empty", file.name)
    return bool(head)


def names(root: Path, patterns: Patterns, note: Callable[[str], None]) -> None:
    """Calls `note` with the `File.plain_name` of each file below a folder and of each member of an archive.

    Nothing is read, but archives are gone through, where they are not excluded and their names end like one's.
    """
    order = Order(Skipped(), patterns, lambda name: bool(note(name)))
    if root.is_file():
        _note_members(str(root), root.name, "", order)
        return
    for path, name, _ in _regular_files(root, order):
        note(plain_name(name))
        if archives.has_ending(name) and not patterns.excludes(name):
            _note_members(path, name, f"{name}/", order)


def _note_members(path, name, prefix, order):
    with open(path, "rb") as raw:
        for _ in archives.unpacked(raw, name, name, prefix, order):  # the file itself, where it is no archive
            pass


def stamp(root: Path) -> dict:
    """What tells whether a file or the files of a folder have changed: their number, bytes, and a hash of where they
    are, their names, sizes and times of last change. Nothing is read.

    Raises: FileNotFoundError where nothing is at `root`.
    """
    if not root.exists():
        raise FileNotFoundError(f"{str(root)!r} does not exist: give a file, an archive or a folder")
    found, num_files, num_bytes = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")), 0, 0
    order = Order(Skipped(), Patterns(), lambda _: True)
    for path, name, _ in [(str(root), root.name, "")] if root.is_file() else _regular_files(root, order):
        about = os.stat(path)
        num_files += 1
        num_bytes += about.st_size
        found.update(f"\n{name}\0{about.st_size} {about.st_mtime_ns}".encode(errors="surrogateescape"))
    return {"files": num_files, "bytes": num_bytes, "sha256": found.hexdigest()}


def _regular_files(root, order):
    """(path, name below `root`, name of what is in it) of the files below a folder, in the order of the parts of names.

    Folder by folder: a set may have millions of files.
    """
    if not root.is_dir():
        raise ValueError(f"{str(root)!r} is neither a file nor a folder")
    waiting = [_Folder("", str(root))]
    while waiting:
        folder = waiting[-1]
        entry = next(folder.entries, None)
        if entry is None:
            waiting.pop()
            continue
        own = readable(entry.name)
        name = folder.prefix + own
        if entry.name.startswith("."):
            order.skipped.left_out("hidden", name)
        elif entry.is_dir(follow_symlinks=False):
            waiting.append(_Folder(f"{name}/", entry.path))
        elif entry.is_symlink() and not os.path.exists(entry.path):  # to nothing, or to itself
            order.skipped.left_out("not regular", name)
        elif entry.is_dir():  # links can form cycles
            order.skipped.left_out("linked folders", name)
        elif not entry.is_file():
            order.skipped.left_out("not regular", name)
        else:
            yield entry.path, name, folder.prefix + folder.unpacked_names.get(own, own)


class _Folder:
    """A folder on the way, with what is left of its entries."""

    def __init__(self, prefix, path):
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        self.prefix, self.entries = prefix, iter(found)
        self.unpacked_names = archives.plain_names([readable(entry.name) for entry in found])
