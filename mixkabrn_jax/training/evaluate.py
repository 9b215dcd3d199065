"""Loss over a set of windows, as one sum; and the validation of a run."""

from collections.abc import Callable, Iterable
from functools import partial

import jax
import jax.numpy as jnp

from mixkabrn_jax import processes, sharding
from mixkabrn_jax.data import pipeline
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.training.log import Log
from mixkabrn_jax.training.step import Setup, TrainState, evaluate_step
from mixkabrn_jax.training.totals import Totals


def evaluate(step: Callable, params, buffers, batches: Iterable, place: Callable) -> Totals:
    """Adds up what `step(params, buffers, batch)` returns.

    Args:
        batches: dicts of arrays `[B, T]`, all of one shape; padding has a mask of 0.
        place: puts a batch on the devices.
    """
    total = None
    for batch in batches:
        totals = step(params, buffers, place(batch))
        total = totals if total is None else jax.tree.map(jnp.add, total, totals)
    return total


class Validation:
    """Validates a run on its way: its loss goes to the log, and to the checkpoints, which keep the best."""

    def __init__(self, training, setup: Setup, log: Log, checkpoints: Checkpoints):
        """
        Args:
            training: `loop.Training`.
        """
        self._experiment, self._windows = training.experiment, training.corpus.validation
        self._mesh, self._log, self._checkpoints = training.mesh, log, checkpoints
        self._step = jax.jit(partial(evaluate_step, setup=setup))
        for step, loss in log.validation_losses.items():
            checkpoints.note_loss(step, loss)

    def run(self, step: int, state: TrainState) -> None:
        """Over a sample of the validation windows; before the first step and after the last one, over all of them."""
        is_whole, batch_size = step in (0, self._experiment.num_steps), self._experiment.data.batch_size
        if is_whole:
            which = ", of which those of prompts do not count" if self._experiment.data.loss_on == "targets" else ""
            self._log.note(f"step {step}  validating on all {self._windows.num_targets:,} tokens{which}")
        batches = pipeline.validation_batches(
            self._windows,
            batch_size,
            None if is_whole else self._experiment.evaluate_windows,
            sharding.local_rows(self._mesh, batch_size),
        )

        def place(batch):
            return sharding.place_rows(batch, self._mesh, batch_size)

        totals = evaluate(self._step, state.params, state.buffers, batches, place)
        self._checkpoints.note_loss(step, self._log.validation(step, totals))

    def catch_up(self, step: int, state: TrainState) -> None:
        """Of a step that a run goes on from: it was killed just before this, or goes on from an older checkpoint, or
        starts as another run's model, whose loss is what the first update is to be held against."""
        is_due = step % self._experiment.evaluate_every == 0 or step == self._experiment.num_steps
        is_due = is_due and bool(step or self._experiment.init_from)
        if is_due and processes.broadcast_from_first(lambda: step not in self._log.validation_losses):
            self.run(step, state)
