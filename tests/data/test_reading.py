"""Threads that hang or fail, and the position that the batches have then."""

import itertools
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mixkabrn_jax.data.reading import Batches

THREADS = [0, 1, 3]


class Source:
    """Batch i is the number i; reading one of them waits, or fails the first time."""

    def __init__(self, hangs_at=None, fails_at=None):
        self.hangs_at, self.fails_at, self.read = hangs_at, fails_at, []
        self.is_free, self.error = threading.Event(), OSError("the disk is gone")

    def __getitem__(self, index):
        self.read.append(index)
        if index == self.hangs_at:
            self.is_free.wait()
        if index == self.fails_at:
            self.fails_at = None
            raise self.error
        return index


def take(batches, number):
    return list(itertools.islice(batches, number))


@pytest.mark.parametrize("num_threads", THREADS)
def test_a_batch_that_does_not_come_is_a_timeout_and_the_one_that_follows_once_it_does(num_threads):
    source = Source(hangs_at=2)
    batches = Batches(source, num_threads, timeout_seconds=0.1)
    assert take(batches, 2) == [0, 1]
    where = r"batch 2 is not there after config\.data\.timeout_seconds=0\.1: the thread that reads it is in wait, "
    for _ in range(2):
        with pytest.raises(TimeoutError, match=where):
            next(batches)
        assert batches.get_state() == {"next_index": 2}
    source.is_free.set()
    assert take(batches, 5) == [2, 3, 4, 5, 6]
    batches.close()


@pytest.mark.parametrize("num_threads", THREADS)
def test_what_a_thread_raises_surfaces_as_itself_at_its_batch_which_can_be_read_again(num_threads):
    for timeout in (0, 9):
        source = Source(fails_at=2)
        batches = Batches(source, num_threads, timeout)
        assert take(batches, 2) == [0, 1]
        with pytest.raises(OSError, match="the disk is gone") as caught:
            next(batches)
        assert caught.value is source.error
        assert caught.traceback[-1].name == "__getitem__"
        assert batches.get_state() == {"next_index": 2}
        assert take(batches, 3) == [2, 3, 4]
        batches.close()


@pytest.mark.parametrize("num_threads", THREADS)
def test_the_position_is_that_of_the_batches_handed_out_and_can_be_set_past_one_that_hangs(num_threads):
    source = Source(hangs_at=4)
    batches = Batches(source, num_threads, timeout_seconds=0.1)
    for position in range(4):
        assert batches.get_state() == {"next_index": position}
        assert next(batches) == position
        # Never further ahead than two batches a thread.
        assert max(source.read) <= position + 2 * num_threads
    with pytest.raises(TimeoutError):
        next(batches)
    for position in (5, 0):
        batches.set_state({"next_index": position})
        assert take(batches, 3) == [position, position + 1, position + 2]
    source.is_free.set()
    batches.close()
    assert next(batches) == 3
    batches.close()


PROGRAM = """
import atexit, sys, threading, time
from mixkabrn_jax.data.reading import Batches

def tell_threads():  # registered first, called last
    print([thread.name for thread in threading.enumerate()], file=sys.stderr)

class Source:
    def __getitem__(self, index):
        time.sleep({seconds})

atexit.register(tell_threads)
next(Batches(Source(), 2, {timeout}))
"""


def process(**values):
    """(exit code, what a process wrote) that reads a batch and then ends, its iterator still open."""
    arguments = [sys.executable, "-c", PROGRAM.format(**values)]
    run = subprocess.run(arguments, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    return run.returncode, run.stderr


def test_a_process_ends_while_a_thread_hangs():
    code, output = process(seconds=600, timeout=0.1)
    assert code == 1
    assert "TimeoutError: batch 0 is not there" in output


def test_threads_that_do_not_hang_end_before_their_process():
    """One that meets the end of the interpreter in a library's C++ aborts the process."""
    assert process(seconds=0.05, timeout=9) == (0, "['MainThread']\n")
