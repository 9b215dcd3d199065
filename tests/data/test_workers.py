"""Processes that help, and end with the one that started them."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

from mixkabrn_jax.data import workers

ROOT = pathlib.Path(__file__).parents[2]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(number):
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_each_helper_calls_the_function_once_and_its_failure_is_its_own(tmp_path):
    with workers.started(functools.partial(os.makedirs, tmp_path / "made"), 2) as processes:
        wait_for(lambda: all(process.poll() is not None for process in processes))
        assert sorted(process.returncode for process in processes) == [0, 1]  # the second one finds it made
    assert (tmp_path / "made").is_dir()


def test_helpers_end_with_the_context():
    with workers.started(functools.partial(time.sleep, 600), 2) as processes:
        assert all(process.poll() is None for process in processes)
    assert all(process.returncode is not None for process in processes)


def test_helpers_end_with_a_process_that_is_killed():
    program = (
        "import functools, time; from mixkabrn_jax.data import workers\n"
        "with workers.started(functools.partial(time.sleep, 600), 1) as processes:\n"
        "    print(processes[0].pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        helper = int(process.stdout.readline())
        assert is_alive(helper)
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_alive(helper))
