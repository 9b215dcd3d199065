"""Jobs run in their slots, one process to a log, and none outlives the executor."""

import errno
import os
import signal
import sys

import pytest

from experiments.sweeping import executor
from experiments.sweeping.executor import Job, Limits
from experiments.sweeping.local_executor import LocalExecutor


def python_job(folder, name, code):
    return Job(name, (sys.executable, "-c", code), folder / name / "log.txt")


def rendezvous(folder, name, other):
    """Ends well only if `other` runs at the same time."""
    return python_job(
        folder,
        name,
        f"import pathlib, time; pathlib.Path({str(folder / name)!r}, 'here').touch()\n"
        "for _ in range(1000):\n"
        f"    if pathlib.Path({str(folder / other)!r}, 'here').exists(): break\n"
        "    time.sleep(0.02)\n"
        "else: raise SystemExit(1)",
    )


def test_slots_run_in_parallel(tmp_path):
    jobs = [rendezvous(tmp_path, "a", "b"), rendezvous(tmp_path, "b", "a"), python_job(tmp_path, "c", "")]
    with LocalExecutor(2, poll_seconds=0.01) as executor:
        events = list(executor.run(jobs, is_done=lambda _: False))
    assert [event.exit_code for event in events if event.kind == "ended"] == [0, 0, 0]
    order = [(event.job.name, event.kind) for event in events]
    assert order[:2] == [("a", "started"), ("b", "started")]
    assert order[2][1] == "ended"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processors are shared out on Linux alone")
def test_each_slot_has_its_own_share_of_the_processors(tmp_path):
    processors = os.sched_getaffinity(0)
    if len(processors) < 2:
        pytest.skip("needs two processors")
    code = "import os, time; time.sleep(0.5); print(*os.sched_getaffinity(0))"  # set a moment after the start
    jobs = [python_job(tmp_path, name, code) for name in "abcd"]
    with LocalExecutor(2, poll_seconds=0.01) as executor:
        assert all(event.exit_code == 0 for event in executor.run(jobs, is_done=lambda _: False))
    shares = [set(map(int, job.log.read_text().removeprefix(job.header).split())) for job in jobs]
    assert shares[0] | shares[1] == processors
    assert not shares[0] & shares[1]
    assert all(share in shares[:2] for share in shares)
    with LocalExecutor(len(processors) + 1, poll_seconds=0.01) as executor:
        list(executor.run([python_job(tmp_path, "e", code)], is_done=lambda _: False))
    assert set(map(int, (tmp_path / "e" / "log.txt").read_text().splitlines()[-1].split())) == processors


def test_one_slot_runs_one_job_after_the_other(tmp_path):
    jobs = [python_job(tmp_path, "a", "print('hello')"), python_job(tmp_path, "b", "raise SystemExit(3)")]
    with LocalExecutor(1, poll_seconds=0.01) as executor:
        events = [(event.job.name, event.kind, event.exit_code) for event in executor.run(jobs, lambda _: False)]
    assert events == [("a", "started", 0), ("a", "ended", 0), ("b", "started", 0), ("b", "ended", 3)]
    assert jobs[0].log.read_text() == jobs[0].header + "hello\n"


@pytest.mark.parametrize("is_done", [False, True])
def test_a_job_waits_for_the_process_that_an_earlier_sweep_left(tmp_path, is_done):
    job = python_job(
        tmp_path, "a", f"import pathlib, time; time.sleep(1); pathlib.Path({str(tmp_path)!r}, 'b').touch()"
    )
    with LocalExecutor(1, poll_seconds=0.01) as earlier, LocalExecutor(1, poll_seconds=0.01) as later:
        assert next(earlier.run([job], lambda _: False)).kind == "started"
        kinds = []
        for event in later.run([job], lambda _: is_done):
            kinds.append(event.kind)
            assert (tmp_path / "b").exists() == (event.kind != "waits")
    assert kinds == (["waits", "ended"] if is_done else ["waits", "started", "ended"])
    assert job.log.read_text() == job.header * (1 if is_done else 2)


def test_leaving_the_executor_stops_its_processes(tmp_path):
    job = python_job(tmp_path, "a", "import time; time.sleep(1000)")
    with pytest.raises(KeyError), LocalExecutor(1) as executor:  # noqa: PT012
        for event in executor.run([job], lambda _: False):
            raise KeyError(event)
    with LocalExecutor(1) as executor:
        assert next(executor.run([job], lambda _: False)).kind == "started"  # the log is free again


# Fails once, and leaves a file by which it knows the next time.
FAIL_ONCE = """
import pathlib, sys
once = pathlib.Path({path!r})
if not once.exists():
    once.touch()
    sys.exit("error: not yet")
"""


@pytest.mark.parametrize(("retries", "exit_code", "note"), [(0, 1, ""), (1, 0, "attempt 2"), (2, 0, "attempt 2")])
def test_a_job_that_fails_is_started_again_as_often_as_it_may(tmp_path, retries, exit_code, note):
    job = python_job(tmp_path, "a", FAIL_ONCE.format(path=str(tmp_path / "once")))
    with LocalExecutor(1, Limits(retries=retries), poll_seconds=0.01) as here:
        *_, last = here.run([job], lambda _: False)
    assert (last.kind, last.exit_code, last.note) == ("ended", exit_code, note)
    assert job.log.read_text().count(job.header) == min(retries, 1) + 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_that_was_asked_to_end_is_not_started_again(tmp_path, number):
    job = python_job(tmp_path, "a", f"import os; os.kill(os.getpid(), {int(number)})")
    with LocalExecutor(1, Limits(retries=3), poll_seconds=0.01) as here:
        assert [event.kind for event in here.run([job], lambda _: False)] == ["started", "ended"]


@pytest.mark.parametrize("listens", [True, False])
def test_a_job_whose_time_is_over_saves_its_state_or_is_killed(tmp_path, monkeypatch, listens):
    monkeypatch.setattr(executor, "_SAVING_SECONDS", 0.5)
    answer = "lambda *_: print('saved', flush=True) or sys.exit(143)" if listens else "signal.SIG_IGN"
    job = python_job(
        tmp_path, "a", f"import signal, sys, time; signal.signal(signal.SIGTERM, {answer})\nwhile True: time.sleep(0.1)"
    )
    with LocalExecutor(1, Limits(timeout_minutes=0.05, retries=3), poll_seconds=0.01) as here:
        *_, last = here.run([job], lambda _: False)
    assert (last.exit_code, last.note) == (executor.TIMEOUT, "timeout after 0.05 minutes")
    assert job.log.read_text() == job.header + "saved\n" * listens


def test_a_file_system_without_locks_is_one_on_which_all_locks_are_free(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(executor.locks, "try_lock", refuse)
    with LocalExecutor(1, poll_seconds=0.01) as here:
        kinds = [event.kind for event in here.run([python_job(tmp_path, "a", "")], lambda _: False)]
    assert kinds == ["started", "ended"]
