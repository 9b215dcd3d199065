"""A stream of tokens seen as windows of a fixed length.

The stream is `[SEP] a1 .. an [SEP] b1 .. bm [SEP]`: the separator is a document's first input and its last target, so
each position but the last has a target, and a document's own first and last token are learnt like any other.
"""

import operator
from collections.abc import Iterable

import numpy as np

from mixkabrn_jax.data import blocks
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.stream import TokenStream
from mixkabrn_jax.data.tokenizers import Tokenizer


def pack(documents: Iterable[Document], tokenizer: Tokenizer, sequence_length: int, loss_on: str = "all") -> "Windows":
    """The windows of some documents, held in memory; a ValueError if there are none."""
    block = blocks.encode(list(documents), tokenizer)
    return Windows(TokenStream([block], tokenizer), sequence_length, loss_on)


class Windows:
    """Window i reads `stream[i*T : (i+1)*T]` and predicts the same one further on: each target is in one window.

    A sequence with random access: a window is read from the stream when it is asked for.
    """

    def __init__(self, stream: TokenStream, sequence_length: int, loss_on: str = "all"):
        """
        Args:
            sequence_length: T, at least 1.
            loss_on: "all" targets count, or "targets": those that stand in no prompt.
        """
        if sequence_length < 1:
            raise ValueError(f"config.data.sequence_length={sequence_length} must be at least 1")
        if not stream.num_documents:
            raise ValueError("there are no documents to pack: give at least one")
        self.stream, self.sequence_length, self._loss_on = stream, sequence_length, loss_on

    @property
    def num_targets(self) -> int:
        """How many targets all windows have together, prompts too: the tokens and one separator per document."""
        return len(self.stream) - 1

    def fingerprint(self) -> str:
        """The number of targets and the SHA-256 of the token stream: equal for equal data only."""
        return self.stream.fingerprint()

    def __len__(self) -> int:
        return -(-self.num_targets // self.sequence_length)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The window as arrays `[T]`; beyond the ends an IndexError.

        tokens, targets: int32.
        segment_ids: int32, 1, 2, ... for the documents of this window in order, 0 on padding.
        loss_mask: float32, 1 where the target counts, 0 on padding and, with loss_on="targets", in prompts.
        num_bytes: int32, the UTF-8 bytes of each target that counts; 0 for separators.
        """
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} is not among the {len(self)} windows")
        return self._window(index)

    def padding(self) -> dict[str, np.ndarray]:
        """A window of padding alone, to fill a batch with."""
        return self._window(len(self))

    def _window(self, index: int) -> dict[str, np.ndarray]:
        length = self.sequence_length
        start = index * length
        read = self.stream.read(start, start + length + 1)
        num_targets = max(len(read) - 1, 0)
        # Of the last window the end, of a window further on everything, is padding.
        stream = np.full(length + 1, self.stream.separator, np.int32)
        stream[: len(read)] = read
        tokens, targets = stream[:-1], stream[1:]
        is_target = np.arange(length) < num_targets
        is_start = tokens == self.stream.separator
        # The first token begins document 1 if it is a separator, and goes on with it if not.
        segment_ids = np.cumsum(is_start, dtype=np.int32) + np.int32(not is_start[0])
        counts = is_target
        if self._loss_on == "targets":
            counts = is_target.copy()
            counts[:num_targets] &= ~self.stream.is_prompt(start + 1, start + 1 + num_targets)
        return {
            "tokens": tokens,
            "targets": targets,
            "segment_ids": segment_ids * is_target,
            "loss_mask": counts.astype(np.float32),
            "num_bytes": self.stream.num_bytes_W[targets] * counts,
        }
