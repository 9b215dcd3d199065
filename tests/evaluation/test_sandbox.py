"""What a program under guard tries and must not be able to do; each attempt is seen to succeed without the guard."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

from mixkabrn_jax.evaluation import guard, sandbox

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the guards are those of Linux")

HERE = pathlib.Path(__file__)
LIBC = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
# What is to be read or changed is in `{outside}`, a folder that the test makes; `check` raises on a negative result.
ATTEMPTS = {
    # to read
    "open": "open('{outside}/secret').read()",
    "a file of the system": "open('/etc/passwd').read()",
    "a file of the repository": "open('{here}').read()",
    "os.open": "import os; os.read(os.open('{outside}/secret', os.O_RDONLY), 9)",
    "posix": "import importlib; m = importlib.import_module('posix'); m.read(m.open('{outside}/secret', 0), 9)",
    "_io": "import _io; _io.FileIO('{outside}/secret').read()",
    "ctypes": LIBC + "check(libc.open(b'{outside}/secret', 0))",
    "a relative path": "import os; os.chdir('{outside}'); open('secret').read()",
    "a folder's descriptor": "import os; os.open('secret', 0, dir_fd=os.open('{outside}', os.O_PATH))",
    "a symbolic link": "import os; os.symlink('{outside}/secret', 'link'); open('link').read()",
    "a hard link": "import os; os.link('{outside}/secret', 'link'); open('link').read()",
    "a folder": "import os; os.listdir('{outside}')",
    "the parent's environment": "import os; open(f'/proc/{{os.getppid()}}/environ').read()",
    "its own memory": "open('/proc/self/maps').read()",
    # to write
    "a new file": "open('{outside}/new', 'w').write('x')",
    "an old file": "open('{outside}/old', 'a').write('x')",
    "the temporary folder": "import tempfile; tempfile.NamedTemporaryFile(dir='/tmp').write(b'x')",
    "cutting": "import os; os.truncate('{outside}/old', 0)",
    "cutting by reading": "import os; open('a', 'w').write('x'); os.open('a', os.O_RDONLY | os.O_TRUNC)",
    "deleting": "import os; os.unlink('{outside}/old')",
    "moving in": "import os; os.rename('{outside}/old', 'mine')",
    "moving out": "import os; open('a', 'w').write('x'); os.rename('a', '{outside}/b')",
    "rights": "import os; os.chmod('{outside}/old', 0o777)",
    "times": "import os; os.utime('{outside}/old', (1, 1))",
    "a folder within, which would have to be cleared": "import os; os.mkdir('deep')",
    "a file in memory": "import os; os.memfd_create('x')",
    "a large file": "open('large', 'wb').truncate(1 << 30)",
    "much memory": "bytearray(2 << 30)",
    # to make processes
    "fork": "import os; os.fork() or os._exit(0)",
    "a daemon": "import os; os.fork() and os._exit(1); os.setsid(); os.fork() and os._exit(1)",
    "a shell": "import subprocess; subprocess.run(['/bin/sh', '-c', 'true'], check=True)",
    "os.system": "import os; check(-os.system('true'))",
    "posix_spawn": "import os; os.posix_spawn('/bin/true', ['true'], {{}})",
    "another program": "import os; os.execv('/bin/echo', ['echo', 'ESCAPED'])",
    "fork by number": LIBC + "check(libc.syscall({fork}, 17, 0, 0, 0, 0)) or os._exit(0)",
    "a thread": "import threading; threading.Thread(target=int).start()",
    "a namespace": LIBC + "check(libc.unshare(0x10000000))",
    # to reach others
    "TCP": "import socket; socket.socket()",
    "UDP": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "a Unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a socket by number": LIBC + "check(libc.syscall({socket}, 2, 1, 0))",
    "a signal": "import os; os.kill(os.getppid(), 0)",
    "a signal to all": LIBC + "check(libc.kill(0, 0))",
    "a file's signals": "import fcntl, os; fcntl.fcntl(1, 8, os.getppid())",
    "more processor time": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
}
NUMBERS = {"x86_64": {"fork": 56, "socket": 41}, "aarch64": {"fork": 220, "socket": 198}}


def program(attempt, outside):
    attempt = attempt.format(outside=outside, here=HERE, **NUMBERS[os.uname().machine])
    return (
        "def check(result):\n    if result < 0:\n        raise OSError(result)\n    return result\n"
        f"try:\n{textwrap.indent(attempt, '    ')}\n"
        "except Exception as error:\n    print('refused:', repr(error))\n"
        "else:\n    print('ESCAPED')"
    )


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    (folder / "old").write_text("old")
    return folder


def state(folder):
    files = sorted(folder.iterdir())
    return [(path.name, path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns) for path in files]


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_program_cannot_do_what_it_could_without_the_guard(name, outside, tmp_path):
    before = state(outside)
    result = sandbox.run(program(ATTEMPTS[name], outside), sandbox.Limits(seconds=30))
    assert result.passed
    assert "refused: " in result.output
    assert "ESCAPED" not in result.output
    assert state(outside) == before
    free = [sys.executable, "-I", "-S", "-c", program(ATTEMPTS[name], outside)]
    assert "ESCAPED" in subprocess.run(free, cwd=tmp_path, capture_output=True, text=True).stdout or name in {
        "a daemon",  # which leaves the one that would say so
        "a hard link",  # which some systems refuse to make between folders
        "a namespace",  # which some systems keep for the administrator
    }


def test_what_a_program_needs_it_has():
    result = sandbox.run(
        """
