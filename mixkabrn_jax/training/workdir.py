"""A run's directory: which config, tokenizer and data it belongs to. No other experiment overwrites anything in it."""

import fcntl
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mixkabrn_jax.data import tokenizers

NOT_PART_OF_THE_EXPERIMENT = frozenset(
    {"data.num_threads", "data.timeout_seconds", "mesh.data", "mesh.expert", "mesh.model", "mesh.context"}
)
"""A run may go on with other values of these: batches and updates do not depend on them (on `mesh` to rounding)."""


_MARK = "started.txt"


def check(workdir: Path, config: Mapping) -> None:
    """Makes sure that the directory holds nothing, or a run of this very config.

    Raises: ValueError naming the fields in which the directory's own config differs, or a `config.json` that cannot
        be read, or a run's files without one; NotADirectoryError for a path that is a file.
    """
    if workdir.exists() and not workdir.is_dir():
        raise NotADirectoryError(f"--workdir={workdir} is a file: a directory is needed")
    if not (workdir / "config.json").exists():
        strays = [name for name in ("metrics.jsonl", "checkpoints") if (workdir / name).exists()]
        if strays:
            raise ValueError(f"--workdir={workdir} has no config.json but holds {strays}: choose another --workdir")
        return
    mine, theirs = flatten(config), flatten(load_config(workdir))
    differing = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
    differing = [key for key in differing if key not in NOT_PART_OF_THE_EXPERIMENT]
    if differing:
        changes = ", ".join(f"config.{key}={mine.get(key)!r} (there: {theirs.get(key)!r})" for key in differing)
        raise ValueError(f"--workdir={workdir} holds a run of another config: {changes}; choose another --workdir")


def claim(workdir: Path, config: Mapping, tokenizer: tokenizers.Tokenizer, data: Mapping[str, str]) -> None:
    """Writes `config.json`, `tokenizer.json` and `data.json` where they are missing; `check` comes first.

    Args:
        data: what identifies each part of the data, as `Corpus.fingerprints`.
    Raises: ValueError when the run here was trained on other data, as after an edit of the file at `config.data.path`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    contents = {
        "config.json": json.dumps(config, indent=2),
        "tokenizer.json": json.dumps(tokenizer.to_json()),
        "data.json": json.dumps(data, indent=2),
    }
    for name, text in contents.items():
        if not (workdir / name).exists():
            write_atomically(workdir / name, text + "\n")
    there = _read_json(workdir / "data.json")
    if data != there:
        raise ValueError(
            f"--workdir={workdir} holds a run on other data: {there}, but this is {data}; restore the data, or choose "
            "another --workdir"
        )


def mark(workdir: Path) -> str:
    """Leaves a mark in a claimed directory, by which other processes know it from one like it. Returns the mark."""
    text = secrets.token_hex(8)
    write_atomically(workdir / _MARK, text)
    return text


def await_mark(workdir: Path, text: str, seconds: float = 60.0) -> None:
    """Waits until this process sees the mark of another one: a network file system may show it late.

    Raises: FileNotFoundError when it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not (workdir / _MARK).is_file() or (workdir / _MARK).read_text() != text:
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f"--workdir={workdir} is not the directory of process 0, whose {_MARK} is not seen here after "
                f"{seconds:g} s: one on a file system that all processes share is needed"
            )
        time.sleep(0.1)


@contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Keeps other processes from training in a claimed directory; the lock ends with the process, however that ends.

    Raises: BlockingIOError when another process trains here.
    """
    with (workdir / "config.json").open("r+b") as file:  # for writing: network file systems lock no other
        if not try_lock(file):
            raise BlockingIOError(
                f"another process trains in --workdir={workdir}: wait for its end, or choose another; processes of one "
                "run are told of each other by --distributed"
            )
        yield


def try_lock(file: IO) -> bool:
    """Takes the file's lock unless another process holds it; it lasts until all who share the open file close it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def load_config(workdir: Path) -> dict:
    """The config of the run in this directory.

    Raises: FileNotFoundError when there is none, ValueError when it is not JSON.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"--workdir={workdir} holds no config.json: a directory that training wrote is needed")
    return _read_json(path)


def load_tokenizer(workdir: Path) -> tokenizers.Tokenizer | None:
    """The tokenizer of the run in this directory; None before the run wrote one."""
    path = workdir / "tokenizer.json"
    if not path.exists():
        return None
    return tokenizers.from_json(_read_json(path))


def _read_json(path):
    try:
        contents = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); remove the directory or restore the file") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} does not hold an object but {contents!r}; remove the directory or restore the file")
    return contents


def flatten(config: Mapping, prefix: str = "") -> dict:
    """Nested sections as one dict with dotted keys."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def write_atomically(path: Path, text: str) -> None:
    """Writes the whole file or leaves the old one: a killed process cannot leave half of it.

    Raises: OSError naming the file.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
    except OSError as error:  # of a full disk: it names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    partial.replace(path)
