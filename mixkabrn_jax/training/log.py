"""What a run tells while it trains: records in `metrics.jsonl`, written one step late, and the status line."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixkabrn_jax import processes
from mixkabrn_jax.layers import variables
from mixkabrn_jax.models.language import count_parameters
from mixkabrn_jax.models.size import sizes
from mixkabrn_jax.runs.metrics import MetricsFile
from mixkabrn_jax.runs.model import of_config
from mixkabrn_jax.training import guard, optimizer, skips, totals
from mixkabrn_jax.training.divergence import Divergence
from mixkabrn_jax.training.progress import Progress
from mixkabrn_jax.training.step import Setup, TrainState
from mixkabrn_jax.training.throughput import Throughput
from mixkabrn_jax.training.totals import Totals
from mixkabrn_jax.training.utilisation import model_flops_per_token


class _Pending(NamedTuple):
    """A record that is not written yet."""

    step: int
    totals: Totals
    history: guard.History | None
    finished: Future


def begin(training, setup: Setup, state: TrainState, latest_checkpoint: Callable[[], int | None]) -> "Log":
    """Opens the log where a run goes on, and says what is trained, and on what.

    Args:
        training: `loop.Training`.
        state: where the run goes on; records after its step are dropped.
        latest_checkpoint: the step of the newest one.
    """
    workdir, experiment, corpus = training.workdir, training.experiment, training.corpus
    model, step, is_first = (
        variables.merge(setup.graph, state.params, state.buffers),
        int(state.step),
        processes.is_first(),
    )
    beside = ""
    if training.base is not None:
        beside = f" stay as they are, {count_parameters(model)['total']:,} of adapters are trained"
        model = of_config(training.base.config, corpus.tokenizer.vocab_size)
    parameters = count_parameters(model)
    flops_per_token = model_flops_per_token(model, parameters, experiment.data.sequence_length)
    kept = sizes(model, experiment.data.sequence_length)["parameter_bytes"]
    log = Log(
        training,
        {
            "parameters": parameters["total"],
            "active_parameters": parameters["active"],
            "file_bytes": kept["file"],
            "int8_file_bytes": kept["int8_file"],
        },
        MetricsFile(workdir / "metrics.jsonl", step, is_written=is_first),
        Progress(experiment.num_steps, step, is_shown=is_first),
        Throughput(flops_per_token, training.mesh, tokens_before=float(state.totals.tokens)),
        Divergence(workdir, experiment, latest_checkpoint),
    )
    counts = ", ".join(f"{count:,} {name}" for name, count in parameters.items())
    windows = f"{len(corpus.train):,} training and {len(corpus.validation):,} validation windows"
    where = f"going on from step {step} in" if step else "new run in"
    log.note(f"parameters: {counts}, {kept['file']:,} bytes in a file{beside}; {windows}; {where} {workdir}")
    return log


class Log:
    """The records of one run, for programs and for people. Of several processes, the first one writes them."""

    def __init__(
        self,
        training,
        sizes: dict[str, int],
        file: MetricsFile,
        progress: Progress,
        throughput: Throughput,
        divergence: Divergence,
    ):
        """
        Args:
            training: `loop.Training`.
            sizes: of the model, for records of validations.
        """
        self._experiment, self._sizes = training.experiment, sizes
        self._file, self._progress, self._throughput, self._divergence = file, progress, throughput, divergence
        self._skips_told = {record["step"] for record in file.kept if record["split"] == "skipped"}
        self._rate = optimizer.learning_rate(self._experiment.optimizer, self._experiment.num_steps)
        self._pending: _Pending | None = None
        self._last_validation = training.corpus.validation.num_targets
        self.validation_losses = {r["step"]: r["loss"] for r in file.kept if r["split"] == "validation"}
        """By step, of the whole run so far."""
        self.note, self.sync, self.require_finite = progress.note, file.sync, divergence.require_finite

    def start_clock(self) -> None:
        """Tokens per second and the time left are counted from here."""
        self._progress.start_clock()
        self._throughput.start()

    @contextmanager
    def aside(self, state: TrainState) -> Iterator[None]:
        """Around what is not training: its time does not count in tokens per second.

        Raises: FloatingPointError when the guard has given up, even between records: such a state is not to be saved.
        """
        jax.block_until_ready(state)
        self.write_pending()
        if self._divergence.has_given_up(state.guard):
            self._end_for_skips(state.guard)
        with self._throughput.aside():
            yield

    def take(self, step: int, state: TrainState) -> TrainState:
        """Takes what the record of a step is made of. Returns the state in which the next record begins anew.

        `write_pending` writes it, once the next step is under way: the device never waits.
        """
        finished = self._throughput.when_ready(state.totals)
        # The next step overwrites the history; the totals it begins anew.
        self._pending = _Pending(step, state.totals, jax.tree.map(jnp.copy, state.guard), finished)
        zeros = jax.tree.map(jnp.zeros_like, state.totals)
        return state._replace(totals=zeros, guard=guard.without_skips(state.guard))

    def write_pending(self) -> None:
        """Writes the record that was taken, if there is one.

        Raises: FloatingPointError where training has diverged, OSError where the disk is full.
        """
        if self._pending is None:
            return
        (step, found, history, finished), self._pending = self._pending, None
        values = totals.means(found, self._experiment.objective)  # waits for the step
        updates = step
        if history is not None:
            updates, values["skipped"] = int(history.accepted), int(history.skips.count)
        if found.updates:
            self.require_finite(step, "loss", values["loss"])
        else:
            values |= {"loss": math.nan, "bits_per_byte": math.nan}  # means of nothing: all were skipped
        values["learning_rate"] = float(self._rate(max(updates - 1, 0)))
        values |= self._throughput.figures(float(found.tokens), finished.result())
        self._write_skips(history)
        self._file.write(step, "train", values)
        self._progress.show(step, values, self._seconds_to_validate(values["tokens_per_second"]))
        if self._divergence.has_given_up(history):
            self._end_for_skips(history)

    def _seconds_to_validate(self, tokens_per_second):
        # The forward pass is a third of an update's flops (Kaplan et al. 2020, sec. 2.1).
        return self._last_validation / (3 * tokens_per_second) if tokens_per_second else 0.0

    def validation(self, step: int, found: Totals) -> float:
        """Writes a record of the validation split. Returns the loss."""
        values = totals.means(found, self._experiment.objective)
        self.require_finite(step, "validation loss", values["loss"])
        self._file.write(step, "validation", values | {"tokens": int(found.tokens)} | self._sizes)
        self.validation_losses[step] = values["loss"]
        self.note(
            f"step {step}  validation loss {values['loss']:.4f}  bits/byte {values['bits_per_byte']:.4f} "
            f"over {int(found.tokens):,} tokens"
        )
        return values["loss"]

    def _write_skips(self, history):
        """A record for each update that was skipped since the last record of training."""
        for skip in skips.records(history.skips) if history is not None else ():
            step = skip.pop("step")
            # Not twice: an earlier process may have written it, with a record that came after its last checkpoint.
            if step not in self._skips_told:
                self._skips_told.add(step)
                self.note(skips.describe(step, skip))
                self._file.write(step, "skipped", skip)

    def _end_for_skips(self, history):
        self._write_skips(history)
        raise self._divergence.too_many_skips(history)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._throughput.close()
        self._file.close()
