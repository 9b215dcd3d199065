"""The computer's own memory, as XLA's CPU backend uses it."""

import ctypes
import platform

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Keeps what is freed for what is allocated next, instead of giving it back to the system.

    XLA allocates its buffers anew for every call. By default glibc fetches large ones from the system each time: the
    230,000 page faults of a training step of 1 GB on a CPU are a sixth of its time. Here they are none. A process that
    never has more than one model in use loses nothing by it; it shows its largest size from then on.

    Returns: whether it could; only glibc has such settings. Call it before JAX computes anything.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    # Only the main thread's arena keeps large blocks: other threads get theirs from mmap whatever the settings say. So
    # that thread runs the programs. (One arena for all threads would do too, were it not for their waiting on it.)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_MMAP_MAX, 0))
