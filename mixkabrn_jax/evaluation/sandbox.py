"""Programs that nobody has read, such as a model's, run where they can do no harm.

Each runs in a process of its own, in a folder of its own, under guards of the Linux kernel that need no rights
(`guard` says which): it opens no file outside that folder but the standard library, reaches no network, starts no
process or thread, and is ended when it takes too long, needs too much memory, prints or writes too much. Where a guard
is missing (another system, a kernel before 5.13, a container that forbids Landlock) nothing is run.

What they do not do: file names outside the folder can be asked for, though not read; and as a test runs in the process
of what it tests, a program that sets out to forge its own verdict can. One that only ends early, exits with 0 or prints
what looks like success does not pass.
"""

import math
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mixkabrn_jax.evaluation import guard

_LOOK_SECONDS = 0.02
"""So often a program's folder is looked at: what it can write in between is all that it can write too much."""
_KEPT_BYTES = 4096


class UnguardedError(OSError):
    """This machine cannot withhold what a program must not do, so the program was not run."""


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    seconds: float = 3.0
    """Of the clock, from the start of its process, and, rounded up, of a processor."""
    memory_bytes: int = 512 << 20
    """Of address space."""
    file_bytes: int = 16 << 20
    """Of each file that it writes, and of all of them together."""
    num_files: int = 256
    output_bytes: int = 1 << 20
    """That it may print."""


@dataclass(frozen=True)
class Result:
    """How a program ended."""

    passed: bool
    """It ran to the end of its last line."""
    reason: str
    """Why it did not; "" if it did."""
    output: str
    """The end of what it printed, errors included."""


def check() -> None:
    """Raises: UnguardedError, with a sentence, where programs cannot be run."""
    result = run("", Limits(seconds=30))
    if not result.passed:
        raise UnguardedError(f"an empty program did not run under guard: {result.reason}: {result.output}")


def run(program: str, limits: Limits = Limits()) -> Result:
    """Runs a Python program under guard and says whether it came to its end without an exception.

    Raises: UnguardedError where the guards cannot be put up.
    """
    if not sys.platform.startswith("linux"):
        raise UnguardedError(f"programs are run on Linux only, where the kernel can guard them, not on {sys.platform}")
    with tempfile.TemporaryDirectory(prefix="program-") as folder:
        # Half a surrogate pair is no program, and no UTF-8 either.
        Path(folder, "program.py").write_bytes(program.encode(errors="replace"))
        word = secrets.token_hex(16).encode()
        process, listening = _start(folder, word, limits)
        with process, listening:
            try:
                said, printed, reason = _watch(process, listening, folder, limits)
            finally:
                process.kill()
    output = printed[-_KEPT_BYTES:].decode(errors="replace")
    if not said.startswith(guard.STANDS) and not reason:
        last = output.strip().splitlines()[-1:] or [f"its process ended with {process.returncode}"]
        raise UnguardedError(f"the program was not run, as this machine cannot guard it: {last[0]}")
    if not reason and said != guard.STANDS + word:
        reason = _ending(process.returncode, limits)
    return Result(not reason, reason, output)


def _start(folder, word, limits):
    """The process, and the socket on which it says how far it came."""
    reading, writing = os.pipe()
    with open(writing, "wb") as pipe:
        pipe.write(word)
    # No pipe: that the program could open once more, by /proc, and read what was meant for us.
    listening, saying = socket.socketpair()
    numbers = (math.ceil(limits.seconds), limits.memory_bytes, limits.file_bytes, saying.fileno())
    with open(reading, "rb") as stdin, saying:
        process = subprocess.Popen(
            # Neither variables of the environment, nor installed packages, nor compiled files written.
            [sys.executable, "-I", "-S", "-B", "-u", "-X", "utf8", guard.__file__, *map(str, numbers)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(saying.fileno(),),
            cwd=folder,
            env={"HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
    return process, listening


def _watch(process, listening, folder, limits):
    """Reads what a program says and prints until it ends or goes too far: (said, printed, why it was stopped)."""
    deadline = time.monotonic() + limits.seconds
    said, printed, reason = bytearray(), bytearray(), ""
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ, said)
        selector.register(process.stdout, selectors.EVENT_READ, printed)
        # A program that has closed both of them runs on.
        while not reason and (selector.get_map() or process.poll() is None):
            left = deadline - time.monotonic()
            for key, _ in selector.select(max(0, min(left, _LOOK_SECONDS))):
                read = os.read(key.fd, 1 << 16)
                key.data.extend(read)
                if not read:
                    selector.unregister(key.fileobj)
            if left <= 0:
                reason = f"stopped after {limits.seconds:g} s"
            elif len(said) + len(printed) > limits.output_bytes:
                reason = f"printed more than {limits.output_bytes:,} bytes"
            else:
                reason = _overfull(folder, limits)
    return bytes(said), bytes(printed), reason


def _overfull(folder, limits):
    """What is too much in the folder, which is flat and loses nothing: the guard lets no folder be made, no file go."""
    sizes = [entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder)]
    if len(sizes) > limits.num_files:
        return f"wrote more than {limits.num_files:,} files"
    return f"wrote more than {limits.file_bytes:,} bytes" if sum(sizes) > limits.file_bytes else ""


def _ending(code, limits):
    if code == -signal.SIGKILL:
        return f"killed, as after {math.ceil(limits.seconds)} s of a processor"
    if code < 0:
        # Signals of real time have no names.
        return "killed by " + next((one.name for one in signal.Signals if one == -code), f"signal {-code}")
    return "ended before its last line" if code == 0 else "raised an exception or ended with an error"
