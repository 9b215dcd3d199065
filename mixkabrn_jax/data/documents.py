"""What every source gives: documents, and an account of what it left out."""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

_LINE = re.compile(r":\d+$")
PART_BYTES = 1 << 20
"""A text longer than this comes as several documents, each but the last with `continues`: none is held whole."""


@dataclasses.dataclass(frozen=True)
class Document:
    """A record of a source: a text, and where it is a task, what of it is asked and what counts as an answer."""

    content: bytes
    """UTF-8: the prompt, if any, and behind it the target."""
    domain: str
    """What scores are told apart by; "" for none."""
    id: str
    """A name that is unique in its source, such as `train.jsonl:7`."""
    prompt_bytes: int = 0
    """So many of the first bytes are the prompt: with `config.data.loss_on="targets"` they are read and not learnt."""
    answered: tuple[int, ...] = ()
    """Where in the prompt of a conversation each earlier answer begins and ends: they are learnt like the target."""
    continues: bool = False
    """The text is longer and goes on with the next document, which has the same id."""
    answers: tuple[str, ...] = ()
    """Any of these is right, where a task has answers; the target may say more than the answer."""
    tests: str = ""
    """A Python program that raises unless the prompt with a completion, which it stands behind, is right."""

    @property
    def prompt(self) -> bytes:
        """What is asked."""
        return self.content[: self.prompt_bytes]

    @property
    def target(self) -> bytes:
        """What is to be said."""
        return self.content[self.prompt_bytes :]

    @property
    def texts(self) -> tuple[bytes, ...]:
        """What is encoded apart: what is asked and what is to be said by turns, else the whole."""
        if not self.prompt_bytes:
            return (self.content,)
        edges = (0, *self.answered, self.prompt_bytes, len(self.content))
        return tuple(self.content[start:end] for start, end in itertools.pairwise(edges))


class DamagedError(ValueError):
    """A record that cannot be read, under `on_damage="error"`: the message begins with its file and line."""


class Skipped:
    """What a source left out: how much of it for which reason, and the first place of each."""

    def __init__(self, on_damage: str = "skip"):
        """
        Args:
            on_damage: "skip" counts what is damaged; "error" raises at the first.
        """
        self.on_damage = on_damage
        self.counts: Counter[str] = Counter()
        self.places: dict[str, str] = {}
        self.replaced: Counter[str] = Counter()
        """What was no character and became U+FFFD, by file; what it stood in was kept: bytes that are no UTF-8, and
        halves of surrogate pairs in JSON."""

    def damaged(self, reason: str, place: str) -> None:
        """Counts a record or file that cannot be read. Raises: DamagedError under "error"."""
        if self.on_damage == "error":
            raise DamagedError(f"{place}: {reason}")
        self.left_out(reason, place)

    def left_out(self, reason: str, place: str) -> None:
        """Counts what is not wanted and no damage: a hidden file, a licence that is not allowed."""
        self.counts[reason] += 1
        self.places.setdefault(reason, place)

    def add(self, other: "Skipped") -> None:
        """Takes what another reading left out, too."""
        self.counts.update(other.counts)
        self.replaced.update(other.replaced)
        self.places = other.places | self.places

    def decoded(self, content: bytes, place: str) -> bytes:
        """The bytes as valid UTF-8, with U+FFFD for what is none, which is counted.

        A set that was cut at a byte ends within a character: its record is kept.
        """
        num_replaced = self.replaced.total()
        text = self.text(content, place)
        return content if num_replaced == self.replaced.total() else text.encode()

    def text(self, content: bytes, place: str) -> str:
        """As `decoded`, but the text that it is."""
        try:
            return content.decode()
        except UnicodeDecodeError:
            text = content.decode(errors="replace")
            self.replaced[_LINE.sub("", place)] += text.count("\ufffd") - content.count(b"\xef\xbf\xbd")
            return text

    def __str__(self):
        """`2 hidden (first: .git), 1 empty (first: a.txt)`; "" for nothing."""
        return ", ".join(f"{self.counts[reason]} {reason} (first: {self.places[reason]})" for reason in self.places)


