"""Each record has the tokens per second of its own steps, whenever it is written."""

import threading

import pytest

from mixkabrn_jax import sharding
from mixkabrn_jax.training.throughput import Throughput

ONE_DEVICE = sharding.MeshConfig(data=1, expert=1, model=1, context=1)


class Step:
    """What a step computes: an array that is there once the device is done with it."""

    def __init__(self):
        self.is_done = threading.Event()

    def block_until_ready(self):
        self.is_done.wait()
        return self


def test_a_record_that_is_written_late_and_one_that_is_not_have_the_pace_of_their_own_steps():
    """As on a CPU, where a record is written when the next step is done, but for the last one and one before an aside.

    Steps of 100 tokens take 2 seconds, and an aside of 50 seconds comes after the second.
    """
    now = [0.0]
    throughput = Throughput(3.0, sharding.make_mesh(ONE_DEVICE), tokens_before=40.0, clock=lambda: now[0])

    def run(seconds):
        """A step, and the time at which it is done."""
        step = Step()
        finished = throughput.when_ready(step)
        now[0] += seconds
        step.is_done.set()
        finished.result()
        return finished

    def figures(tokens, finished):
        return throughput.figures(tokens, finished.result())["tokens_per_second"]

    now[0] = 7.0
    throughput.start()
    first = run(2.0)
    second = run(2.0)
    assert figures(140.0, first) == 50.0  # 40 of the tokens are an earlier process's
    assert figures(100.0, second) == 50.0  # at once
    with throughput.aside():
        now[0] += 50.0
    third, fourth = run(2.0), run(4.0)
    assert figures(100.0, third) == 50.0
    last = throughput.figures(100.0, fourth.result())
    assert last["tokens_per_second"] == 25.0
    assert last["model_flops_per_second"] == 75.0
    assert last["peak_memory_bytes"] > 0
    throughput.close()


def test_a_step_that_fails_is_told_where_its_record_is_written():
    class Failing(Step):
        def block_until_ready(self):
            raise FloatingPointError("out of range")

    throughput = Throughput(3.0, sharding.make_mesh(ONE_DEVICE))
    with pytest.raises(FloatingPointError, match="out of range"):
        throughput.when_ready(Failing()).result()
    throughput.close()
