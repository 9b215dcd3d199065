"""Blocks of tokens read as one stream `[SEP] a [SEP] b [SEP]`, of which no more is in memory than what is asked for."""

import bisect
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from mixkabrn_jax.data.blocks import Block, BlockFile
from mixkabrn_jax.data.tokenizers import Tokenizer


class TokenStream:
    """Blocks as one stream of tokens with random access; behind the last document stands a separator too."""

    def __init__(self, blocks: Sequence[Block | BlockFile], tokenizer: Tokenizer, sha256: str = ""):
        """
        Args:
            sha256: of all tokens as int32; "" computes it when it is asked for.
        """
        self._blocks = blocks
        self._starts = np.cumsum([0, *(block.num_tokens for block in blocks)]).tolist()
        self._first_documents = np.cumsum([0, *(block.num_documents for block in blocks)]).tolist()
        self._sha256 = sha256
        self.separator, self.num_bytes_W = tokenizer.separator, tokenizer.num_bytes_W

    def __len__(self) -> int:
        return self._starts[-1] + 1

    @property
    def num_documents(self) -> int:
        """Of all blocks."""
        return self._first_documents[-1]

    @property
    def domains(self) -> dict[str, list[int]]:
        """Documents, bytes, and tokens without separators, by domain."""
        return add_counts(block.domains for block in self._blocks)

    def fingerprint(self) -> str:
        """The number of targets and the SHA-256 of the tokens as int32: equal for equal streams only."""
        if not self._sha256:
            self._sha256 = sha256(self._blocks, self.separator)
        return fingerprint(len(self) - 1, self._sha256)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop`, those behind the end left out: int32 `[T]`, the caller's own."""
        pieces = [block.read(first, last) for block, first, last in self._slices(start, stop)]
        if start < len(self) <= stop:
            pieces.append(np.array([self.separator]))
        return np.concatenate([np.zeros(0, np.int32), *pieces], dtype=np.int32, casting="unsafe")

    def is_prompt(self, start: int, stop: int) -> np.ndarray:
        """Which of the tokens of `read` stand in a prompt: bool `[T]`."""
        found = np.zeros(max(min(stop, len(self)) - start, 0), bool)
        offset = 0
        for block, first, last in self._slices(start, stop):
            begins, ends = block.prompts  # a prompt does not leave its block
            for i in range(bisect.bisect_right(ends, first), bisect.bisect_left(begins, last)):
                found[offset + max(begins[i] - first, 0) : offset + min(ends[i], last) - first] = True
            offset += last - first
        return found

    def document(self, position: int) -> tuple[int, str]:
        """Which document a position lies in, counted from 0, and its domain."""
        number = bisect.bisect_right(self._starts, position, hi=len(self._blocks)) - 1
        found = -1
        while found < 0:  # in a block that one document fills, it is one before it
            block = self._blocks[number]
            found = bisect.bisect_right(block.index[0], position - self._starts[number]) - 1
            number -= 1
        return self._first_documents[number + 1] + found, list(block.domains)[int(block.index[1][found])]

    def _slices(self, start, stop):
        """(block, first, last) for the parts of it from start to stop."""
        number = bisect.bisect_right(self._starts, start) - 1
        while number < len(self._blocks) and self._starts[number] < stop:
            block = self._blocks[number]
            last = min(stop - self._starts[number], block.num_tokens)
            yield block, max(start - self._starts[number], 0), last
            number += 1


def fingerprint(num_targets: int, sha256: str) -> str:
    """As of a stream."""
    return f"{num_targets} targets, SHA-256 {sha256}"


def sha256(blocks: Iterable[Block | BlockFile], separator: int) -> str:
    """Of the stream as int32, whatever blocks it is in."""
    found = hashlib.sha256()
    for block in blocks:
        for start in range(0, block.num_tokens, 1 << 20):
            last = min(start + (1 << 20), block.num_tokens)
            found.update(block.read(start, last).astype("<i4"))
    found.update(np.array([separator], "<i4"))
    return found.hexdigest()


def add_counts(counts: Iterable[dict[str, list[int]]]) -> dict[str, list[int]]:
    """The sums of documents, bytes and tokens by domain."""
    total: dict[str, list[int]] = {}
    for each in counts:
        for domain, numbers in each.items():
            before = total.get(domain, [0, 0, 0])
            total[domain] = [a + b for a, b in zip(before, numbers, strict=True)]
    return total
