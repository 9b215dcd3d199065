"""How fast a machine trains, measured for a few seconds, so that a number of steps fits a number of minutes."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from mixkabrn_jax import sharding
from mixkabrn_jax.data import pipeline
from mixkabrn_jax.training import start
from mixkabrn_jax.training.experiment import Experiment


class Pace(NamedTuple):
    """What the parts of a run take on this machine, in seconds."""

    start: float
    """From text that is read to the end of the first update; most of it is compilation."""
    step: float
    whole_validation: float
    """About, of all that is held out."""


def measure(config: Mapping, seconds: float, clock: Callable[[], float] = time.monotonic) -> Pace:
    """Trains for so many seconds and throws the result away.

    Args:
        config: of an experiment; nothing is written but its tokens, which the run itself finds again.
        clock: seconds since any moment.
    Raises: as `loop.prepare`, for what it checks of the config and its data.
    """
    experiment = Experiment.from_dict(config)
    mesh = sharding.make_mesh(experiment.mesh)
    base, tokenizer = start.given(experiment)
    corpus = pipeline.load(experiment.data, tokenizer)
    entered = clock()
    setup, state = start.new(experiment, corpus.tokenizer.vocab_size, mesh, base)
    batch_size = experiment.data.batch_size
    rows = sharding.local_rows(mesh, batch_size)
    batches = pipeline.train_batches(corpus.train, experiment.data, experiment.seed, rows)
    update = start.compile(setup, state, corpus, batch_size)

    def step(state):
        return jax.block_until_ready(update(state, sharding.place_rows(next(batches), mesh, batch_size)))

    state = step(state)  # apart: memory is touched for the first time
    began, num_steps = clock(), 0
    while not num_steps or clock() - began < seconds:
        state = step(state)
        num_steps += 1
    taken = (clock() - began) / num_steps
    batches.close()
    # The forward pass is a third of an update's flops (Kaplan et al. 2020, sec. 2.1).
    return Pace(began - entered, taken, taken * len(corpus.validation) / batch_size / 3)
