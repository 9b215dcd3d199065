"""From the config's data section to batches: the corpus, the endless training set, one pass over validation."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from mixkabrn_jax.data import packing, reading, sources, tokenizers
from mixkabrn_jax.data.corpora import sotu

SOURCES = ("auto", "sotu", "text")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """`config.data`, checked: a field that is out of range is a ValueError that names it."""

    source: str
    """"sotu", the corpus that ships with the package; "text", files; "auto", text where path is set."""
    path: str
    """A text file or a folder of them; "" for none."""
    tokenizer: str
    """"bytes" or "characters"."""
    sequence_length: int
    """Tokens of a row."""
    batch_size: int
    """Rows of an update, over all devices and microbatches."""
    validation_fraction: float
    """Of the documents, held out; of a single one, its end."""
    num_threads: int
    """Threads that prepare batches, 0 for the caller's own; batches do not depend on it."""
    timeout_seconds: float
    """A batch that is not there after so long ends the run; 0 waits for ever."""

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ValueError(f"config.data.source={self.source!r} must be one of {SOURCES}")
        if self.source == "sotu" and self.path:
            raise ValueError(
                f"config.data.source='sotu' reads no files, but config.data.path={self.path!r}: "
                "set config.data.source to 'text', or config.data.path to ''"
            )
        if self.source == "text" and not self.path:
            raise ValueError("config.data.path='' names no file, but config.data.source='text' reads one: set the path")
        if self.tokenizer not in tokenizers.NAMES:
            raise ValueError(f"config.data.tokenizer={self.tokenizer!r} must be one of {tokenizers.NAMES}")
        for field, least in (("sequence_length", 1), ("batch_size", 1), ("num_threads", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"config.data.{field}={getattr(self, field)} must be at least {least}")
        if not 0 <= self.timeout_seconds < math.inf:
            raise ValueError(f"config.data.timeout_seconds={self.timeout_seconds} must be 0 or more")
        sources.check_fraction(self.validation_fraction)


class Corpus(NamedTuple):
    """A tokenizer and the windows of the two parts of a source."""

    tokenizer: tokenizers.Tokenizer
    train: packing.Windows
    validation: packing.Windows

    def fingerprints(self) -> dict[str, str]:
        """Returns what identifies each part: the same for the same data only."""
        return {"train": self.train.fingerprint(), "validation": self.validation.fingerprint()}


def load(config: DataConfig, tokenizer: tokenizers.Tokenizer | None = None) -> Corpus:
    """Reads, splits, encodes and packs the source.

    A run that goes on brings the tokenizer it was saved with; without one it is made here, from all documents, as
    nanoGPT does. A tokenizer of another kind than the config's is a ValueError; so is what `sources` and `tokenizers`
    find wrong with the data, and a training part that does not fill one window.
    """
    documents = sources.text(config.path) if config.path else sotu.documents()
    if tokenizer is None:
        tokenizer = (
            tokenizers.Bytes() if config.tokenizer == "bytes" else tokenizers.Characters.from_documents(documents)
        )
    elif tokenizer.name != config.tokenizer:
        raise ValueError(f"config.data.tokenizer={config.tokenizer!r}, but the given one is of {tokenizer.name!r}")
    parts = sources.hold_out(documents, config.validation_fraction)
    corpus = Corpus(tokenizer, *(packing.Windows(part, tokenizer, config.sequence_length) for part in parts))
    if corpus.train.num_targets < config.sequence_length:
        raise ValueError(
            f"config.data.path={config.path!r} has {sum(len(document.content) for document in documents):,} bytes, "
            f"{corpus.train.num_targets:,} tokens of them for training, which do not fill one window of "
            f"config.data.sequence_length={config.sequence_length}: at least "
            f"{math.ceil((config.sequence_length - 1) / (1 - config.validation_fraction)):,} bytes are needed, or a "
            "shorter window"
        )
    return corpus


def vocab_size(config: DataConfig) -> int:
    """Tokens of the tokenizer that `load` would make; reads the data where the tokenizer depends on it."""
    return tokenizers.Bytes().vocab_size if config.tokenizer == "bytes" else load(config).tokenizer.vocab_size


def train_batches(
    windows: packing.Windows, config: DataConfig, seed: int, rows: Sequence[int] | None = None
) -> reading.Batches:
    """Returns endless batches of shuffled windows, arrays `[B, T]` under the keys of a window.

    Args:
        rows: those to read of each batch, where other processes read the others; None for all.

    Each epoch is a permutation of its own, computed from the seed and the position, so batch i is a function of the
    seed and i: the iterator's state is the one integer i, whatever the number of threads. Batches run over the ends of
    epochs, so a corpus of fewer windows than a batch works. A seed outside 0 .. 2^32 - 1 is a ValueError.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"config.seed={seed} must lie in 0 .. 2**32 - 1")
    # Through `seed`, which hashes it: given to `shuffle` itself, a run's second epoch would be in the order of the
    # first epoch of the run with the next seed.
    order = grain.MapDataset.source(windows).seed(seed).shuffle().repeat()
    rows = range(config.batch_size) if rows is None else rows
    return reading.Batches(_Rows(order, config.batch_size, rows), config.num_threads, config.timeout_seconds)


class _Rows(Sequence):
    """Batch i of a sequence of windows, or some rows of it."""

    def __init__(self, order, batch_size, rows):
        self._order, self._batch_size, self._rows = order, batch_size, rows

    def __len__(self):
        return len(self._order) // self._batch_size

    def __getitem__(self, i):
        return _stack([self._order[i * self._batch_size + row] for row in self._rows])


def validation_batches(
    windows: packing.Windows, batch_size: int, max_windows: int | None = None, rows: Sequence[int] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Returns an iterator over batches `[B, T]` of the windows in order, the last one filled up with padding.

    Of more than max_windows windows, that many are taken at even distances, so that a quick estimate sees the whole
    range of documents. A batch_size or max_windows below 1 is a ValueError.

    Args:
        rows: those to read of each batch, where other processes read the others; None for all.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if max_windows is not None and max_windows < 1:
        raise ValueError(f"max_windows={max_windows} must be at least 1, or None for all windows")
    num_windows = min(len(windows), max_windows or len(windows))
    indices = [position * len(windows) // num_windows for position in range(num_windows)]
    rows = range(batch_size) if rows is None else rows
    starts = range(0, num_windows, batch_size)
    return (_padded(windows, [indices[i + row] if i + row < num_windows else None for row in rows]) for i in starts)


def _padded(windows, indices):
    return _stack([windows.padding() if index is None else windows[index] for index in indices])


def _stack(rows):
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
