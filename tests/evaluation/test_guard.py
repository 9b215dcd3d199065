"""What a program under guard tries and must not be able to do; each attempt is seen to succeed without the guard."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from mixkabrn_jax.evaluation import guard, sandbox

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the guards are those of Linux")

HERE = pathlib.Path(__file__)
LIBC = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
# What is to be read or changed is in `{outside}`, a folder that the test makes; `check` raises on a negative result.
# All run in one process, one behind the other: what would change the others, were it not refused, stands last.
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
    "deleting": "import os; os.unlink('{outside}/old'); check(-os.path.exists('{outside}/old'))",
    "moving in": "import os; os.rename('{outside}/old', 'mine')",
    "moving out": "import os; open('a', 'w').write('x'); os.rename('a', '{outside}/b')",
    "rights": "import os; os.chmod('{outside}/old', 0o777)",
    "times": "import os; os.utime('{outside}/old', (1, 1))",
    "a folder within, which would have to be cleared": "import os; os.mkdir('deep')",
    "a file in memory": "import os; os.memfd_create('x')",
    "shared memory": "import os; os.open('/dev/shm', os.O_TMPFILE | os.O_RDWR)",
    "a file without a name": "import os; os.open('.', os.O_TMPFILE | os.O_RDWR)",
    "a file in place of another": "import os; open('c', 'w'); open('d', 'w'); os.rename('c', 'd')",
    "a large file": "open('large', 'wb').truncate(1 << 30)",
    "much memory": "bytes(2 << 30)",
    # to make processes
    "fork": "import os; os.fork() or os._exit(0)",
    "a daemon": "import os; p = os.fork(); p or (os.setsid(), os.fork(), os._exit(0)); os.waitpid(p, 0)",
    "a shell": "import subprocess; subprocess.run(['/bin/sh', '-c', 'true'], check=True)",
    "os.system": "import os; check(-os.system('true'))",
    "posix_spawn": "import os; os.posix_spawn('/bin/true', ['true'], {{}})",
    "fork by number": LIBC + "check(libc.syscall({fork}, 17, 0, 0, 0, 0)) or os._exit(0)",
    "a thread": "import threading; threading.Thread(target=int).start()",
    # to reach others
    "TCP": "import socket; socket.socket()",
    "UDP": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "a Unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a socket by number": LIBC + "check(libc.syscall({socket}, 2, 1, 0))",
    "a signal": "import os; os.kill(os.getppid(), 0)",
    "a signal to all": LIBC + "check(libc.kill(0, 0))",
    "a file's signals": "import fcntl, os; fcntl.fcntl(1, 8, os.getppid())",
    # to gain rights
    "more processor time": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
    "a namespace": LIBC + "check(libc.unshare(0x10000000))",
    "another program": "import os; os.execv('/bin/echo', ['echo', 'another program: ESCAPED'])",
}
NOT_EVERYWHERE = {
    "a hard link",  # which some systems refuse to make between folders
    "a file without a name",  # which some file systems do not have
    "shared memory",  # which some containers do not have
    "a namespace",  # which some systems keep for the administrator
}
NUMBERS = {"x86_64": {"fork": 56, "socket": 41}, "aarch64": {"fork": 220, "socket": 198}}


def program(folder):
    """All attempts, each of which says what became of it; the folder has what they are to reach, for each its own."""
    parts = [
        "import os\nhome = os.getcwd()\ndef check(result):\n    if result < 0: raise OSError(result)\n    return result"
    ]
    for number, (name, attempt) in enumerate(ATTEMPTS.items()):
        outside = folder / f"{number}"
        outside.mkdir(parents=True)
        (outside / "secret").write_text("secret")
        (outside / "old").write_text("old")
        attempt = attempt.format(outside=outside, here=HERE, **NUMBERS[os.uname().machine])
        parts.append(
            f"def attempt():\n{textwrap.indent(attempt, '    ')}\n"
            f"try:\n    attempt()\nexcept Exception:\n    print({name!r} + ': refused')\n"
            f"else:\n    print({name!r} + ': ESCAPED')\nos.chdir(home)"
        )
    return "\n".join(parts)


def state(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns) for path in files]


def outcomes(output):
    return dict(line.split(": ", 1) for line in output.splitlines())


def test_a_program_cannot_do_what_it_could_without_the_guard(tmp_path):
    text = program(tmp_path / "outside")
    before = state(tmp_path / "outside")
    result = sandbox.run(text, sandbox.Limits(seconds=30))
    assert result.passed
    assert outcomes(result.output) == dict.fromkeys(ATTEMPTS, "refused")
    assert state(tmp_path / "outside") == before
    free = subprocess.run([sys.executable, "-I", "-S", "-u", "-c", text], cwd=tmp_path, capture_output=True, text=True)
    found = outcomes(free.stdout)
    assert {name for name in ATTEMPTS if found.get(name) != "ESCAPED"} <= NOT_EVERYWHERE, free


def test_nobody_can_read_what_says_that_the_guards_stand():
    """A pipe could be opened once more by /proc, and emptied, so that the guards seem to be missing."""
    result = sandbox.run(
        """
import os
for number in range(3, 32):
    try:
        os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        continue
    raise SystemExit(number)
"""
    )
    assert result.passed


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
    deleting = {guard._UNLINK, guard._UNLINKAT}
    special = {numbers[column] for numbers in conditional | deleting} | {(16, 29)[column]}
    assert all(outcome(numbers[column], 1) == guard._DONE for numbers in deleting if numbers[column] is not None)
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
        (os.O_TMPFILE | os.O_RDWR, 0),
        (os.O_DIRECTORY, 1),
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