import abc, bisect, collections, copy, datetime, decimal, fractions, functools, hashlib, heapq, itertools, json, math
import operator, os, random, re, statistics, string, sys, tempfile, time, typing, unittest, zlib
from dataclasses import dataclass
@dataclass
class Point:
    x: "int"
assert __name__ == "__main__" and Point(3).x == 3 and sys.argv == ["program.py"]
assert hashlib.sha256(b"").hexdigest().startswith("e3b0")
open("mine", "w").write("text"); os.rename("mine", "yours")
assert open("yours").read() == "text" and sorted(os.listdir()) == ["program.py", "yours"]
os.unlink("yours")
with tempfile.NamedTemporaryFile() as file:
    assert os.path.dirname(file.name) == os.getcwd() == os.environ["HOME"]
assert set(os.environ) <= {"HOME", "TMPDIR", "LC_CTYPE"}
assert sys.stdin.read() == ""
time.sleep(0.001)
print("\u00e9", end="")
"""
    )
    assert result == sandbox.Result(True, "", "é")


@pytest.mark.parametrize(
    ("text", "reason"),
    {
        "an exception": ("assert 1 == 2", "raised an exception or ended with an error"),
        "no Python": ("def f(", "raised an exception or ended with an error"),
        "a zero byte": ("x = '\0'", "raised an exception or ended with an error"),
        "os._exit": ("import os\nos._exit(0)\nassert False", "ended before its last line"),
        "sys.exit": ("import sys\nsys.exit(0)\nassert False", "ended before its last line"),
        "SystemExit at the very end": ("raise SystemExit", "ended before its last line"),
        "an exit while unwinding": (
            "import os\ntry:\n    assert 0\nfinally:\n    os._exit(0)",
            "ended before its last line",
        ),
        "an exit at the end": (
            "import atexit, os\natexit.register(os._exit, 0)\nassert 0",
            "ended before its last line",
        ),
        "the outcome in print": ("print('guarded\\npassed')\nimport os\nos._exit(0)", "ended before its last line"),
        "a word of its own": (
            "import os\nfor i in range(3, 999):\n  try: os.write(i, b'0' * 32)\n  except OSError: pass\nos._exit(0)",
            "ended before its last line",
        ),
        "others in place of what says it": (
            "import os\nold, seen = os._exit, []\nos.write = lambda f, b: seen.append(b)\nold(0)",
            "ended before its last line",
        ),
        "closed pipes": ("import os\nos.closerange(0, 32)\nos._exit(0)", "ended before its last line"),
        "abort": ("import os\nos.abort()", "killed by SIGABRT"),
        "2 GB": ("x = bytearray(2 << 30)", "raised an exception or ended with an error"),
        "a little more each time": (
            "x = []\nwhile 1: x.append(bytearray(1 << 24))",
            "raised an exception or ended with an error",
        ),
        "1 GB printed": ("while 1: print('x' * 65536)", "printed more than 1,048,576 bytes"),
        "1 GB on the pipe": (
            "import os\nwhile 1:\n for i in range(3, 999):\n  try: os.write(i, b'0' * 65536)\n  except OSError: pass",
            "printed more than 1,048,576 bytes",
        ),
        "a large file": (
            "f = open('f', 'wb')\nwhile 1: f.write(bytes(1 << 20))",
            "raised an exception or ended with an error|wrote more than 16,777,216 bytes",
        ),
        "many large files": (
            "import time\nfor i in range(9999):\n open(str(i), 'wb').write(bytes(1 << 20)); time.sleep(.001)",
            "wrote more than 16,777,216 bytes",
        ),
        "many files": (
            "import time\nfor i in range(9999):\n open(str(i), 'wb').close(); time.sleep(.0001)",
            "wrote more than 256 files",
        ),
    }.values(),
)
def test_a_program_that_goes_too_far_or_ends_early_has_not_passed(text, reason):
    result = sandbox.run(text, sandbox.Limits(seconds=30))
    assert not result.passed
    assert re.fullmatch(reason, result.reason)


@pytest.mark.parametrize(
    "text",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal as s, time\nfor i in {*range(1, 32)} - {9, 19}: s.signal(i, s.SIG_IGN)\ntime.sleep(60)",
        "import os, time; os.closerange(0, 32); time.sleep(60)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "try:\n    import time; time.sleep(60)\nfinally:\n    time.sleep(60)",
    ],
)
def test_a_program_is_ended_when_its_time_is_up(text, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    result = sandbox.run(text, sandbox.Limits(seconds=0.6))
    assert (result.passed, result.reason) == (False, "stopped after 0.6 s")
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)
    assert not list(tmp_path.iterdir())


def test_processor_time_ends_a_program_that_the_clock_does_not():
    result = sandbox.run("import resource; print(resource.getrlimit(resource.RLIMIT_CPU))\nwhile 1: pass")
    assert result.output.strip() == "(3, 3)"
    assert result.reason in {"stopped after 3 s", "killed after 3 s of a processor"}


def test_a_program_that_runs_to_its_end_has_passed_whatever_it_leaves_behind():
    text = "import atexit, os, sys, time; atexit.register(time.sleep, 60); sys.stdout = sys.stderr = None; os.close(1)"
    assert sandbox.run(text, sandbox.Limits(seconds=30)).passed


def test_where_a_guard_is_missing_nothing_is_run(tmp_path, monkeypatch):
    text = pathlib.Path(guard.__file__).read_text()
    for old, new, said in [
        ("libc.syscall(444,", "libc.syscall(4444,", "no Landlock"),
        ("libc.prctl(22, 2,", "libc.prctl(22, 99,", "PR_SET_SECCOMP"),
        ('"x86_64": (0', '"other": (0', "processors known are other, aarch64, not x86_64"),
    ]:
        assert old in text
        broken = tmp_path / "guard.py"
        broken.write_text(text.replace(old, new))
        monkeypatch.setattr(guard, "__file__", str(broken))
        for call in (sandbox.check, lambda: sandbox.run(f"open({str(tmp_path / 'ran')!r}, 'w')")):
            with pytest.raises(sandbox.UnguardedError, match=said):
                call()
        assert not (tmp_path / "ran").exists()


def test_on_another_system_nothing_is_run(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(sandbox.UnguardedError, match="on Linux only, where the kernel can guard them, not on darwin"):
        sandbox.check()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_allows_what_is_listed_and_nothing_else(machine):
    """Both machines' filters, run here by an interpreter of the few codes they use."""
    process = 1234

    def outcome(number, *arguments, architecture=guard._MACHINES[machine][1]):
        data = number.to_bytes(4, "little") + architecture.to_bytes(4, "little") + bytes(8)
        data += b"".join(argument.to_bytes(8, "little") for argument in (*arguments, *[0] * (6 - len(arguments))))
        lines, at, value = guard._filter(machine, process), 0, 0
        while True:
            code, yes, no, operand = lines[at]
            at += 1
            match code:
                case guard._LOAD:
                    value = int.from_bytes(data[operand : operand + 4], "little")
                case guard._AND:
                    value &= operand
                case guard._RETURN:
                    return operand
                case _:
                    at += yes if (value == operand if code == guard._EQUAL else value > operand) else no

    column = guard._MACHINES[machine][0]
    listed = {numbers[column] for numbers in guard._CALLS.values()} - {None}
    conditional = {guard._OPENAT, guard._OPEN, guard._FCNTL, guard._KILL, guard._TGKILL, guard._PRLIMIT}
    special = {numbers[column] for numbers in conditional} | {(16, 29)[column]}
    for number in [*range(600), 0x40000000, 0x40000000 + 56, 2**32 - 1]:
        if number not in special:
            assert outcome(number, 1, 1, 1) == (guard._ALLOWED if number in listed else guard._REFUSED), number
    assert outcome(0, architecture=3) == guard._KILLED
    write, cut, create = os.O_WRONLY, os.O_TRUNC, os.O_CREAT
    for flags, allowed in [
        (0, 1),
        (write, 1),
        (write | cut | create, 1),
        (os.O_RDWR | cut, 1),
        (cut, 0),
        (cut | create, 0),
    ]:
        assert (outcome(guard._OPENAT[column], 0, 0, flags) == guard._ALLOWED) == bool(allowed)
    for command in range(1100):
        allowed = command in {0, 1, 2, 3, 4, 1030}
        assert (outcome(guard._FCNTL[column], 0, command) == guard._ALLOWED) == allowed
    for numbers in (guard._KILL, guard._TGKILL):
        assert outcome(numbers[column], process, 6) == guard._ALLOWED
        for other in (0, 1, process + 1, 2**32 - 1, 2**64 - 1):
            assert outcome(numbers[column], other, 6) == guard._REFUSED
    assert outcome(guard._PRLIMIT[column], 0, 7, 0) == guard._ALLOWED
    for pointer in (1, 1 << 32, 2**64 - 1):
        assert outcome(guard._PRLIMIT[column], 0, 7, pointer) == guard._REFUSED
