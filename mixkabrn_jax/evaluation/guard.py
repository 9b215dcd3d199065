"""Runs one Python program after giving up the rights to do harm with it; `sandbox` starts this file as a script.

It imports the standard library alone. What it gives up, the kernel withholds from here on, whatever the program does
with ctypes or machine code:

- Landlock: no file is opened but those of the folder it is started in, and, for reading, the standard library.
- seccomp: a list of the system calls that computing and files need; none that makes a process or a thread, starts a
  program, opens a socket, signals or looks into another process, or changes rights, owners, times and limits.
- resource limits: processor seconds, address space, the size of a file, open files, no core.

All that it writes has a name in its folder until it has ended, so that `sandbox` sees how much it is: a file that is
deleted stays, though the program is told that it is gone, and no file takes the place of another. File names and sizes
outside the folder can still be asked for (`os.stat`), what is in the files cannot.
"""

import ctypes
import os
import platform
import signal
import struct
import sys

# Names by which x86-64 and arm64 know a system call; None where arm64 has it under a newer name only.
# Older names are what other C libraries than glibc use.
_CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "dup2": (33, None),
    "pause": (34, None),
    "nanosleep": (35, 101),
    "getitimer": (36, 102),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "exit": (60, 93),
    "uname": (63, 160),
    "fsync": (74, 82),
    "ftruncate": (77, 46),
    "getdents": (78, None),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "newfstatat": (262, 79),
    "faccessat": (269, 48),
    "dup3": (292, 24),
    "getrandom": (318, 278),
    "statx": (332, 291),
    "faccessat2": (439, 439),
}
_OPEN, _OPENAT, _UNLINK, _UNLINKAT = (2, None), (257, 56), (87, None), (263, 35)
_FCNTL, _KILL, _TGKILL, _PRLIMIT = (72, 25), (62, 129), (234, 131), (302, 261)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3
# Write and make files, and cut them: no folders, so that what is to be deleted is flat; no links, no sockets.
_OWN_FOLDER = _READ_FILE | _READ_DIRECTORY | 1 << 1 | 1 << 8 | 1 << 14
# What each version of Landlock knows of; before the third, cutting a file cannot be withheld, hence `_opens`.
_KNOWN_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
STANDS = b"guarded\n"
_PRELOADED = ("bz2", "hashlib", "lzma", "zlib")
"""Modules that load libraries from outside the standard library's folder, which cannot be done later."""


def restrict_files(libc, folder: str) -> None:
    """Opens no file from here on but those of a folder and, to be read, the standard library's."""
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        raise OSError(ctypes.get_errno(), "this kernel has no Landlock, which Linux has from 5.13 on")
    handled = _KNOWN_RIGHTS[min(version, 5)]
    attributes = struct.pack("=Q", handled)
    ruleset = _called(libc.syscall(444, attributes, len(attributes), 0), "landlock_create_ruleset")
    _allow(libc, ruleset, folder, _OWN_FOLDER & handled)
    for library in _libraries():
        _allow(libc, ruleset, library, _READ_DIRECTORY)
        for entry in os.scandir(library):
            # Installed packages may be anything: only the standard library's own.
            if entry.name not in {"site-packages", "dist-packages"}:
                _allow(libc, ruleset, entry.path, _READ_FILE | _READ_DIRECTORY if entry.is_dir() else _READ_FILE)
    _called(libc.syscall(446, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def _libraries():
    """The folders of the standard library, as they are: where `os` and the modules in machine code lie."""
    import _ctypes

    found = [os.path.dirname(os.__file__)]
    if extension := getattr(_ctypes, "__file__", None):
        found.append(os.path.dirname(extension))
    return [os.path.realpath(path) for path in found]


def _allow(libc, ruleset, path, rights):
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    entry = struct.pack("=Qi", rights, descriptor)
    _called(libc.syscall(445, ruleset, 1, entry, 0), "landlock_add_rule")
    os.close(descriptor)


def restrict_calls(libc) -> None:
    """Takes from the process all system calls but those of a list; the others fail with "not permitted"."""
    program = b"".join(struct.pack("=HBBI", *line) for line in _filter(platform.machine(), os.getpid()))
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_void_p))

    filter_ = Program(len(program) // 8, ctypes.addressof(buffer))
    _called(libc.prctl(22, 2, ctypes.byref(filter_), 0, 0), "prctl(PR_SET_SECCOMP)")


# The lines of a filter: (code, lines to skip if true, if false, number), as in classic BPF.
_LOAD, _EQUAL, _GREATER, _AND, _RETURN = 0x20, 0x15, 0x25, 0x54, 0x06
_ALLOWED, _KILLED, _REFUSED, _NO_TERMINAL, _DONE = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050019, 0x00050000
_ALLOW, _REFUSE = (_RETURN, 0, 0, _ALLOWED), (_RETURN, 0, 0, _REFUSED)


def _argument(index, half=0):
    """Loads half an argument; both machines are little-endian."""
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * half)


