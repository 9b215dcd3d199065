"""A directory that can prove that nothing in it has changed: `hashes.json` holds the size and SHA-256 of every file."""

import errno
import hashlib
import json
import os
import sys
from pathlib import Path

NAME = "hashes.json"


def write(directory: Path) -> None:
    """Writes `hashes.json` for what is in the directory, and waits until all of it would survive a power cut."""
    (directory / NAME).write_text(_text(_entries(directory)))
    for folder, _, names in os.walk(directory):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))


def rename(source: Path, target: Path) -> None:
    """Renames a directory for good: the new name too survives a power cut."""
    source.rename(target)
    _sync(target.parent)


def verify(directory: Path) -> str | None:
    """What is wrong with a directory since `write`, in words that name the file; None when nothing is.

    Any change of any byte is found, those of `hashes.json` too: its text is made anew from the files and compared.
    """
    path = directory / NAME
    if not path.is_file():
        return f"{NAME} is missing"
    try:
        text, there = path.read_bytes(), _entries(directory)
    except OSError as error:
        if error.errno != errno.EIO:  # a file that may not be read, say, is not damaged
            raise
        return f"{error.filename or 'a file'} cannot be read ({error.strerror})"
    if text == _text(there).encode():
        return None
    return _difference(text, there)


def _difference(text, there):
    try:
        wanted = json.loads(text)
    except ValueError:  # not UTF-8, or not JSON
        return f"{NAME} is not readable"
    if not isinstance(wanted, dict):
        return f"{NAME} is not readable"
    for name in sorted(wanted.keys() | there.keys()):
        if name not in there:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} does not belong there"
        if wanted[name] != there[name]:
            size = wanted[name].get("bytes") if isinstance(wanted[name], dict) else None
            if size != there[name]["bytes"]:
                return f"{name} has {there[name]['bytes']:,} bytes, and {NAME} says {size!r}"
            return f"{name} has changed: its SHA-256 is not that of {NAME}"
    return f"{NAME} has changed"


def _entries(directory):
    """Of all files but `hashes.json` itself, by their paths."""
    paths = sorted(path for path in directory.rglob("*") if not path.is_dir() and path != directory / NAME)
    return {path.relative_to(directory).as_posix(): _entry(path) for path in paths}


def _entry(path):
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _text(entries):
    return json.dumps(entries, indent=1, sort_keys=True) + "\n"


def _sync(path):
    is_windows = sys.platform == "win32"
    if is_windows and path.is_dir():  # it can neither open nor sync one
        return
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)  # and it syncs for those who may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
