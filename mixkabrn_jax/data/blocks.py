"""Tokens of consecutive documents in blocks, in memory or on disk, read as one stream `[SEP] a [SEP] b [SEP]`.

A block on disk is one file: first its index, int32 `[3, documents]`, then its tokens, both in the order of bytes of
x86 and ARM. The rows of the index are, of each document that begins in the block, the position of its separator, the
tokens of its prompt, and its domain as a number among those of the block.
"""

import bisect
import errno
import functools
import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.tokenizers import Tokenizer

BLOCK_BYTES = 8 << 20
"""About so much text makes a block: documents are added until it has as much."""
_BATCH_BYTES = 2 << 20
"""Encoded at once: a tokenizer's own records of its tokens are many times as large as they."""


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest that holds the tokens of a vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass(frozen=True)
class Block:
    """Encoded documents in memory."""

    tokens: np.ndarray
    """`[T]`: each document behind its separator; of one that began in an earlier block, what is left of it."""
    index: np.ndarray
    """int32 `[3, documents]` as in a file."""
    domains: dict[str, list[int]]
    """By the number that the index has for it, its place here: documents that begin here, bytes, tokens without
    separators."""

    @property
    def num_tokens(self) -> int:
        """With separators."""
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        """Those that begin here."""
        return self.index.shape[1]

    def read(self, first: int, last: int) -> np.ndarray:
        """Some of the tokens, `[T]`."""
        return self.tokens[first:last]


def encode(documents: Sequence[Document], tokenizer: Tokenizer, *, is_continued: bool = False) -> Block:
    """The block of some documents.

    Args:
        is_continued: whether the first one goes on with a document of an earlier block.
    """
    separator = np.array([tokenizer.separator], token_dtype(tokenizer.vocab_size))
    pieces, index, position = [], [], 0
    domains: dict[str, list[int]] = {}
    numbers: dict[str, int] = {}
    for document, (prompt, target) in zip(documents, _tokens(documents, tokenizer), strict=True):
        counts = domains.setdefault(document.domain, [0, 0, 0])
        number = numbers.setdefault(document.domain, len(numbers))
        if not is_continued:
            index.append((position, len(prompt), number))
            pieces.append(separator)
            position += 1
            counts[0] += 1
        pieces += [prompt, target]
        position += len(prompt) + len(target)
        counts[1] += len(document.content)
        counts[2] += len(prompt) + len(target)
        is_continued = document.continues
    columns = np.array(index, np.int32).reshape(-1, 3).T
    tokens = np.concatenate([*pieces, separator[:0]], dtype=separator.dtype, casting="unsafe")
    return Block(tokens, np.ascontiguousarray(columns), domains)


def _tokens(documents, tokenizer):
    """(prompt, target) of each document; a prompt and its target are encoded apart."""
    nothing = np.zeros(0, np.int32)
    for batch in _batches(documents):
        texts = [text for document in batch for text in document.texts]
        try:
            encoded = tokenizer.encode_batch(texts)
        except ValueError:
            for document in batch:
                tokenizer.encode(document.content, document.id)  # says which document it is
            raise
        tokens = iter(encoded)
        for document in batch:
            yield (next(tokens), next(tokens)) if document.prompt_bytes else (nothing, next(tokens))


def _batches(documents):
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.content)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def write(block: Block, file) -> str:
    """Writes the file of a block. Returns its SHA-256."""
    found = hashlib.sha256()
    for part in (block.index.astype("<i4"), block.tokens):
        found.update(part)
        file.write(part)
    return found.hexdigest()


class BlockFile:
    """A block on disk, of which no more is read than what is asked for, and nothing is kept.

    Not mapped into memory: with large pages of the page cache a process then seems as large as all of the file; each
    map holds a descriptor, of which there are some thousands at most; and a file that is cut short meanwhile would end
    the process with SIGBUS, where here it is an error.
    """

    def __init__(self, path: Path, about: dict, dtype: np.dtype):
        """
        Args:
            about: what the manifest says of it.
        """
        self._file, self._dtype = (path, about["mtime_ns"]), dtype  # one that was made anew is another one
        self.num_tokens, self.num_documents = about["tokens"], about["documents"]
        self.domains: dict[str, list[int]] = about["domains"]

    @property
    def index(self) -> tuple["_Column", ...]:
        """As of `Block`."""
        return tuple(_Column(self._file, row, self.num_documents) for row in range(3))

    def read(self, first: int, last: int) -> np.ndarray:
        """As of `Block`."""
        start, size = 12 * self.num_documents, self._dtype.itemsize
        return np.frombuffer(_read(self._file, start + size * first, size * (last - first)), self._dtype)


class _Column(Sequence):
    """A row of an index on disk, which `bisect` can look into."""

    def __init__(self, file, row, length):
        self._file, self._start, self._length = file, 4 * row * length, length

    def __len__(self):
        return self._length

    def __getitem__(self, i):
        return int.from_bytes(_read(self._file, self._start + 4 * i, 4), "little")


def _read(file, start, size):
    """Bytes of a file. Raises: OSError where it has no such bytes any more."""
    content = _open(*file).read(start, size)
    if len(content) != size:
        raise OSError(errno.EIO, "the token cache is cut short: start again, and it is made anew", str(file[0]))
    return content


class _File:
    """An open file that several threads read from at once; it is closed when nobody has it any more."""

    def __init__(self, path):
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def read(self, start, size):
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, start)
        with self._lock:  # on Windows
            os.lseek(self._descriptor, start, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def __del__(self):
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


@functools.lru_cache(maxsize=64)  # some systems allow 256 open files
def _open(path, mtime_ns):
    del mtime_ns
    return _File(path)


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
            starts, prompts, _ = block.index
            # From the document that `first` lies in; a prompt does not leave its block.
            earliest = max(bisect.bisect_right(starts, first) - 1, 0)
            for i in range(earliest, bisect.bisect_left(starts, last)):
                begin = int(starts[i]) + 1
                end = begin + int(prompts[i])
                found[offset + max(begin - first, 0) : offset + max(min(end, last) - first, 0)] = True
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
        return self._first_documents[number + 1] + found, list(block.domains)[int(block.index[2][found])]

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
