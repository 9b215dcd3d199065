"""What is trained on and what is held out, document by document: published splits, a path of its own, or a share.

The share is one of bytes, of each domain for itself: of its documents in their given order, the last ones.

- The last documents are held out whole, as many as come nearest to `validation_fraction` of the domain's bytes, and
  never all of them.
- Where no number of them comes to between half and twice that, as with a single document, the domain is cut inside a
  document: laid end to end, its documents are trained on up to byte int(bytes * (1 - fraction)), or the next place
  between two characters. For a lone tinyshakespeare.txt and 0.1 that is nanoGPT's split.
- A domain of tasks, which have a prompt, is never cut inside one: half a question has no answer.
- A domain too short to hold anything out of is trained on.

Where the share is far from the one asked for, a warning says so.
"""

import dataclasses
import logging
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from mixkabrn_jax.data import sources
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, character_boundary
from mixkabrn_jax.data.progress import Progress

_log = logging.getLogger(__name__)
_FAR = 2
"""A share is far from the one asked for when it is more than so many times as large, or as small."""


class Cut(NamedTuple):
    """Where the held-out part of a domain begins."""

    document: int
    """Among those of the domain, from 0; their number where nothing is held out."""
    position: int
    """In that document, in bytes."""


class Lengths:
    """The bytes of each document by domain, taken in one pass: all that a cut depends on."""

    def __init__(self):
        self._sizes: dict[str, array] = defaultdict(lambda: array("q"))
        self._tasks: set[str] = set()
        self._continues = False

    def add(self, document: Document) -> None:
        """Takes the next document, or the next part of one."""
        sizes = self._sizes[document.domain]
        if self._continues:
            sizes[-1] += len(document.content)
        else:
            sizes.append(len(document.content))
        self._continues = document.continues
        if document.prompt_bytes:
            self._tasks.add(document.domain)

    @property
    def num_documents(self) -> int:
        """Of all domains."""
        return sum(map(len, self._sizes.values()))

    @property
    def num_bytes(self) -> int:
        """Of all documents."""
        return sum(int(np.sum(sizes)) for sizes in self._sizes.values())

    def cuts(self, fraction: float) -> dict[str, Cut]:
        """Where each domain is cut so that about this share of its bytes lies behind it. A share far off is logged.

        Raises: ValueError where nothing at all can be held out.
        """
        cuts, far = {}, {}
        for domain, sizes in self._sizes.items():
            ends = np.cumsum(np.frombuffer(sizes, np.int64))
            cuts[domain] = cut = _cut(ends, fraction, is_whole=domain in self._tasks)
            total = int(ends[-1])
            held = total - _training_bytes(ends, cut)
            if not held or _is_far(held, total - int(total * (1 - fraction))):
                far[domain] = held / total
        if all(cut.document == len(self._sizes[domain]) for domain, cut in cuts.items()):
            raise ValueError(
                f"config.data.validation_fraction={fraction} of {self.num_documents} documents with {self.num_bytes} "
                "bytes holds nothing out: give more text, or config.data.validation_path"
            )
        if far:
            (domain, share), *others = far.items()
            more = f" (and {len(others)} other domains are as far off)" if others else ""
            _log.warning(
                "config.data.validation_fraction=%g, but of domain %r %.2g of the bytes are held out%s: its documents "
                "are too few or too unequal; config.data.validation_path can name others",
                *(fraction, domain, share, more),
            )
        return cuts

    def held_bytes(self, cuts: dict[str, Cut]) -> dict[str, int]:
        """The bytes of each domain that lie behind its cut."""
        return {
            domain: sum(self._sizes[domain]) - _training_bytes(np.cumsum(self._sizes[domain]), cut)
            for domain, cut in cuts.items()
        }


def _is_far(num_bytes, wanted):
    return num_bytes * _FAR < wanted or num_bytes > wanted * _FAR


def _training_bytes(ends, cut):
    return (int(ends[cut.document - 1]) if cut.document else 0) + cut.position


def _cut(ends, fraction, *, is_whole):
    """Of a domain whose documents end at these bytes."""
    number, total = len(ends), int(ends[-1])
    position = int(total * (1 - fraction))
    bounds = ends[:-1]  # between two documents
    if number > 1:
        after = min(int(np.searchsorted(bounds, position)), number - 2)
        nearest = sorted({max(after - 1, 0), after}, key=lambda i: abs(int(bounds[i]) - position))
        near = [i for i in nearest if not _is_far(total - int(bounds[i]), total - position)]
        if near or is_whole or not position:
            return Cut((near or nearest)[0] + 1, 0)
    elif is_whole or not position:
        return Cut(number, 0)
    document = int(np.searchsorted(ends, position, side="right"))
    return Cut(document, position - (int(ends[document - 1]) if document else 0))


