"""Documents laid into rows of tokens of one fixed shape, so that one compiled program scores any number of them.

A document is read as `[SEP] a1 .. an` and predicted as `a1 .. an [SEP]`: whoever scores it decides what the closing
separator counts for. Nothing is held but one row, or one batch of them, and the part of a document that fills it.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.tokenizers import Tokenizer


class Run(NamedTuple):
    """Consecutive tokens of one document, and what is to be predicted at each."""

    owner: Any
    """Whoever asked for them."""
    tokens: np.ndarray
    targets: np.ndarray
    starts: bool
    """Nothing before them is seen."""
    ends: bool
    """The document ends with them."""


class Span(NamedTuple):
    """Where a run, or a part of one, came to lie."""

    owner: Any
    row: int
    start: int
    stop: int
    ends: bool


class Batch(NamedTuple):
    """Rows of tokens and the spans in them, in the order of the documents."""

    tokens: np.ndarray
    """int32 `[B, T]`."""
    targets: np.ndarray
    segment_ids: np.ndarray
    """A number a run, 0 on padding."""
    continues: bool
    """The first run of the first row goes on where the batch before ended."""
    spans: list[Span]


def of_documents(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[Run]:
    """The tokens of documents, a run for each part; the last run of a document has the separator as last target."""
    owner, before = None, None
    for document in documents:
        targets = np.concatenate([tokenizer.encode(text, document.id) for text in document.texts])
        starts = before is None
        if starts:
            owner, before = document, tokenizer.separator
        if not document.continues:
            targets = np.append(targets, tokenizer.separator)
        stream = np.concatenate([[before], targets]).astype(np.int32)
        yield Run(owner, stream[:-1], stream[1:], starts, not document.continues)
        before = stream[-1] if document.continues else None
    if before is not None:  # cut off between parts: what is there is a document
        yield Run(owner, np.array([before], np.int32), np.array([tokenizer.separator], np.int32), False, True)


def windows(runs: Iterable[Run], length: int) -> Iterator[Run]:
    """Each document cut every `length` tokens; no window sees what was before it."""
    tokens = targets = np.zeros(0, np.int32)
    for run in runs:
        tokens = np.concatenate([tokens, run.tokens])
        targets = np.concatenate([targets, run.targets])
        # Of a document that goes on the last window waits for the rest of it.
        num_ready = len(tokens) if run.ends else (len(tokens) - 1) // length * length
        for start in range(0, num_ready, length):
            part = slice(start, min(start + length, num_ready))
            yield Run(run.owner, tokens[part], targets[part], True, run.ends and part.stop == len(tokens))
        tokens, targets = tokens[num_ready:], targets[num_ready:]


def in_one_row(runs: Iterable[Run], length: int, alignment: int) -> Iterator[Batch]:
    """One endless row, `length` tokens at a time; runs are cut where it is cut, and go on in the next batch.

    Documents start at multiples of `alignment`, which divides `length`.
    """
    row = _Rows(1, length, alignment)
    for run in runs:
        row.align(run)
        start = 0
        while start < len(run.tokens):
            if row.is_full():
                yield row.take()
            start += row.put(run, start)
    if row.spans:
        yield row.take()


def in_batches(runs: Iterable[Run], batch_size: int, length: int, alignment: int) -> Iterator[Batch]:
    """Rows of runs that are at most `length` long and stay whole: the next one that fits no more begins a new row.

    They start at multiples of `alignment`.
    """
    rows = _Rows(batch_size, length, alignment)
    for run in runs:
        rows.align(run)
        if not rows.has_room(len(run.tokens)):
            yield rows.take()
        rows.put(run, 0)
    if rows.spans:
        yield rows.take()


class _Rows:
    """A batch that is being filled, row after row."""

    def __init__(self, batch_size, length, alignment):
        self._shape, self._alignment = (batch_size, length), alignment
        self._clear()

    def _clear(self):
        self._arrays = np.zeros((3, *self._shape), np.int32)
        self._row = self._at = self._segment = 0
        self._continues = False
        self.spans = []

    def is_full(self):
        return self._at == self._shape[1]

    def align(self, run):
        """Leaves a gap before a run that starts a document."""
        if run.starts:
            self._at = min(-(-self._at // self._alignment) * self._alignment, self._shape[1])

    def has_room(self, size):
        """Whether so many tokens fit, in this row or in a new one of the batch, which then begins."""
        if self._at + size > self._shape[1]:
            if self._row + 1 == self._shape[0]:
                return False
            self._row, self._at = self._row + 1, 0
        return True

    def put(self, run, start):
        """Puts the tokens of a run from `start` on into this row, as many as fit, and returns how many those were."""
        starts = run.starts and start == 0
        if not self.spans:
            self._continues = not starts
        if starts or not self.spans:
            self._segment += 1
        size = min(len(run.tokens) - start, self._shape[1] - self._at)
        here = (self._row, slice(self._at, self._at + size))
        part = slice(start, start + size)
        tokens, targets, segment_ids = self._arrays
        tokens[here], targets[here], segment_ids[here] = run.tokens[part], run.targets[part], self._segment
        ends = run.ends and part.stop == len(run.tokens)
        self.spans.append(Span(run.owner, self._row, self._at, self._at + size, ends))
        self._at += size
        return size

    def take(self):
        batch = Batch(*self._arrays, self._continues, self.spans)
        self._clear()
        return batch
