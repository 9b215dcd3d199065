"""Files as streams of bytes, whatever they are packed in: folders, tar, zip, gzip, bzip2, xz, Zstandard."""

import bz2
import fnmatch
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from mixkabrn_jax.data.documents import Skipped

_COMPRESSIONS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda stream: zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True),
}
"""How a compressed file begins, and what opens it."""
_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".tgz", ".txz")
_BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError, tarfile.TarError, zipfile.BadZipFile)
"""What reading a damaged archive raises: of OSErrors those without a number, which are none of the file system."""
_BUFFER = 1 << 20


@dataclass(frozen=True)
class File:
    """A file that may lie in an archive, unpacked."""

    name: str
    """Path below the root, with that of its archive before it, and without the ending of its compression."""
    stream: io.BufferedReader
    """To be read once, before the next file is asked for. It ends where an archive is damaged, which is counted."""

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
        return is_included and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._exclude)


def walk(root: Path, skipped: Skipped, patterns: Patterns | None = None) -> Iterator[File]:
    """The files of a folder in sorted order, of an archive in its own order, or the one file that there is.

    An archive in a folder is a folder of that name; compressed files are unpacked. Hidden files and folders, linked
    folders, what is not regular (pipes, broken links), empty files and names that are not wanted are left out and
    counted, and so is all that follows the damage of an archive.

    Raises: FileNotFoundError where nothing is at `root`; DamagedError at a damaged archive, under "error".
    """
    if not root.exists():
        raise FileNotFoundError(f"{str(root)!r} does not exist: give a file, an archive or a folder")
    for path, name in [(root, root.name)] if root.is_file() else _regular_files(root, skipped):
        with path.open("rb") as raw:
            for file in _unpack(raw, name, skipped, is_root=path == root):
                # What was named by itself is wanted, whatever it is called.
                is_named = path == root and file.name == _plain_name(name)
                if not is_named and any(part.startswith((".", "__MACOSX")) for part in Path(file.name).parts):
                    skipped.left_out("hidden", file.name)
                elif patterns is not None and not is_named and not patterns.wants(file.name):
                    skipped.left_out("not wanted", file.name)
                elif not file.stream.peek(1):
                    skipped.left_out("empty", file.name)
                else:
                    yield file


def stamp(root: Path) -> dict:
    """What tells whether a file or the files of a folder have changed: their number, bytes, and a hash of where they
    are, their names, sizes and times of last change. Nothing is read.

    Raises: FileNotFoundError where nothing is at `root`.
    """
    if not root.exists():
        raise FileNotFoundError(f"{str(root)!r} does not exist: give a file, an archive or a folder")
    files = [(root, root.name)] if root.is_file() else _regular_files(root, Skipped())
    found, num_bytes = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")), 0
    for path, name in files:
        about = path.stat()
        num_bytes += about.st_size
        found.update(f"\n{name}\0{about.st_size} {about.st_mtime_ns}".encode(errors="surrogateescape"))
    return {"files": len(files), "bytes": num_bytes, "sha256": found.hexdigest()}


def _regular_files(root, skipped):
    """(path, name below `root`) of the files below a folder, sorted by folder then name."""
    if not root.is_dir():
        raise ValueError(f"{str(root)!r} is neither a file nor a folder")

    def fail(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that it may not read

    files = []
    for folder, subfolders, names in os.walk(root, onerror=fail):
        here = Path(folder)
        for name in [*subfolders, *names]:
            path = here / name
            if name.startswith("."):
                skipped.left_out("hidden", str(path.relative_to(root)))
            elif name in subfolders and path.is_symlink():
                skipped.left_out("linked folders", str(path.relative_to(root)))
            elif name not in subfolders and not path.is_file():
                skipped.left_out("not regular", str(path.relative_to(root)))
            elif name not in subfolders:
                files.append(path.relative_to(root))
        # os.walk goes on with these, but does not follow links, which can form cycles.
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    return [(root / file, file.as_posix()) for file in sorted(files, key=lambda file: file.parts)]


def _unpack(raw, name, skipped, *, is_root):
    """The file that a stream is, or those that are packed in it."""
    # Others are zip files too, such as those of word processors: what is in them was not written to be read.
    if name.lower().endswith(".zip"):
        yield from _zip_members(raw, "" if is_root else f"{name}/", skipped)
        return
    file = _plain(raw, name, skipped)
    if _head(file.stream)[257:262] == b"ustar":
        yield from _tar_members(file, "" if is_root else f"{name}/", skipped)
    else:
        yield file


def _tar_members(file, prefix, skipped):
    try:
        with tarfile.open(fileobj=file.stream, mode="r|") as archive:
            for member in archive:
                archive.members.clear()  # it would keep all of them: millions, of some sets
                if member.isfile():
                    yield _plain(archive.extractfile(member), prefix + _inside(member.name), skipped)
                elif not member.isdir():
                    skipped.left_out("not regular", prefix + member.name)
    except tarfile.TarError as error:
        skipped.damaged(f"damaged archive ({error})", file.name)


def _zip_members(raw, prefix, skipped):
    try:
        with zipfile.ZipFile(raw) as archive:
            for member in sorted(archive.infolist(), key=lambda member: member.filename):
                if not member.is_dir():
                    with archive.open(member) as packed:
                        yield _plain(packed, prefix + _inside(member.filename), skipped)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # the last two: of locked or odd members
        skipped.damaged(f"damaged archive ({error})", Path(raw.name).name)


def _inside(name):
    """`./a/b.txt` and `/a/b.txt` as `a/b.txt`."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _plain(raw, name, skipped):
    """The file of a stream, uncompressed."""
    stream = io.BufferedReader(_Checked(raw, name, skipped), _BUFFER)
    for start, opened in _COMPRESSIONS.items():
        if stream.peek(8).startswith(start):
            unpacked = _Checked(opened(stream), name, skipped)
            return File(_plain_name(name), io.BufferedReader(unpacked, _BUFFER))
    return File(name, stream)


def _plain_name(name):
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in _SUFFIXES else name


def _head(stream):
    return stream.peek(512)


class _Checked(io.RawIOBase):
    """A stream that ends where its source cannot be read on, once that is counted."""

    def __init__(self, stream, name, skipped):
        self._stream, self._name, self._skipped, self._has_ended = stream, name, skipped, False

    def readable(self):
        return True

    def readinto(self, buffer):
        if self._has_ended:
            return 0
        try:
            content = self._stream.read(len(buffer))
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            self._has_ended = True
            self._skipped.damaged(f"damaged archive ({error})", self._name)
            return 0
        buffer[: len(content)] = content
        return len(content)
