"""How programs under guard end: at their end, early, when their time is up, or where there is no guard."""

import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from mixkabrn_jax.evaluation import guard, sandbox

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the guards are those of Linux")


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
open("mine", "w").write("text")
assert open("mine").read() == "text" and sorted(os.listdir()) == ["mine", "program.py"]
os.unlink("mine")
with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile() as other:
    assert os.path.dirname(file.name) == os.getcwd() == os.environ["HOME"] and other.write(b"x") == 1
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
        "a signal without a name": ("import os\nos.kill(os.getpid(), 40)", "killed by signal 40"),
        "a little more memory each time": (
            "x = []\nwhile 1: x.append(bytes(1 << 24))",
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
        "files that are deleted and go on growing": (
            "import os, time\nfor i in range(20):\n f = os.open(str(i), os.O_CREAT | os.O_RDWR); os.unlink(str(i))\n"
            " os.write(f, bytes(1 << 20)); time.sleep(.001)\ntime.sleep(60)",
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


def test_a_program_is_ended_when_its_time_is_up(tmp_path, monkeypatch):
    texts = [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal as s, time\nfor i in {*range(1, 32)} - {9, 19}: s.signal(i, s.SIG_IGN)\ntime.sleep(60)",
        "import os, time; os.closerange(0, 32); time.sleep(60)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "try:\n    import time; time.sleep(60)\nfinally:\n    time.sleep(60)",
        "import os; os.kill(os.getpid(), 19)",  # stopped
    ]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with ThreadPoolExecutor(len(texts)) as pool:
        results = list(pool.map(lambda text: sandbox.run(text, sandbox.Limits(seconds=0.8)), texts))
    assert [(result.passed, result.reason) for result in results] == [(False, "stopped after 0.8 s")] * len(texts)
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)
    assert not list(tmp_path.iterdir())


def test_processor_time_ends_a_program_that_the_clock_does_not(monkeypatch):
    limits = "import resource as r; print(r.getrlimit(r.RLIMIT_CPU), r.getrlimit(r.RLIMIT_AS)[1] >> 20)"
    assert sandbox.run(limits).output.strip() == "(3, 3) 512"
    start = sandbox._start
    monkeypatch.setattr(sandbox, "_start", lambda folder, word, _: start(folder, word, sandbox.Limits(seconds=1)))
    assert sandbox.run("while 1: pass", sandbox.Limits(seconds=30)).reason == "killed, as after 30 s of a processor"


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
        with pytest.raises(sandbox.UnguardedError, match=said):
            sandbox.run(f"open({str(tmp_path / 'ran')!r}, 'w')")
        assert not (tmp_path / "ran").exists()
    with pytest.raises(sandbox.UnguardedError, match=said):
        sandbox.check()


def test_on_another_system_nothing_is_run(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(sandbox.UnguardedError, match="on Linux only, where the kernel can guard them, not on darwin"):
        sandbox.check()