def task(prompt: str, target: str, domain: str, id: str, answers: tuple[str, ...] = (), tests: str = "") -> Document:
    """A document of a prompt and a target."""
    prompt_bytes = prompt.encode()
    return Document(prompt_bytes + target.encode(), domain, id, len(prompt_bytes), answers=answers, tests=tests)


def question(question: str, target: str, domain: str, id: str, answers: tuple[str, ...]) -> Document:
    """A task in the one form that all sets of questions have, which is lm-evaluation-harness's for GSM8K.

    The space before the target belongs to it, as a piece of a tokenizer begins with the space before its word.
    """
    return task(f"Question: {question}\nAnswer:", f" {target}", domain, id, answers)


def lines(stream: BinaryIO, document: Document, skipped: Skipped) -> Iterator[Document]:
    """The lines of a text but those of spaces, with `:number` behind the id; long ones in `parts`."""
    number = 0
    while begin := stream.readline(_LINE_BYTES):
        number += 1
        place = f"{document.id}:{number}"
        if len(begin) < _LINE_BYTES or begin.endswith(b"\n"):
            content = skipped.decoded(_without_end(begin), document.id)
            if not _is_blank(content):
                yield Document(content, document.domain, place)
            continue
        has_begun = False
        for part in parts(stream, Document(b"", document.domain, place), skipped, begin=begin):
            # A part is millions of bytes: one of spaces alone is seen before a text, or where there is none.
            if has_begun or not _is_blank(part.content):
                has_begun = True
                yield part


_LINE_BYTES = 64 << 10


def _is_blank(content):
    text = content.strip()
    # What begins with a letter of ASCII need not be decoded to be seen.
    return not text or (text[0] >= 0x80 and text.decode().isspace())


def _without_end(line):
    return line.removesuffix(b"\n").removesuffix(b"\r")


def parts(stream: BinaryIO, document: Document, skipped: Skipped, *, begin: bytes | None = None) -> Iterator[Document]:
    """A text as documents of at most `PART_BYTES`, none but an empty one for an empty text.

    Parts end where a tokenizer would begin a new piece anyway: before a single space between two letters, where there
    is one, and never within a character.

    Args:
        stream: read to its end, or to the end of its line, which is left off.
        document: whose content is not used.
        begin: of the line that is to be read, which the stream has given already; None for all of the stream.
    """
    rest, is_last, to_line_end = begin or b"", False, begin is not None
    while not is_last:
        wanted = PART_BYTES - len(rest)
        read = stream.readline(wanted) if to_line_end else stream.read(wanted)
        is_last = len(read) < wanted or (to_line_end and read.endswith(b"\n"))
        content = rest + read
        if to_line_end and is_last:
            content = _without_end(content)
        cut = len(content) if is_last else _cut(content)
        content, rest = content[:cut], content[cut:]
        yield dataclasses.replace(document, content=skipped.decoded(content, document.id), continues=not is_last)


def parts_of(text: str, document: Document, skipped: Skipped) -> Iterator[Document]:
    """As `parts`, of a text that a record held whole."""
    return parts(_Encoded(text), document, skipped)


class _Encoded:
    """A text as a stream of UTF-8, of which a part is made at a time."""

    def __init__(self, text):
        self._text, self._at, self._waiting = text, 0, b""

    def read(self, size):
        while len(self._waiting) < size and self._at < len(self._text):
            self._waiting += self._text[self._at : self._at + PART_BYTES].encode()
            self._at += PART_BYTES
        content, self._waiting = self._waiting[:size], self._waiting[size:]
        return content


_GAP = re.compile(rb"\S(?=[ \n]\S)")


def _cut(content):
    """Where a part of a longer text ends: before the last single space or line end, else at a character's start."""
    tail = len(content) - 4096
    gaps = list(_GAP.finditer(content, max(tail, 0)))
    if gaps:
        return gaps[-1].end()
    return character_boundary(content, len(content) - 4)


def character_boundary(content: bytes, position: int) -> int:
    """The first place at or behind a position where a UTF-8 character may begin."""
    # A character has at most three continuation bytes (10xxxxxx); with more of them this is no UTF-8, and any place is
    # as good as another.
    for boundary in range(position, min(position + 4, len(content))):
        if content[boundary] & 0b1100_0000 != 0b1000_0000:
            return boundary
    return min(position, len(content)) if len(content) - position > 3 else len(content)
