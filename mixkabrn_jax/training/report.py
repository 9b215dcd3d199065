"""What a run tells while it trains: the log, one step late; the status line; the curve."""

import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixkabrn_jax import processes
from mixkabrn_jax.data import pipeline
from mixkabrn_jax.models.language import LanguageModel, count_parameters
from mixkabrn_jax.runs import metrics
from mixkabrn_jax.training import curve, guard, optimizer, progress, step, totals, utilisation
from mixkabrn_jax.training.experiment import Experiment


class Report:
    """What a run tells: the metrics file, the status line, the curve. Of several processes, the first one tells it."""

    def __init__(
        self,
        directory: Path,
        experiment: Experiment,
        mesh: Mesh,
        model: LanguageModel,
        state: step.TrainState,
        latest_checkpoint: Callable[[], int | None],
    ):
        """
        Args:
            model: an abstract one will do.
            state: where the run goes on; lines after its step are dropped.
            latest_checkpoint: the step of the newest one.
        """
        start = int(state.step)
        self._directory, self._experiment, self._mesh = directory, experiment, mesh
        self._latest_checkpoint = latest_checkpoint
        self._parameters = count_parameters(model)
        self._is_first = processes.is_first()
        self._file = metrics.MetricsFile(directory / "metrics.jsonl", start, is_written=self._is_first)
        self._skips_told = {record["step"] for record in self._file.kept if record["split"] == "skipped"}
        self._progress = progress.Progress(experiment.num_steps, start, is_shown=self._is_first)
        self._rate = optimizer.learning_rate(experiment.optimizer, experiment.num_steps)
        self._tokens_before = float(state.sums.tokens)  # since the last line, in an earlier process
        self._pending = None
        self._flops_per_token = utilisation.model_flops_per_token(
            model, self._parameters, experiment.data.sequence_length
        )

    def begin(self, corpus: pipeline.Corpus, start: int, changes: list[str]) -> None:
        """Says what is trained, on what, and what of the config is not as it was."""
        sizes = ", ".join(f"{count:,} {name}" for name, count in self._parameters.items())
        windows = f"{len(corpus.train):,} training and {len(corpus.validation):,} validation windows"
        where = f"going on from step {start} in" if start else "new run in"
        self._progress.note(f"parameters: {sizes}; {windows}; {where} {self._directory}")
        for change in changes:
            self._progress.note(f"config.{change} from step {start}")

    def sync(self):
        """Waits until all lines would survive a power cut."""
        self._file.sync()

    def validation_losses(self):
        """By step, of the run so far."""
        return {record["step"]: record["loss"] for record in self._file.kept if record["split"] == "validation"}

    def start_clock(self):
        """Tokens per second are counted from here."""
        self._progress.start_clock()
        self._clock = time.monotonic()

    @contextmanager
    def aside(self, state):
        """Around what is not training: its time does not count in tokens per second.

        Raises: FloatingPointError when the guard has given up, even between lines: such a state is not to be saved.
        """
        jax.block_until_ready(state)
        self.flush()
        if guard.has_given_up(state.guard, self._experiment.guard):
            self._end_for_skips(state.guard)
        began = time.monotonic()
        yield
        self._clock += time.monotonic() - began

    def train(self, at, state):
        """Takes a line of the log; `flush` writes it, once the next step is under way: the device never waits."""
        # The next step overwrites the history; the sums it begins anew.
        self._pending = at, state.sums, jax.tree.map(jnp.copy, state.guard)

    def flush(self):
        """Writes the line that waits, if one does."""
        if self._pending is None:
            return
        (at, sums, history), self._pending = self._pending, None
        values = totals.means(sums, self._experiment.training)  # waits for the step
        updates = at
        if history is not None:
            updates, values["skipped"] = int(history.accepted), int(history.skips.count)
        if sums.updates:
            self.require_number(at, "loss", values["loss"])
        else:
            values |= {"loss": math.nan, "bits_per_byte": math.nan}  # means of nothing: all were skipped
        values["learning_rate"] = float(self._rate(max(updates - 1, 0)))
        now = time.monotonic()
        values["tokens_per_second"] = (float(sums.tokens) - self._tokens_before) / (now - self._clock)
        self._clock, self._tokens_before = now, 0.0
        values |= self._utilisation(values["tokens_per_second"])
        if history is not None:
            self._skips(history)
        self._file.write(at, "train", values)
        self._progress.show(at, values)
        if guard.has_given_up(history, self._experiment.guard):
            self._end_for_skips(history)

    def _utilisation(self, tokens_per_second):
        device = self._mesh.local_devices[0]
        flops = tokens_per_second * self._flops_per_token / self._mesh.size
        figures = {"model_flops_per_second": flops, "peak_memory_bytes": utilisation.peak_memory_bytes(device)}
        peak = utilisation.peak_flops(device)
        return figures if peak is None else figures | {"model_flops_utilisation": flops / peak}

    def _skips(self, history):
        """A line for each update that was skipped since the last line of training."""
        for skip in guard.records(history):
            at = skip.pop("step")
            # Not twice: an earlier process may have written it, with a line that came after its last checkpoint.
            if at not in self._skips_told:
                self._skips_told.add(at)
                self._progress.note(guard.describe(at, skip))
                self._file.write(at, "skipped", skip)

    def _end_for_skips(self, history):
        self._skips(history)
        last, config = guard.records(history)[-1], self._experiment.guard
        raise self._diverged(
            f"{guard.describe(last.pop('step'), last)}, the last of "
            f"config.guard.max_consecutive_skips={config.max_consecutive_skips} in a row",
            "look at the batches that metrics.jsonl names, or try a higher "
            f"config.guard.sigmas={config.sigmas} or a lower ",
        )

    def require_number(self, at, name, value):
        """Raises FloatingPointError when training has diverged: nothing of it is logged or saved."""
        if not math.isfinite(value):
            raise self._diverged(f"the {name} is {value} at step {at}", "try a lower ")

    def _diverged(self, how, advice):
        last, rate = self._latest_checkpoint(), self._experiment.optimizer.peak_rate
        checkpoint = f"that of step {last} in {self._directory / 'checkpoints'}" if last else "not there yet"
        return FloatingPointError(
            f"{how}; the last good checkpoint is {checkpoint}; {advice}config.optimizer.peak_rate={rate} in another "
            "--workdir"
        )

    def validation(self, at, sums):
        """Writes a line of the validation split. Returns the loss."""
        values = totals.means(sums, self._experiment.training)
        self.require_number(at, "validation loss", values["loss"])
        sizes = {"parameters": self._parameters["total"], "active_parameters": self._parameters["active"]}
        self._file.write(at, "validation", values | {"tokens": int(sums.tokens)} | sizes)
        self._progress.note(
            f"step {at}  validation loss {values['loss']:.4f}  bits/byte {values['bits_per_byte']:.4f} "
            f"over {int(sums.tokens):,} tokens"
        )
        return values["loss"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def end(self, at, *, is_complete):
        """Draws the curve and says how the run ended."""
        directory = self._directory
        if self._is_first:
            curve.plot(self._file.records(), directory / "loss.png")
        if is_complete:
            self._progress.note(f"done at step {at}: {directory}/metrics.jsonl, loss.png, checkpoints")
        else:
            self._progress.note(f"stopped at step {at}; the same command goes on from there")
