"""From the config's data section to batches: the corpus, the endless training set, one pass over validation."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mixkabrn_jax.data import cache, reading, tokenizers
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.mixture import Mixture, Shuffled
from mixkabrn_jax.data.packing import Windows
from mixkabrn_jax.data.splitting import Split
from mixkabrn_jax.data.template import TEMPLATES


class Corpus(NamedTuple):
    """A tokenizer and the windows of the two parts of a source, or of several."""

    tokenizer: tokenizers.Tokenizer
    train: Windows | Mixture
    validation: Windows | Mixture

    def fingerprints(self) -> dict[str, str]:
        """Returns what identifies each part: the same for the same data only."""
        return {"train": self.train.fingerprint(), "validation": self.validation.fingerprint()}


def load(config: DataConfig, tokenizer: tokenizers.Tokenizer | None = None) -> Corpus:
    """The source in tokens, read from the cache of such; what is not there yet is read, split and encoded now.

    A run that goes on brings the tokenizer it was saved with; without one it is made here (`cache.tokenizer`). A
    tokenizer of another kind than the config's is a ValueError; so is what `sources` and `tokenizers` find wrong with
    the data, and a training part that does not fill one window. `cache.CacheError` where tokens cannot be kept.
    """
    splits = [Split(component) for _, component in config.components]
    if tokenizer is None:
        tokenizer = cache.tokenizer(config, splits)
    else:
        tokenizers.check(tokenizer, config)
    tokenizer.template = TEMPLATES.get(config.template)
    streams = [cache.load(split, tokenizer) for split in splits]
    train = [Windows(each.train, config.sequence_length, config.loss_on) for each in streams]
    validation = [Windows(each.validation, config.sequence_length, config.loss_on) for each in streams]
    for (_, component), windows in zip(config.components, train, strict=True):
        if windows.num_targets < config.sequence_length:
            raise ValueError(
                f"config.data.path={component.path!r} has {windows.num_targets:,} tokens for training, which do not "
                f"fill one window of config.data.sequence_length={config.sequence_length}: give more text, or set a "
                "shorter window"
            )
    if not config.mixture:
        return Corpus(tokenizer, train[0], validation[0])
    names = [component.path or component.source for _, component in config.components]
    shares = [share for share, _ in config.components]
    return Corpus(tokenizer, Mixture(train, names, shares), Mixture(validation, names, shares))


def vocab_size(config: DataConfig) -> int:
    """Tokens of the tokenizer that `load` would make, of a "bpe" at most; reads the data where others depend on it."""
    if config.tokenizer == "bpe":  # one of a small text has fewer, which only its training tells
        return config.vocab_size
    return cache.tokenizer(config, [Split(component) for _, component in config.components]).vocab_size


def train_batches(
    windows: Windows | Mixture, config: DataConfig, seed: int, rows: Sequence[int] | None = None
) -> reading.Batches:
    """Returns endless batches of shuffled windows, arrays `[B, T]` under the keys of a window.

    Args:
        rows: those to read of each batch, where other processes read the others; None for all.

    Each epoch is a permutation of its own, computed from the seed and the position, so batch i is a function of the
    seed and i: the iterator's state is the one integer i, whatever the number of threads. Batches run over the ends of
    epochs, so a corpus of fewer windows than a batch works. Each source of a mixture has epochs of its own. A seed
    outside 0 .. 2^32 - 1 is a ValueError.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"config.seed={seed} must lie in 0 .. 2**32 - 1")
    order = windows.order(seed) if isinstance(windows, Mixture) else Shuffled(windows, seed)
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
    windows: Windows | Mixture, batch_size: int, max_windows: int | None = None, rows: Sequence[int] | None = None
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
