"""Tokens on disk: a corpus is encoded once, and every later run reads it from there, window by window.

    <cache>/<key>/train-00000.tokens, ..., validation-00000.tokens, ..., manifest.json
    <cache>/tokenizer-<key>.json

A key is a hash of all that the contents depend on: the files' names, sizes and times of last change, how they are read
and told apart into training and validation, and the tokenizer. So nothing in a cache is ever out of date; what is not
used any more can be deleted, as can all of it, at any time.
"""

import atexit
import errno
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixkabrn_jax.data import blocks, sources, stream, tokenizers
from mixkabrn_jax.data.blocks import BlockFile
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.filling import MANIFEST, Filling, atomic, is_intact, read_json
from mixkabrn_jax.data.progress import Progress
from mixkabrn_jax.data.splitting import Split
from mixkabrn_jax.data.stream import TokenStream
from mixkabrn_jax.locks import try_lock

_log = logging.getLogger(__name__)
_TRAINED = ("characters", "bpe")
"""Tokenizers that are made from documents."""


class CacheError(OSError):
    """Tokens cannot be kept where they are to be; the message says where, why, and what would help."""


class Streams(NamedTuple):
    """A source in tokens."""

    train: TokenStream
    validation: TokenStream


def load(split: Split, tokenizer: tokenizers.Tokenizer) -> Streams:
    """The tokens of a source, encoded now where they are not yet: other processes that come here share the work.

    What its reading left out and its licence are logged, each time.

    Raises: CacheError; what reading the source raises.
    """
    home = _Home.of(split.config)
    key = _tokens_key(split, tokenizer)
    manifest = _manifest(home.path / key)
    if manifest is None:
        home = home.to_write()
        folder = home.path / key
        if _manifest(folder) is None:
            _fill(folder, split, tokenizer)
        manifest = _manifest(folder)
        if manifest is None:
            raise CacheError(f"the tokens in {folder} are gone as soon as they are written: is it being cleared?")
    if legal := sources.FAMILIES[split.config.family].legal:
        # A warning for the level alone: Python shows no lower one to those who have not set logging up.
        _log.warning("%s: %s", _where(split.config), legal, extra={"is_information": True})
    for line in manifest["about"]["notes"]:
        _log.warning("%s", line)
    return Streams(*(_stream(home.path / key, manifest, name, tokenizer) for name in Streams._fields))


def fingerprint(split: Split, part: str, tokenizer: tokenizers.Tokenizer) -> str:
    """That of a stream of `load`, of which nothing is kept: from the cache where it is there, else by one pass.

    Args:
        part: "train" or "validation".
    Raises: what reading the source raises.
    """
    folder = _Home.of(split.config).path / _tokens_key(split, tokenizer)
    if (manifest := _manifest(folder)) is not None:
        return _stream(folder, manifest, part, tokenizer).fingerprint()
    found, num_tokens, continues = hashlib.sha256(), 0, False
    progress = Progress("comparing", split.num_bytes)
    for name, document in split:
        progress.add(len(document.content))
        if name == part:
            tokens = blocks.encode([document], tokenizer, is_continued=continues).tokens
            found.update(tokens.astype("<i4"))
            num_tokens, continues = num_tokens + len(tokens), document.continues
    progress.close()
    found.update(np.array([tokenizer.separator], "<i4"))
    return stream.fingerprint(num_tokens, found.hexdigest())


def fill(split: Split, tokenizer: tokenizers.Tokenizer, shard: int = 0, num_shards: int = 1) -> Path | None:
    """Encodes the blocks of a source whose number leaves the rest `shard`: one task of an array of such.

    Returns: the folder of the tokens once all blocks are there, which the last task sees; None before.
    Raises: CacheError; what reading the source raises.
    """
    home = _Home.of(split.config)
    folder = home.path / _tokens_key(split, tokenizer)
    if _manifest(folder, is_thorough=True) is not None:
        return folder
    if home.to_write() is not home:
        raise CacheError(f"{home.path} cannot be written: name a folder by config.data.cache that all processes share")
    return folder if _fill(folder, split, tokenizer, shard, num_shards) else None


def tokenizer(config: DataConfig, splits: Sequence[Split]) -> tokenizers.Tokenizer:
    """The tokenizer of a config, from its cache where it was made from the same documents before.

    A "bpe" learns from the training documents. "characters" is a list without any statistics: of all documents, so that
    those held out can be written in it, as nanoGPT does.
    """

    def documents() -> Iterable[Document]:
        for split in splits:
            yield from split.training() if config.tokenizer == "bpe" else (document for _, document in split)

    if config.tokenizer not in _TRAINED:
        return tokenizers.make(config, documents)
    about = {"tokenizer": config.tokenizer, "data": [split.identity() for split in splits]}
    if config.tokenizer == "bpe":
        about |= {"vocab_size": config.vocab_size, "tokenizers": importlib.metadata.version("tokenizers")}
    home, name = _Home.of(config), f"tokenizer-{_key(about)}.json"
    if (kept := read_json(home.path / name)) is not None:
        return tokenizers.from_json(kept)
    path = home.to_write().path / name
    with path.with_suffix(".lock").open("ab") as file:
        while not try_lock(file):  # another process makes the same one
            time.sleep(0.1)
        if (kept := read_json(path)) is not None:
            return tokenizers.from_json(kept)
        made = tokenizers.make(config, documents)
        with _sentences(path.parent), atomic(path) as out:
            out.write(json.dumps(made.to_json()).encode())
    return made


