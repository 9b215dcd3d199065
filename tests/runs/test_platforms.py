"""What other systems lack is not needed: Windows has no fcntl, no resource and fewer signals."""

import fcntl
import os
import pathlib
import subprocess
import sys
import types

import pytest

from mixkabrn_jax import locks
from mixkabrn_jax.runs import hashes
from tests.runs.test_model import ROOT, SMALLEST, train

# The libraries that we use are imported before: they know where they are by what is not there.
HIDDEN = """
import signal, sys, types
import flax.nnx, grain, jax, matplotlib.pyplot, optax, orbax.checkpoint
from jax.experimental import pallas
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
    sys.modules[name] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGQUIT"):
    delattr(signal, name)
sys.modules["msvcrt"] = types.ModuleType("msvcrt")
"""
EVERY_MODULE = """
import importlib, pkgutil, mixkabrn_jax
names = [module.name for module in pkgutil.walk_packages(mixkabrn_jax.__path__, "mixkabrn_jax.")]
names = [name for name in names if not name.startswith("mixkabrn_jax.export.onnx")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
OPEN_AND_GENERATE = """
import sys
import numpy as np
from mixkabrn_jax import runs
from mixkabrn_jax.inference.generate import generate
from mixkabrn_jax.inference.sampling import Sampling
model, tokenizer, _ = runs.open(sys.argv[1])
print(len(list(generate(model, np.zeros((1, 1), int), max_tokens=3, sampling=Sampling(0.0), seed=0))))
"""


def run(program, *arguments):
    command = [sys.executable, "-c", HIDDEN + program, *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_every_module_is_imported_without_what_windows_lacks():
    files = list((ROOT / "mixkabrn_jax").rglob("*.py"))
    graphs = list((ROOT / "mixkabrn_jax" / "export" / "onnx").rglob("*.py"))  # which need a package that may be missing
    assert int(run(EVERY_MODULE)) == len(files) - len(graphs) - 1


def test_a_run_is_opened_and_generated_from_without_what_windows_lacks(tmp_path):
    train(tmp_path, **SMALLEST)
    assert run(OPEN_AND_GENERATE, str(tmp_path)) == "3"


def test_a_byte_behind_the_end_is_the_lock_where_there_is_no_flock(tmp_path, monkeypatch):
    """On Windows; here, its `locking` is made of POSIX's locks of bytes, which other processes meet."""

    def locking(descriptor, mode, count):
        assert mode == msvcrt.LK_NBLCK
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count, 0, os.SEEK_CUR)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error

    msvcrt = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
    monkeypatch.setattr(locks, "msvcrt", msvcrt, raising=False)
    monkeypatch.setattr(locks, "fcntl", None)
    path = tmp_path / "config.json"
    path.write_text("{}")
    holder = f"import sys, fcntl; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX, 1, {locks._FAR}); "
    holder += "print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with path.open("r+b") as file:
        file.seek(1)
        with subprocess.Popen([sys.executable, "-c", holder, path], **pipes) as process:
            process.stdout.readline()
            assert not locks.try_lock(file)
            process.kill()
        assert locks.try_lock(file)
        assert file.read() == b"}"  # where it was, and nothing of it is locked


@pytest.mark.parametrize(("platform", "mode"), [("win32", os.O_RDWR), ("linux", os.O_RDONLY)])
def test_directories_are_synced_where_they_can_be(tmp_path, monkeypatch, platform, mode):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    opened = {}
    real = os.open

    def spy(path, flags, *more, **named):
        opened[pathlib.Path(path).name] = flags
        return real(path, flags, *more, **named)

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "open", spy)
    hashes.write(tmp_path / "folder")
    files = {"file": mode, "hashes.json": mode}
    assert opened == (files if platform == "win32" else files | {"folder": mode})
    monkeypatch.undo()
    assert hashes.verify(tmp_path / "folder") is None
