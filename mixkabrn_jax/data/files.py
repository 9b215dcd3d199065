"""Files as streams of bytes, whatever they are packed in: folders, tar, zip, gzip, bzip2, xz, Zstandard."""

import fnmatch
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mixkabrn_jax.data import decompression
from mixkabrn_jax.data.documents import Skipped

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".tgz", ".txz")
"""Endings of compressed files, which their names lose."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class File:
    """A file that may lie in an archive, unpacked."""

    name: str
    """Path below the root, with that of its archive before it, and without the ending of its compression."""
    stream: io.BufferedReader
    """To be read once, before the next file is asked for. It ends where an archive is damaged, which is counted."""
    path: str | None = None
    """Where it lies on disk, unless it is packed: for formats that cannot be read from front to back."""

    @property
    def folder(self) -> str:
        """The first folder on the way to it, "" for none."""
        head, slash, _ = self.name.partition("/")
        return head if slash else ""


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


def walk(root: Path, skipped: Skipped, patterns: Patterns | None = None) -> Iterator[File]:
    """The files of a folder in sorted order, of an archive, or the one file that there is.

    An archive in a folder, and a tar in an archive, is a folder of that name; compressed files are unpacked. Members of
    a zip come in sorted order, those of a tar in its own. Hidden files and folders, linked folders, what is not regular
    (pipes, broken links), empty files and names that are not wanted are left out and counted, and so is all that
    follows the damage of an archive. A byte order mark of UTF-8 is passed over.

    Raises: FileNotFoundError where nothing is at `root`; DamagedError at a damaged archive, under "error".
    """
    if not root.exists():
        raise FileNotFoundError(f"{str(root)!r} does not exist: give a file, an archive or a folder")
    patterns = patterns or Patterns()
    is_root = root.is_file()
    for path, name in [(str(root), root.name)] if is_root else _regular_files(root, skipped):
        if not is_root and patterns.excludes(name):  # of an archive, all that is in it
            skipped.left_out("not wanted", name)
            continue
        with open(path, "rb") as raw:
            for file in _unpack(raw, name, skipped, is_root=is_root):
                # What was named by itself is wanted, whatever it is called.
                is_named = is_root and file.name == _plain_name(name)
                if not is_named and any(part.startswith((".", "__MACOSX")) for part in file.name.split("/")):
                    skipped.left_out("hidden", file.name)
                elif not is_named and not patterns.wants(file.name):
                    skipped.left_out("not wanted", file.name)
                elif _has_content(file, skipped):
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


def stamp(root: Path) -> dict:
    """What tells whether a file or the files of a folder have changed: their number, bytes, and a hash of where they
    are, their names, sizes and times of last change. Nothing is read.

    Raises: FileNotFoundError where nothing is at `root`.
    """
    if not root.exists():
        raise FileNotFoundError(f"{str(root)!r} does not exist: give a file, an archive or a folder")
    found, num_files, num_bytes = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")), 0, 0
    for path, name in [(str(root), root.name)] if root.is_file() else _regular_files(root, Skipped()):
        about = os.stat(path)
        num_files += 1
        num_bytes += about.st_size
        found.update(f"\n{name}\0{about.st_size} {about.st_mtime_ns}".encode(errors="surrogateescape"))
    return {"files": num_files, "bytes": num_bytes, "sha256": found.hexdigest()}


def _regular_files(root, skipped):
    """(path, name below `root`) of the files below a folder, in the order of the parts of their names.

    Folder by folder: a set may have millions of files.
    """
    if not root.is_dir():
        raise ValueError(f"{str(root)!r} is neither a file nor a folder")
    waiting = [iter(_sorted(str(root)))]
    names = []
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            names = names[:-1]
            continue
        name = "/".join([*names, entry.name])
        if entry.name.startswith("."):
            skipped.left_out("hidden", name)
        elif entry.is_dir(follow_symlinks=False):
            names.append(entry.name)
            waiting.append(iter(_sorted(entry.path)))
        elif entry.is_dir():  # links can form cycles
            skipped.left_out("linked folders", name)
        elif not entry.is_file():
            skipped.left_out("not regular", name)
        else:
            yield entry.path, name


def _sorted(folder):
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _unpack(raw, name, skipped, *, is_root):
    """The file that a stream is, or those that are packed in it."""
    # Others are zip files too, such as those of word processors: what is in them was not written to be read.
    if name.lower().endswith(".zip"):
        yield from _zip_members(raw, name, "" if is_root else f"{name}/", skipped)
        return
    file = _plain(raw, name, skipped, path=raw.name)
    yield from _opened(file, "" if is_root else f"{name}/", skipped)


def _opened(file, prefix, skipped):
    """A file itself, or where it is a tar, its members, whose names get a prefix."""
    if file.stream.peek(512)[257:262] == b"ustar":
        yield from _tar_members(file, prefix, skipped)
    else:
        yield file


class _Header(tarfile.TarInfo):
    """Of a member of a tar. A broken one is an error: `tarfile` takes it for the end, unless it is the first."""

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from error


def _tar_members(file, prefix, skipped):
    member_file = file
    try:
        with tarfile.open(fileobj=file.stream, mode="r|", tarinfo=_Header) as archive:
            for member in archive:
                archive.members.clear()  # it would keep all of them: millions, of some sets
                if member.isfile():
                    packed, name = archive.extractfile(member), prefix + _inside(member.name)
                    member_file = _plain(packed, name, skipped, within=file.stream.raw)
                    yield from _opened(member_file, f"{name}/", skipped)
                elif not member.isdir():
                    skipped.left_out("not regular", prefix + _inside(member.name))
    except tarfile.TarError as error:
        # One damage is counted once: where the archive's own stream broke off, or in the member that it cut.
        if not (file.stream.raw.is_damaged or member_file.stream.raw.is_damaged):
            skipped.damaged(f"damaged archive ({error})", file.name)


def _zip_members(raw, name, prefix, skipped):
    try:
        archive = zipfile.ZipFile(raw)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        skipped.damaged(f"damaged archive ({error})", name)
        return
    with archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            # Some programs of Windows write its separators, which the format forbids.
            path = member.filename.replace("\\", "/")
            if path.endswith("/"):
                continue
            inside = prefix + _inside(path)
            try:
                packed = archive.open(member)
            except RuntimeError:  # NotImplementedError is one, of a way of packing that Python has not
                is_locked = member.flag_bits & 1
                skipped.damaged("locked by a password" if is_locked else "packed in an unknown way", inside)
            except (zipfile.BadZipFile, OSError) as error:
                decompression.raise_of_file_system(error)
                skipped.damaged(f"damaged archive ({error})", inside)
            else:
                with packed:
                    yield from _opened(_plain(packed, inside, skipped), f"{inside}/", skipped)


def _inside(name):
    """`./a/b.txt` and `/a/b.txt` as `a/b.txt`."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _plain(raw, name, skipped, *, path=None, within=None):
    """The file of a stream, uncompressed.

    Args:
        path: where it lies, unless it is packed.
        within: the checked stream of the archive that it is in.
    """
    stream = decompression.checked(raw, name, skipped, within)
    unpacked = decompression.decompressed(stream, name, skipped)
    return File(name, stream, path) if unpacked is None else File(_plain_name(name), unpacked)


def _plain_name(name):
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in COMPRESSIONS else name
