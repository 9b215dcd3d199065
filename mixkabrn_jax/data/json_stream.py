"""JSON values out of a stream, each as soon as it is whole: of a list of any length one record is held at a time."""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.documents import Skipped, character_boundary

_CHUNK = 1 << 16
_HALF = re.compile("[\ud800-\udfff]")
_SPACE = " \t\r\n"
_TAIL = 16
"""A value that is cut off fails this near to the end of what was read, or is a string without an end."""


def read(file: File, skipped: Skipped, inside: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """(place, value) of each member of a list, or of the one value that a file is.

    Places are `file:number`. JSON that breaks off or is none is damage, at its line, and ends the file.

    Args:
        inside: an object that has a list of such a name stands for that list.
    """
    text = _Text(file, skipped)
    number = 0
    try:
        for value in _values(text, inside):
            number += 1
            yield f"{file.name}:{number}", value
    except (json.JSONDecodeError, RecursionError):
        skipped.damaged("not JSON, or cut off", f"{file.name}:{text.line}")


def mended(value: Any, text: str, name: str, skipped: Skipped, start: int = 0, end: int | None = None) -> Any:
    """A value of JSON with U+FFFD for half a surrogate pair, which JSON can escape and UTF-8 cannot hold; counted.

    Args:
        text: what the value was read from, between `start` and `end`.
        name: of the file.
    """
    if text.find("\\ud", start, end) < 0 and text.find("\\uD", start, end) < 0:
        return value
    whole = [value]
    waiting = [whole]  # and no recursion: JSON may be nested as deeply as Python allows
    while waiting:
        inside = waiting.pop()
        for key, inner in inside.items() if isinstance(inside, dict) else enumerate(inside):
            if isinstance(inner, dict | list):
                waiting.append(inner)
            elif isinstance(inner, str) and _HALF.search(inner):
                inside[key], number = _HALF.subn("\ufffd", inner)
                skipped.replaced[name] += number
    return whole[0]


def _values(text, inside):
    start = text.next_sign()
    if start == "[":
        yield from _members(text)
    elif start == "{":
        record, is_record = {}, True
        for name in _names(text):
            if name in inside and text.next_sign() == "[":
                yield from _members(text)
                is_record = False
            elif is_record:
                record[name] = text.value()
            else:
                text.value()
        if is_record:
            yield record
    else:
        yield text.value()
    if text.next_sign():
        text.fail()


def _members(text):
    """The members of the list that begins here."""
    text.take("[")
    if text.next_sign() == "]":
        text.take("]")
        return
    while True:
        value = text.value()
        if isinstance(value, (int, float)) and not text.next_sign():  # of a number nobody knows that it is whole
            text.fail()
        yield value
        if text.next_sign() == "]":
            text.take("]")
            return
        text.take(",")


def _names(text):
    """The names of the object that begins here, each before its value, which must be read before the next."""
    text.take("{")
    if text.next_sign() == "}":
        text.take("}")
        return
    while True:
        if text.next_sign() != '"':
            text.fail()
        name = text.value()
        text.take(":")
        yield name
        if text.next_sign() == "}":
            text.take("}")
            return
        text.take(",")


class _Text:
    """The part of a text that is not yet used."""

    def __init__(self, file, skipped):
        self._stream, self._name, self._skipped = file.stream, file.name, skipped
        self._decoder = json.JSONDecoder()
        self._buffer, self._position, self._bytes = "", 0, b""
        self.line = 1
        """Where the unused part begins."""
        if self._stream.peek(3).startswith(codecs.BOM_UTF8):
            self._stream.read(3)

    def _read(self, size):
        """Whether there was more."""
        content = self._stream.read(size)
        self._bytes += content
        # What is read may end within a character.
        cut = character_boundary(self._bytes, max(len(self._bytes) - 4, 0)) if content else len(self._bytes)
        text = self._skipped.decoded(self._bytes[:cut], self._name).decode()
        self.line += self._buffer.count("\n", 0, self._position)
        self._buffer = self._buffer[self._position :] + text
        self._position, self._bytes = 0, self._bytes[cut:]
        return bool(content or text)

    def next_sign(self):
        """The next character that is no space, which stays; "" at the end."""
        while True:
            while self._position < len(self._buffer):
                if self._buffer[self._position] not in _SPACE:
                    return self._buffer[self._position]
                self._position += 1
            if not self._read(_CHUNK):
                return ""

    def take(self, sign):
        if self.next_sign() != sign:
            self.fail()
        self._position += 1

    def value(self):
        """The value that begins here."""
        self.next_sign()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(self._buffer) - _TAIL or error.msg.startswith("Unterminated string")
                # As much again as there is, so that a long value is not begun anew too often.
                if is_cut and self._read(max(len(self._buffer), _CHUNK)):
                    continue
                self._position = error.pos
                self.fail()
            except ValueError:  # a number of more digits than Python reads
                self.fail()
            # A number may go on: of `1e+16` that is cut behind its sign, `1` is what is read.
            length = end - self._position
            if end + len("e+") < len(self._buffer) or not self._read(_CHUNK):
                start, self._position = self._position, self._position + length
                return mended(value, self._buffer, self._name, self._skipped, start, self._position)

    def fail(self):
        """Raises at what comes next, with `line` at it."""
        self.line += self._buffer.count("\n", 0, self._position)
        raise json.JSONDecodeError("no JSON", self._buffer, self._position)
