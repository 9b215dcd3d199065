"""Documents laid end to end in one stream of tokens, and the stream seen as windows of a fixed length.

The stream is `[SEP] a1 .. an [SEP] b1 .. bm [SEP]`: the separator is a document's first input and its last target, so
each position but the last has a target, and a document's own first and last token are learnt like any other.
"""

import hashlib
import operator
from collections.abc import Iterable

import numpy as np

from mixkabrn_jax.data.sources import Document
from mixkabrn_jax.data.tokenizers import Tokenizer


class Windows:
    """Window i reads `stream[i*T : (i+1)*T]` and predicts the same one further on: each target is in one window.

    A sequence with random access. The stream is held once, as uint16 where the vocabulary allows it, and windows are
    cut from it when asked for.
    """

    def __init__(self, documents: Iterable[Document], tokenizer: Tokenizer, sequence_length: int):
        """Encodes the documents; a ValueError if there are none or sequence_length (T) is not positive."""
        if sequence_length < 1:
            raise ValueError(f"config.data.sequence_length={sequence_length} must be at least 1")
        dtype = np.uint16 if tokenizer.vocab_size < 65536 else np.int32
        separator = np.array([tokenizer.separator], dtype)
        parts = []
        for document in documents:
            parts += [separator, tokenizer.encode(document.content, document.id).astype(dtype)]
        if not parts:
            raise ValueError("there are no documents to pack: give at least one")
        self._stream = np.concatenate([*parts, separator])
        self._separator = tokenizer.separator
        self._num_bytes_W = tokenizer.num_bytes_W
        self.sequence_length = sequence_length

    @property
    def num_targets(self) -> int:
        """How many targets all windows have together: the tokens and one separator per document."""
        return len(self._stream) - 1

    def fingerprint(self) -> str:
        """Returns the number of targets and the SHA-256 of the token stream: equal for equal data only."""
        return f"{self.num_targets} targets, SHA-256 {hashlib.sha256(self._stream.astype('<i4')).hexdigest()}"

    def __len__(self) -> int:
        return -(-self.num_targets // self.sequence_length)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns the window as arrays `[T]`; beyond the ends an IndexError.

        tokens, targets: int32.
        segment_ids: int32, 1, 2, ... for the documents of this window in order, 0 on padding.
        loss_mask: float32, 1 where the target counts, 0 on padding.
        num_bytes: int32, the UTF-8 bytes of each target; 0 for separators and padding.
        """
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} is not among the {len(self)} windows")
        return self._window(index)

    def padding(self) -> dict[str, np.ndarray]:
        """Returns a window of padding alone, to fill a batch with."""
        return self._window(len(self))

    def _window(self, index: int) -> dict[str, np.ndarray]:
        length = self.sequence_length
        start = index * length
        stream = self._stream[start : start + length + 1].astype(np.int32)
        num_targets = max(len(stream) - 1, 0)
        # Of the last window the end, of a window further on everything, is padding.
        stream = np.pad(stream, (0, length + 1 - len(stream)), constant_values=self._separator)
        tokens, targets = stream[:-1], stream[1:]
        is_target = np.arange(length) < num_targets
        is_start = tokens == self._separator
        # The first token begins document 1 if it is a separator, and goes on with it if not.
        segment_ids = np.cumsum(is_start, dtype=np.int32) + np.int32(not is_start[0])
        return {
            "tokens": tokens,
            "targets": targets,
            "segment_ids": segment_ids * is_target,
            "loss_mask": is_target.astype(np.float32),
            "num_bytes": self._num_bytes_W[targets],  # padding is separators, which have none
        }
