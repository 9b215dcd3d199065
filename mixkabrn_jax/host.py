"""The computer's own memory, as XLA's CPU backend uses it."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> bool:
    """Keeps what is freed for what is allocated next, instead of giving it back to the system.

    XLA allocates its buffers anew for every call. By default glibc fetches large ones from the system each time, and
    the page faults that come with them take a tenth of a training step on a CPU. A process that never has more
    than one model in use loses nothing by it; it shows its largest size from then on.

    Returns: whether it could; only glibc has such settings. Call it before JAX computes anything.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    largest = 2**31 - 1
    # One arena for all threads (M_ARENA_MAX) would keep more, but they wait for each other then: a step took 1.4 times
    # as long.
    return bool(mallopt(_TRIM_THRESHOLD, largest) and mallopt(_MMAP_THRESHOLD, largest))