class _Home(NamedTuple):
    """Where caches lie: `config.data.cache`, or the user's folder for such things."""

    path: Path
    is_default: bool

    @classmethod
    def of(cls, config):
        return cls(Path(config.cache).expanduser(), False) if config.cache else cls(user_folder(), True)

    def to_write(self):
        """This one, once it is there; for that of the user, where it cannot be written, one that lasts as long as this
        process.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
            return self
        except OSError as error:
            if error.errno == errno.ENOSPC or not self.is_default:
                raise CacheError(_message(self.path, error.strerror)) from error
            return _temporary_home(f"{self.path} cannot be written ({error.strerror})")


@functools.cache
def _temporary_home(reason):
    _log.warning(
        "%s: tokens are kept for this process alone, and made anew by the next; config.data.cache names another folder",
        reason,
    )
    path = Path(tempfile.mkdtemp(prefix="mixkabrn_jax-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return _Home(path, True)


def user_folder() -> Path:
    """The user's folder of caches, `$XDG_CACHE_HOME` or `~/.cache`, and in it ours."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mixkabrn_jax", "tokens")


def _fill(folder, split, tokenizer, shard=0, num_shards=1):
    """Returns whether all blocks are there."""
    before = split.identity()
    with _sentences(folder):
        folder.mkdir(exist_ok=True)
        filling = Filling(folder, split, tokenizer, shard, num_shards)
        return filling.run(lambda: _about(split, tokenizer, before))


def _about(split, tokenizer, identity):
    """What the manifest says beside its counts, once all documents were read."""
    config, skipped = split.config, split.skipped
    if split.identity() != identity:
        raise ValueError(f"config.data.path={config.path!r} changed while it was read: start again")
    where = _where(config)
    notes = [f"{where}: {note}" for note in sources.notes(config)]
    if skipped.counts:
        notes.append(f"{where}: left out {skipped}")
    if skipped.replaced:
        name, count = next(iter(skipped.replaced.items()))
        total = skipped.replaced.total()
        notes.append(f"{where}: {total} places were no characters and are U+FFFD now ({count} of them in {name})")
    return {"data": identity, "tokenizer": tokenizer.fingerprint(), "notes": notes}


def _where(config):
    return f"config.data.path={config.path!r}" if config.path else f"config.data.source={config.family!r}"


@contextmanager
def _sentences(folder):
    """Around the writing of a cache: an OSError of a file in it becomes a CacheError with what would help."""
    try:
        yield
    except OSError as error:
        if error.filename is None or folder not in (path := Path(os.fsdecode(error.filename)), *path.parents):
            raise  # of what is read
        raise CacheError(_message(folder, error.strerror)) from error


def _message(folder, reason):
    return (
        f"config.data.cache: tokens cannot be kept in {str(folder)!r} ({reason}): free some room there, or name "
        "another folder"
    )


def _manifest(folder, *, is_thorough=False):
    """What is in a cache; None where it is not complete. Damage is removed, to be made anew, and logged.

    A block whose file was touched since it was checked is read and checked again.

    Args:
        is_thorough: every block is.
    """
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        return None
    dtype = np.dtype(manifest["dtype"])
    every = [about for split in manifest["splits"].values() for about in split["blocks"]]
    damaged = [about["name"] for about in every if not _is_intact(folder, about, dtype, is_thorough)]
    if not damaged:
        return manifest
    _log.warning("the token cache %s is damaged (%s): those blocks are made anew", folder, ", ".join(damaged[:3]))
    with _sentences(folder):
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in damaged:
            (folder / f"{name}.json").unlink(missing_ok=True)
    return None


def _is_intact(folder, about, dtype, is_thorough):
    path = folder / f"{about['name']}.tokens"
    is_untouched = path.exists() and path.stat().st_mtime_ns == about["mtime_ns"]
    return is_intact(path, about, dtype, is_trusted=is_untouched and not is_thorough)


def _stream(folder, manifest, name, tokenizer):
    split, dtype = manifest["splits"][name], np.dtype(manifest["dtype"])
    files = [BlockFile(folder / f"{about['name']}.tokens", about, dtype) for about in split["blocks"]]
    return TokenStream(files, tokenizer, split["sha256"])


def _tokens_key(split, tokenizer):
    return _key({"data": split.identity(), "tokenizer": tokenizer.fingerprint()})


def _key(about):
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
