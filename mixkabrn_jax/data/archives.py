"""Files as streams of bytes, whatever they are packed in: tar, zip, gzip, bzip2, xz, Zstandard."""

import io
import os
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mixkabrn_jax.data import decompression
from mixkabrn_jax.data.documents import Skipped

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".tgz", ".txz")
"""Endings of compressed files."""
_ENDING = re.compile(r"\.(tar(\.\w+)?|tgz|txz|zip)$", re.IGNORECASE)


@dataclass(frozen=True)
class File:
    """A file that may lie in an archive, unpacked."""

    name: str
    """Path below the root, `readable`, with that of its archive before it, and without the ending of its compression
    where no other file has the same name then. Of the files of a walk no two have one name, but for members that a tar
    has twice."""
    stream: io.BufferedReader
    """To be read once, before the next file is asked for. It ends where an archive is damaged, which is counted."""
    path: str | None = None
    """Where it lies on disk, unless it is packed: for formats that cannot be read from front to back."""

    @property
    def plain_name(self) -> str:
        """The name without the ending of a compression: it tells the format of what is in the file, and the split."""
        return plain_name(self.name)

    @property
    def folder(self) -> str:
        """The first folder on the way to it, "" for none."""
        head, slash, _ = self.name.partition("/")
        return head if slash else ""


def readable(name: str) -> str:
    r"""A name that can be written: bytes that are no UTF-8, which Linux allows in names, as `\xe9`."""
    return name if name.isascii() else name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def has_ending(name: str) -> bool:
    """Whether a name ends like an archive's: then members' names may tell what its own does not."""
    return _ENDING.search(name) is not None


def is_archive(raw: io.BufferedReader, name: str) -> bool:
    """Whether a file on disk is an archive, which its ending need not say; it is left at its start, nothing counted."""
    found = _is_zip(name) or _is_tar(raw, name)
    if not found and decompression.is_compressed(raw):
        found = _is_tar(_plain(raw, name, name, Skipped()).stream, name)
    raw.seek(0)
    return found


def _is_zip(name):
    # Others are zip files too, such as those of word processors: what is in them was not written to be read.
    return name.lower().endswith(".zip")


def _is_tar(stream, name):
    head = stream.peek(512)[:512]
    is_empty = head and not head.strip(b"\0")  # which its name alone tells from other zeros
    return head[257:262] == b"ustar" or (is_empty and has_ending(name))


def unpacked(raw: io.BufferedReader, name: str, unpacked_name: str, prefix: str, order) -> Iterator[File]:
    """The file that a stream is, or those that are packed in it.

    Args:
        raw: a file on disk, whose `name` is its path.
        name: below the root.
        unpacked_name: of what is in it, if it is a compressed file.
        prefix: of the names of members.
        order: a `files.Order`, which says which members are read, and counts what is left out.

    Raises: DamagedError at damage, under "error".
    """
    if _is_zip(name):
        yield from _zip_members(raw, name, prefix, order)
    else:
        yield from _opened(_plain(raw, name, unpacked_name, order.skipped, path=raw.name), prefix, order)


def _opened(file, prefix, order):
    """A file itself, or where it is a tar, its members, whose names get a prefix."""
    if _is_tar(file.stream, file.name):
        yield from _tar_members(file, prefix, order)
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


def _tar_members(file, prefix, order):
    member_file, is_empty = file, True
    try:
        with tarfile.open(fileobj=file.stream, mode="r|", tarinfo=_Header) as archive:
            for member in archive:
                archive.members.clear()  # it would keep all of them: millions, of some sets
                if member.isdir():
                    continue
                is_empty, name = False, prefix + _inside(member.name)
                if not member.isfile() or name == prefix:  # as of one that is called ".."
                    order.skipped.left_out("not regular", prefix + member.name)
                elif has_ending(name) or order.takes(plain_name(name)):
                    # With the ending of its compression: whether a file of the same name comes, nobody knows yet.
                    packed = archive.extractfile(member)
                    member_file = _plain(packed, name, name, order.skipped, within=file.stream.raw)
                    yield from _opened(member_file, f"{name}/", order)
    except tarfile.TarError as error:
        # One damage is counted once: where the archive's own stream broke off, or in the member that it cut.
        if not (file.stream.raw.is_damaged or member_file.stream.raw.is_damaged):
            order.skipped.damaged(f"damaged archive ({error})", file.name)
            return
    if is_empty and not file.stream.raw.is_damaged:
        order.skipped.left_out("empty", file.name)


def _zip_members(raw, name, prefix, order):
    try:
        archive = zipfile.ZipFile(raw)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:  # the last: of a broken name
        order.skipped.damaged(f"damaged archive ({error})", name)
        return
    with archive:
        members = {}
        for member in archive.infolist():
            # Some programs of Windows write its separators, which the format forbids.
            path = member.filename.replace("\\", "/")
            if path.endswith("/"):
                continue
            inside = prefix + _inside(path)
            if inside == prefix:
                order.skipped.left_out("not regular", prefix + path)
                continue
            if inside in members:  # an archive that was added to; unpacking it would write over the first
                order.skipped.left_out("replaced by a later member of the same name", inside)
            members[inside] = member
        if not members:
            order.skipped.left_out("empty", name)
        unpacked_names = plain_names(members)
        for inside, member in sorted(members.items(), key=lambda found: found[1].filename):
            if has_ending(inside) or order.takes(plain_name(inside)):
                yield from _zip_member(archive, member, inside, unpacked_names.get(inside, inside), order)


def _zip_member(archive, member, inside, unpacked_name, order):
    try:
        if member.header_offset < 0:
            raise zipfile.BadZipFile("something before this member is missing")
        packed = archive.open(member)
    except RuntimeError:  # NotImplementedError is one, of a way of packing that Python has not
        is_locked = member.flag_bits & 1
        order.skipped.damaged("locked by a password" if is_locked else "packed in an unknown way", inside)
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError) as error:
        decompression.raise_of_file_system(error)
        order.skipped.damaged(f"damaged archive ({error})", inside)
    else:
        with packed:
            yield from _opened(_plain(packed, inside, unpacked_name, order.skipped), f"{inside}/", order)


def _inside(name):
    """`./a/b.txt` and `/a/b.txt` as `a/b.txt`, readable."""
    return readable("/".join(part for part in name.split("/") if part not in ("", ".", "..")))


def _plain(raw, name, unpacked_name, skipped, *, path=None, within=None):
    """The file of a stream, uncompressed.

    Args:
        unpacked_name: its name if it was compressed.
        path: where it lies, unless it is packed.
        within: the checked stream of the archive that it is in.
    """
    size = os.fstat(raw.fileno()).st_size if path else 0
    stream = decompression.checked(raw, name, skipped, within, size)
    content = decompression.decompressed(stream, name, skipped)
    return File(name, stream, path) if content is None else File(unpacked_name, content)


def plain_name(name: str) -> str:
    """A name without the ending of a compression."""
    if not name.lower().endswith(COMPRESSIONS):  # as nearly all; the rest takes longer
        return name
    return name.removesuffix(Path(name).suffix)


def plain_names(names: Collection[str]) -> dict[str, str]:
    """Of files side by side, the names without the ending of their compression of those that stay distinct so.

    `x.txt.gz` is `x.txt`, unless there is a file of that name, too, or an `x.txt.xz`.
    """
    packed = {name: plain_name(name) for name in names if name.lower().endswith(COMPRESSIONS)}
    if not packed:
        return {}
    taken = Counter([*packed.values(), *names])
    return {name: plain for name, plain in packed.items() if taken[plain] == 1}
