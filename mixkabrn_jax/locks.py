"""Locks on open files, which end with the process however that ends: of POSIX, or of Windows."""

import os
from typing import IO

try:
    import fcntl
except ImportError:  # on Windows
    import msvcrt

    fcntl = None

_FAR = 2**30
"""Windows locks bytes, and nobody else may read those: one behind the file's end, where there is none."""


def try_lock(file: IO) -> bool:
    """Takes the file's lock unless another process holds it; it lasts until all who share the open file close it."""
    if fcntl is None:
        return _try_lock_byte(file.fileno())
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_byte(descriptor):
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError:
        return False
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)
    return True