def split(documents: Iterable[Document], cuts: dict[str, Cut]) -> Iterator[tuple[str, Document]]:
    """("train" or "validation", document) in the given order; one that is cut inside comes as two."""
    numbers: Counter[str] = Counter()
    offset = 0  # of a part in its document
    for document in documents:
        cut = cuts[document.domain]
        number = numbers[document.domain]
        if number != cut.document:
            yield ("train" if number < cut.document else "validation"), document
        else:
            yield from _split_inside(document, cut.position - offset, is_first=offset == 0)
        offset += len(document.content)
        if not document.continues:
            numbers[document.domain] += 1
            offset = 0


def _split_inside(document, position, *, is_first):
    """Of a document, or a part of one, that is to be cut at a position, which may lie outside it."""
    content = document.content
    if position <= 0:
        yield "validation", document
        return
    if position > len(content):
        yield "train", document
        return
    boundary = character_boundary(content, position) if position < len(content) else position
    if boundary == len(content) and not document.continues:  # within the last character: that one is held out
        boundary = len(content) - len(content.decode(errors="replace")[-1].encode())
    if not boundary and is_first:  # of one character
        yield "train", document
        return
    yield "train", dataclasses.replace(document, content=content[:boundary], continues=False)
    if boundary < len(content):
        yield "validation", dataclasses.replace(document, content=content[boundary:])


@contextmanager
def _naming_validation_path():
    """Around what reads it as the path of a config: errors name the field that it comes from."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace("config.data.path", "config.data.validation_path", 1)) from error


class Split:
    """The documents of a config told apart, as a stream that can be read again and again."""

    def __init__(self, config: DataConfig):
        """
        Args:
            config: without a mixture. Nothing is read yet.
        """
        self.config = config
        self.skipped = Skipped()
        """What the last whole pass left out."""
        self._cuts: dict[str, Cut] | None = None
        self._num_bytes: int | None = None

    def identity(self) -> dict:
        """What the documents and their splits depend on; nothing is read."""
        config = self.config
        about = sources.identity(config)
        if not config.validation_path:
            return about | {"validation": config.validation_fraction}
        with _naming_validation_path():
            return about | {"validation": sources.identity(sources.validation_config(config))}

    @property
    def num_bytes(self) -> int:
        """Of all texts, which are read for it where nothing was yet."""
        self._measure()
        return self._num_bytes

    def __iter__(self) -> Iterator[tuple[str, Document]]:
        """("train" or "validation", document), in one pass.

        Raises: as `sources.read`; ValueError where there is nothing to train or to validate on.
        """
        self._measure()
        skipped = Skipped(self.config.on_damage)
        found = self._published(skipped)
        if self._cuts is None:
            yield from found
        else:
            yield from split((document for name, document in found if name == "train"), self._cuts)
        self.skipped = skipped

    def training(self) -> Iterator[Document]:
        """What may be learnt from: a tokenizer too."""
        return (document for name, document in self if name == "train")

    def _published(self, skipped):
        """As the files tell; with `validation_path`, what it holds is all for validation."""
        path = self.config.validation_path
        for name, document in sources.read_splits(self.config, skipped):
            if name == "train" or not path:
                yield name, document
        if path:
            other = sources.validation_config(self.config)
            with _naming_validation_path():
                yield from (("validation", document) for document in sources.read(other, None, skipped))

    def _measure(self):
        """One pass, the first time: what is there, and where it is to be cut."""
        if self._num_bytes is not None:
            return
        lengths, is_published = Lengths(), False
        num_validation_bytes = 0
        progress = Progress("reading")
        for name, document in self._published(Skipped(self.config.on_damage)):
            progress.add(len(document.content))
            if name == "train":
                lengths.add(document)
            else:
                is_published = True
                num_validation_bytes += len(document.content)
        progress.close()
        config = self.config
        if not lengths.num_documents:
            next(sources.read(config, "train", Skipped(config.on_damage)))  # raises, and says why there is none
        if config.validation_path and not is_published:
            raise ValueError(f"config.data.validation_path={config.validation_path!r} holds no document")
        if not is_published:
            self._cuts = lengths.cuts(config.validation_fraction)
        self._num_bytes = lengths.num_bytes + num_validation_bytes


def read(parts: Sequence[Split], split: str, skipped: Skipped) -> Iterator[Document]:
    """What a run on these trains on ("train"), holds out ("validation") or leaves alone ("test").

    Of a mixture, a document's domain begins with the entry of its source, as in `text:books` or `text:books/novels`:
    scores are told apart by it.

    Args:
        parts: one for each of `DataConfig.components`; given again, they are not measured again.
    Raises: as `Split`.
    """
    for part in parts:
        documents = _of_one(part, split, skipped)
        if len(parts) == 1:
            yield from documents
            continue
        entry = f"{part.config.source}:{part.config.path}".rstrip(":/")
        for document in documents:
            domain = f"{entry}/{document.domain}" if document.domain else entry
            yield dataclasses.replace(document, domain=domain)


def _of_one(part, split, skipped):
    if split == "test":
        found = sources.read_splits(part.config, skipped, test=True)
        yield from (document for name, document in found if name == "test")
        return
    yield from (document for name, document in part if name == split)
    skipped.add(part.skipped)