def _opens(index):
    """Refuses a file without a name, and to open a file for reading and cut it.

    The second is reading for Landlock of before version 3.
    """
    nameless, flags = os.O_TMPFILE & ~os.O_DIRECTORY, os.O_TRUNC | os.O_ACCMODE
    lines = [_argument(index), (_AND, 0, 0, nameless), (_EQUAL, 0, 1, nameless), _REFUSE]
    return [*lines, _argument(index), (_AND, 0, 0, flags), (_EQUAL, 0, 1, os.O_TRUNC | os.O_RDONLY), _REFUSE, _ALLOW]


def _filter(machine, process):
    column, architecture = _MACHINES[machine]
    # Signals to the process itself, as of abort().
    to_itself = [_argument(0), (_EQUAL, 1, 0, process), _REFUSE, _ALLOW]
    conditions = [
        (_OPEN, _opens(1)),
        (_OPENAT, _opens(2)),
        # Nothing is deleted, and `tempfile` works all the same.
        (_UNLINK, [(_RETURN, 0, 0, _DONE)]),
        (_UNLINKAT, [(_RETURN, 0, 0, _DONE)]),
        # No owner of a file's signals, which could be another process: duplicates and flags alone.
        (_FCNTL, [_argument(1), (_EQUAL, 2, 0, 1030), (_GREATER, 0, 1, 4), _REFUSE, _ALLOW]),
        (_KILL, to_itself),
        (_TGKILL, to_itself),
        # Limits may be read, not set.
        (_PRLIMIT, [_argument(2), (_EQUAL, 0, 2, 0), _argument(2, 1), (_EQUAL, 1, 0, 0), _REFUSE, _ALLOW]),
        # Python asks whether a file is a terminal.
        ((16, 29), [(_RETURN, 0, 0, _NO_TERMINAL)]),
    ]
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILLED), (_LOAD, 0, 0, 0)]
    for numbers, condition in [*conditions, *((numbers, [_ALLOW]) for numbers in _CALLS.values())]:
        if numbers[column] is not None:
            lines += [(_EQUAL, 0, len(condition), numbers[column]), *condition]
    return [*lines, _REFUSE]


def _called(result, name):
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name} is refused here")
    return result


def restrict(seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Gives up everything that the file's first lines name. Raises: OSError where the system cannot."""
    import resource

    if platform.machine() not in _MACHINES:
        raise OSError(f"processors known are {', '.join(_MACHINES)}, not {platform.machine()}")
    for name in _PRELOADED:
        try:
            __import__(name)
        except ImportError:
            continue  # a Python built without it
    libc = ctypes.CDLL(None, use_errno=True)
    # Ends with who started it; leaves no memory image and lets nobody look in; never regains rights by running a file.
    for option, value in ((1, signal.SIGKILL), (4, 0), (38, 1)):
        _called(libc.prctl(option, value, 0, 0, 0), "prctl")
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    restrict_files(libc, os.getcwd())
    restrict_calls(libc)


def main(seconds: int, memory_bytes: int, file_bytes: int, descriptor: int) -> None:
    """Runs `program.py` of the working directory, and says on a socket how far it came.

    The socket gets `STANDS` once the guards stand, and, when the program has run to its end, the word that standard
    input gave: a program that ends early, however well, cannot say it.
    """
    word = sys.stdin.buffer.read()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    restrict(seconds, memory_bytes, file_bytes)
    # The program may put others in their place.
    write, end = os.write, os._exit
    write(descriptor, STANDS)
    with open("program.py", "rb") as file:
        code = compile(file.read(), "program.py", "exec", dont_inherit=True)
    module = sys.modules["__main__"] = type(sys)("__main__")
    sys.argv = ["program.py"]
    exec(code, module.__dict__)
    write(descriptor, word)
    # What the program left to be done at the end is not part of it.
    end(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
