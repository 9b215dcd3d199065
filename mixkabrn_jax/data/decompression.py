"""Streams of bytes that are unpacked as they are read, and end, counted, where they are damaged."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO

import zstandard

from mixkabrn_jax.data.documents import Skipped

_BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError, tarfile.TarError, zipfile.BadZipFile)
"""What reading a damaged archive raises: of OSErrors those without a number, which are none of the file system."""
_BUFFER = 1 << 20
_STEP = 1 << 16


def checked(
    stream: BinaryIO, name: str, skipped: Skipped, within: "Checked | None" = None, size: int = 0
) -> io.BufferedReader:
    """The stream, with `Checked` as its `raw`."""
    return io.BufferedReader(Checked(stream, name, skipped, within, size), _BUFFER)


def is_compressed(stream: io.BufferedReader) -> bool:
    """Whether a stream begins like a compressed file."""
    return stream.peek(8).startswith(tuple(_COMPRESSIONS))


def decompressed(stream: io.BufferedReader, name: str, skipped: Skipped) -> io.BufferedReader | None:
    """What is packed in a checked stream, checked too; None where the stream does not begin like a compressed file."""
    head = stream.peek(8)
    for start, opened in _COMPRESSIONS.items():
        if head.startswith(start):
            return checked(opened(stream), name, skipped, stream.raw)
    return None


def raise_of_file_system(error: Exception) -> None:
    """Raises an OSError of the file system, which has a number; those of damaged archives have none."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


class Checked(io.RawIOBase):
    """A stream that ends where its source cannot be read on, once that is counted."""

    def __init__(self, stream: BinaryIO, name: str, skipped: Skipped, within: "Checked | None" = None, size: int = 0):
        """
        Args:
            within: the checked stream that this one is read from: its damage is not counted again.
            size: bytes that the stream has at least; fewer are damage.
        """
        self._stream, self._name, self._skipped, self._within = stream, name, skipped, within
        self._missing = size
        self._is_broken = False

    @property
    def is_damaged(self) -> bool:
        """Whether it ended so."""
        return self._is_broken or (self._within is not None and self._within.is_damaged)

    def readable(self):
        return True

    def readinto(self, buffer):
        view, filled = memoryview(buffer), 0
        # Small steps, each of which raises or gives something: nearly all that stands before a damage is read.
        while filled < len(view) and not self._is_broken:
            try:
                content = self._stream.read1(min(len(view) - filled, _STEP))
            except _BROKEN as error:
                raise_of_file_system(error)
                self._break(f"damaged archive ({str(error) or 'it ends too early'})")
                break
            if not content:
                if self._missing > 0:
                    self._break("shorter than it was when it was opened")
                break
            self._missing -= len(content)
            view[filled : filled + len(content)] = content
            filled += len(content)
        return filled

    def _break(self, reason):
        if not self.is_damaged:
            self._skipped.damaged(reason, self._name)
        self._is_broken = True


class _Zstandard:
    """Frames of Zstandard one after the other. The package's own reader takes a frame that is cut short for the end."""

    def __init__(self, stream):
        self._stream, self._frame, self._waiting = stream, None, b""
        self._rest = io.BytesIO()

    def read1(self, size):
        while not (content := self._rest.read(size)):
            packed = self._waiting or self._stream.read1(1 << 14)  # it unpacks all at once, a hundredfold at times
            if not packed:
                if self._frame is not None:
                    raise EOFError("Compressed file ended before the end of a frame")
                return b""
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._rest = io.BytesIO(self._frame.decompress(packed))
            self._waiting = b""
            if self._frame.eof:
                self._waiting, self._frame = self._frame.unused_data, None
        return content


_COMPRESSIONS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _Zstandard,
}
"""How a compressed file begins, and what opens it."""
