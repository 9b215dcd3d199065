"""Documents into blocks of tokens on disk, by any number of processes at once, stopped and started at any time.

Every process reads the whole stream of documents, which costs little beside encoding it, and makes the blocks that are
neither there nor being made by another. A block is `train-00012.tokens` (`data.blocks`) and, written after it,
`train-00012.json` with its counts and its SHA-256; a lock on `train-00012.lock` says that a process is making it.
When all are there, one process checks them and writes `manifest.json`.
"""

import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mixkabrn_jax.data import blocks, tokenizers, workers
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.progress import Progress
from mixkabrn_jax.data.splitting import Split
from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.locks import try_lock

MANIFEST = "manifest.json"
_POLL_SECONDS = 0.2
_FEW_BLOCKS = 3
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Of file systems that have none: then two processes may make the same block, and the later one replaces it."""


class Filling:
    """One process at the work of filling a folder."""

    def __init__(self, folder: Path, split: Split, tokenizer: Tokenizer, shard: int = 0, num_shards: int = 1):
        """
        Args:
            shard, num_shards: of the blocks, only those are made here whose number leaves this rest.
        """
        self._folder, self._split, self._tokenizer = folder, split, tokenizer
        self._shard, self._num_shards = shard, num_shards
        self._dtype = blocks.token_dtype(tokenizer.vocab_size)
        self._block_bytes = blocks.BLOCK_BYTES
        self._own: set[str] = set()

    def run(self, about: Callable[[], dict]) -> bool:
        """Makes what is missing, and waits for what others are making.

        Args:
            about: what the manifest says beside counts and hashes; called when all documents were read.
        Returns: whether all blocks are there; with shards, the others may still have theirs to make.
        Raises: OSError where a block cannot be written or kept; what reading the documents raises.
        """
        for _ in range(3):
            with self._helpers():
                names = self._make_blocks()
                missing = self._missing(names)
                if missing and self._num_shards > 1:
                    return False
                while missing and not any(self._is_nobodys(name) for name in missing):
                    time.sleep(_POLL_SECONDS)
                    missing = self._missing(names)
            if not missing and self._finish(names, about):
                return True
        raise OSError(errno.EIO, "what is written does not stay as it was", str(self._folder))

    @contextmanager
    def _helpers(self):
        """Other processes for a tokenizer that takes longer than reading does, where there is much to do.

        Of several processes that come here, the first one has them.
        """
        is_quick = self._tokenizer.name in tokenizers.NAMES
        num_blocks = self._split.num_bytes // self._block_bytes
        if self._num_shards > 1 or is_quick or num_blocks < _FEW_BLOCKS or (lock := self._lock("helpers")) is None:
            yield
            return
        with lock, workers.started(self._make_blocks, min(workers.num_cores(), workers.MAX_PROCESSES) - 1):
            yield

    def _make_blocks(self):
        """One pass over the documents. Returns the names of all blocks by split."""
        writers = {name: _Writer(name, self._take, self._write, self._block_bytes) for name in ("train", "validation")}
        progress = Progress("encoding", self._split.num_bytes)
        try:
            for name, document in self._split:
                writers[name].add(document)
                progress.add(len(document.content))
            for writer in writers.values():
                writer.end_block()
        finally:
            for writer in writers.values():
                writer.release()
            progress.close()
        return {name: writer.names for name, writer in writers.items()}

    def _take(self, name, number):
        """The locked file of a block that this process is to make; None of one that it is not."""
        if number % self._num_shards != self._shard or self._is_made(name):
            return None
        file = self._lock(name)
        if file is not None and self._is_made(name):  # by whom the lock was just taken from
            file.close()
            return None
        return file

    def _lock(self, name):
        path = self._folder / f"{name}.lock"
        file = path.open("ab")
        try:
            is_mine = try_lock(file)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            is_mine = True
        if is_mine:
            return file
        file.close()
        return None

    def _is_made(self, name):
        return (self._folder / f"{name}.json").exists()

    def _is_nobodys(self, name):
        file = self._lock(name)
        if file is None:
            return False
        file.close()
        return not self._is_made(name)

    def _missing(self, names):
        return [name for group in names.values() for name in group if not self._is_made(name)]

    def _write(self, name, documents, *, is_continued):
        block = blocks.encode(documents, self._tokenizer, is_continued=is_continued)
        with atomic(self._folder / f"{name}.tokens") as file:
            found = blocks.write(block, file)
        about = {
            "name": name,
            "tokens": block.num_tokens,
            "documents": block.num_documents,
            "prompts": block.prompts.shape[1],
            "domains": block.domains,
            "sha256": found,
        }
        with atomic(self._folder / f"{name}.json") as file:
            file.write(json.dumps(about).encode())
        self._own.add(name)

    def _finish(self, names, about):
        """Checks all blocks and writes the manifest. Returns whether it is there: False after damage, which is removed.

        Another process that is at it is waited for.
        """
        while (file := self._lock("manifest")) is None:
            time.sleep(_POLL_SECONDS)
        with file:
            if read_json(self._folder / MANIFEST) is not None:
                return True
            splits = {split: self._check(group) for split, group in names.items()}
            if self._missing(names):
                return False
            manifest = {"about": about(), "dtype": self._dtype.str, "splits": splits}
            with atomic(self._folder / MANIFEST) as out:
                out.write(json.dumps(manifest, indent=1).encode())
            for left in [*self._folder.glob("*.lock"), *self._folder.glob("*.partial")]:
                left.unlink(missing_ok=True)
        return True

    def _check(self, names):
        """What the manifest says of a split; blocks that are damaged are removed.

        What this process has just written is not hashed again: it would come from the system's memory, not the disk.
        """
        stream, found = hashlib.sha256(), []
        abouts = {name: read_json(self._folder / f"{name}.json") for name in names}
        progress = Progress(
            "checking", self._dtype.itemsize * sum(about["tokens"] for about in abouts.values() if about)
        )
        for name, about in abouts.items():
            path, is_own = self._folder / f"{name}.tokens", name in self._own
            if about is None or not is_intact(path, about, self._dtype, stream, is_trusted=is_own):
                self._own.discard(name)
                (self._folder / f"{name}.json").unlink(missing_ok=True)
                continue
            progress.add(self._dtype.itemsize * about["tokens"])
            found.append(about | {"mtime_ns": path.stat().st_mtime_ns})
        progress.close()
        stream.update(np.array([self._tokenizer.separator], "<i4"))
        return {"sha256": stream.hexdigest(), "blocks": found}


class _Writer:
    """Gathers the documents of one split into blocks."""

    def __init__(self, split, take, write, block_bytes):
        self._split, self._take, self._write, self._block_bytes = split, take, write, block_bytes
        self._documents, self._size, self._lock = [], 0, None
        self._is_open = self._is_continued = self._continues = False
        self.names: list[str] = []

    def add(self, document: Document) -> None:
        if not self._is_open:
            self.names.append(f"{self._split}-{len(self.names):05d}")
            self._lock = self._take(self.names[-1], len(self.names) - 1)
            self._is_open, self._is_continued = True, self._continues
        if self._lock is not None:  # else another's block: it is only counted
            self._documents.append(document)
        self._size += len(document.content)
        self._continues = document.continues
        if self._size >= self._block_bytes:
            self.end_block()

    def end_block(self) -> None:
        if self._is_open and self._lock is not None:
            self._write(self.names[-1], self._documents, is_continued=self._is_continued)
        self.release()
        self._documents, self._size, self._is_open = [], 0, False

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


@contextmanager
def atomic(path: Path) -> Iterator:
    """A file to write to that is there whole or not at all, and that a power cut leaves so; several may write it.

    Raises: OSError naming the file.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:  # of a full disk: it names no file
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_json(path: Path) -> dict | None:
    """What `atomic` wrote; None for a file that is not there or no JSON."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_intact(path: Path, about: dict, dtype: np.dtype, stream=None, *, is_trusted: bool = False) -> bool:
    """Whether a block's file is as it was written.

    Args:
        about: what the manifest says of it.
        stream: a SHA-256 that takes the tokens as int32.
        is_trusted: only its size is looked at.
    """
    found = hashlib.sha256()
    start = blocks.table_bytes(about)
    if not path.exists() or path.stat().st_size != start + dtype.itemsize * about["tokens"]:
        return False
    if is_trusted and stream is None:
        return True
    with path.open("rb") as file:
        index = file.read(start)
        if not is_trusted:
            found.update(index)
        while chunk := file.read(4 << 20):
            if not is_trusted:
                found.update(chunk)
            if stream is not None:
                stream.update(np.frombuffer(chunk, dtype).astype("<i4"))
    return is_trusted or found.hexdigest() == about["sha256"]
