"""Tokens of consecutive documents in blocks, in memory or on disk, which `stream` reads as one.

A block on disk is one file: first two tables of int32, then its tokens, all in the order of bytes of x86 and ARM. The
rows of the index `[2, documents]` are, of each document that begins in the block, the position of its separator and its
domain as a number among those of the block; those of the prompts `[2, prompts]` are where each begins and ends.
"""

import errno
import functools
import hashlib
import os
import threading
from collections.abc import Sequence
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
    """int32 `[2, documents]` as in a file."""
    prompts: np.ndarray
    """int32 `[2, prompts]` as in a file."""
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
    pieces, index, prompts, position = [], [], [], 0
    domains: dict[str, list[int]] = {}
    numbers: dict[str, int] = {}
    for document, texts in zip(documents, _tokens(documents, tokenizer), strict=True):
        counts = domains.setdefault(document.domain, [0, 0, 0])
        number = numbers.setdefault(document.domain, len(numbers))
        if not is_continued:
            index.append((position, number))
            pieces.append(separator)
            position += 1
            counts[0] += 1
        counts[1] += len(document.content)
        counts[2] += sum(map(len, texts))
        for i, text in enumerate(texts):
            if document.prompt_bytes and i % 2 == 0:
                prompts.append((position, position + len(text)))
            pieces.append(text)
            position += len(text)
        is_continued = document.continues
    tokens = np.concatenate([*pieces, separator[:0]], dtype=separator.dtype, casting="unsafe")
    return Block(tokens, _table(index), _table(prompts), domains)


def _table(rows):
    return np.ascontiguousarray(np.array(rows, np.int32).reshape(-1, 2).T)


def _tokens(documents, tokenizer):
    """The texts of each document in tokens, each encoded for itself."""
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
            yield [next(tokens) for _ in document.texts]


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
    for part in (block.index.astype("<i4"), block.prompts.astype("<i4"), block.tokens):
        found.update(part)
        file.write(part)
    return found.hexdigest()


def table_bytes(about: dict) -> int:
    """What stands before the tokens in the file of a block, of which the manifest says this."""
    return 8 * (about["documents"] + about["prompts"])


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
        self.num_tokens, self.num_documents, self._num_prompts = about["tokens"], about["documents"], about["prompts"]
        self._start = table_bytes(about)
        self.domains: dict[str, list[int]] = about["domains"]

    @property
    def index(self) -> tuple["_Column", ...]:
        """As of `Block`."""
        return tuple(_Column(self._file, 4 * row * self.num_documents, self.num_documents) for row in range(2))

    @property
    def prompts(self) -> tuple["_Column", ...]:
        """As of `Block`."""
        first, number = 8 * self.num_documents, self._num_prompts
        return tuple(_Column(self._file, first + 4 * row * number, number) for row in range(2))

    def read(self, first: int, last: int) -> np.ndarray:
        """As of `Block`."""
        size = self._dtype.itemsize
        return np.frombuffer(_read(self._file, self._start + size * first, size * (last - first)), self._dtype)


class _Column(Sequence):
    """A row of a table on disk, which `bisect` can look into."""

    def __init__(self, file, start, length):
        self._file, self._start, self._length = file, start, length

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
