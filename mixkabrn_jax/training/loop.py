"""Training from a config to a finished workdir. Running the same command again goes on where the last run stopped."""

import math
import signal
import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.data import pipeline
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel, count_parameters
from mixkabrn_jax.training import curve, metrics, optimizer, step, utilisation, workdir
from mixkabrn_jax.training.checkpoint import Checkpoints
from mixkabrn_jax.training.evaluate import evaluate
from mixkabrn_jax.training.experiment import Experiment
from mixkabrn_jax.training.profile import Profile


class Run:
    """An experiment in a workdir, ready to train."""

    def __init__(self, config: Mapping, directory: Path):
        """Checks everything that can be checked before the first step.

        Raises: TypeError, ValueError, OSError with a sentence that names the field or file; nothing is overwritten.
        """
        self.experiment = Experiment.from_dict(config)
        workdir.check(directory, config)
        if (directory / "metrics.jsonl").exists():
            metrics.read(directory / "metrics.jsonl")  # raises for a file that could not be gone on with
        self.corpus = pipeline.load(self.experiment.data, workdir.load_tokenizer(directory))
        self.mesh = sharding.make_mesh(self.experiment.mesh)
        self.directory = directory
        workdir.claim(directory, config, self.corpus.tokenizer, self.corpus.fingerprints())

    def train(self) -> int:
        """Trains to the last step, or to the first boundary after SIGINT, SIGTERM or SIGUSR1.

        Raises: BlockingIOError when another process trains in the directory; FloatingPointError when the loss stops
            being a number, and nothing is saved from then on; OSError when a checkpoint or a line of the log cannot be
            written, or no checkpoint is intact; `checkpoint.DoesNotFitError` when one is of another model.
        Returns: 0, or 128 + the signal's number when stopped by one (the state is saved first).
        """
        with workdir.lock(self.directory):
            return self._train()

    def _train(self):
        experiment = self.experiment
        model_config = experiment.model_config(self.corpus.tokenizer.vocab_size)
        model = jax.jit(lambda: LanguageModel(model_config, rngs=nnx.Rngs(experiment.seed)))()
        update_rule = optimizer.make(experiment.optimizer, experiment.num_steps)
        graph, _, _ = step.split(model)
        state = sharding.place(step.init(model, update_rule), "", self.mesh)
        batches = iter(pipeline.train_dataset(self.corpus.train, experiment.data, experiment.seed))
        about = {"config": workdir.load_config(self.directory), "data": self.corpus.fingerprints()}
        checkpoints = Checkpoints(self.directory / "checkpoints", experiment.checkpoint, about=about)
        start = checkpoints.latest_intact_step() or 0
        if start:
            state, iterator_state = checkpoints.restore(start, state)
            batches.set_state(iterator_state)
        report = _Report(self, state, model_config, count_parameters(model))
        for at, loss in report.validation_losses().items():
            checkpoints.note_loss(at, loss)
        evaluate_step = jax.jit(step.make_evaluate_step(graph))
        profile = Profile(experiment.profile, self.directory / "profile")
        stopped_by = 0
        with _Signals() as signals, report, profile, checkpoints:
            if start and self._validates_at(start) and start not in report.validation_losses():
                # The run was killed just before it, or went back to a checkpoint from before it.
                checkpoints.note_loss(start, self._validate(evaluate_step, state, start, report))
            if start < experiment.num_steps:
                update = self._compile(step.make_train_step(graph, update_rule, experiment.training), state)
            report.start_clock()
            at = start
            while at < experiment.num_steps:
                at += 1
                profile.before(at)
                state = update(state, self._place(next(batches)))
                profile.after(at, state)
                report.flush()
                checkpoints.check_for_errors()
                is_last = at == experiment.num_steps
                # Read once: a signal that comes during what follows is met, and saved for, after the next step.
                stopped_by = signals.received
                if at % experiment.log_every == 0 or is_last:
                    report.train(at, state.sums)
                    state = state._replace(sums=jax.tree.map(jnp.zeros_like, state.sums))
                if at % experiment.checkpoint.every == 0 or is_last or stopped_by:
                    with report.aside(state):
                        report.require_number(at, "size of the parameters", step.size(state.params))
                        report.sync()
                        checkpoints.save(state, batches.get_state())
                if self._validates_at(at):
                    with report.aside(state):
                        checkpoints.note_loss(at, self._validate(evaluate_step, state, at, report))
                if stopped_by:
                    break
            report.flush()
        report.end(at, is_complete=at == experiment.num_steps)
        batches.close()
        return 128 + stopped_by if stopped_by else 0

    def _place(self, batch):
        return sharding.place(batch, "BT", self.mesh)

    def _compile(self, train_step, state):
        """Ahead of the first step, so that its time does not count as training."""
        example = {key: np.stack([row] * self.experiment.data.batch_size) for key, row in self.corpus.train[0].items()}
        return jax.jit(train_step, donate_argnums=0).lower(state, self._place(example)).compile()

    def _validates_at(self, at):
        return at % self.experiment.evaluate_every == 0 or at == self.experiment.num_steps

    def _validate(self, evaluate_step, state, at, report):
        """Over a sample of the validation windows; after the last step, over all of them. Returns the loss."""
        windows = None if at == self.experiment.num_steps else self.experiment.evaluate_windows
        batches = pipeline.validation_batches(self.corpus.validation, self.experiment.data.batch_size, windows)
        return report.validation(at, evaluate(evaluate_step, state.params, state.buffers, batches, self._place))


class _Report:
    """What a run tells: the metrics file, the status line, the curve."""

    def __init__(self, run: Run, state: step.TrainState, model_config: ModelConfig, parameters: dict[str, int]):
        start = int(state.step)
        self._run, self._parameters = run, parameters
        self._file = metrics.MetricsFile(run.directory / "metrics.jsonl", start)
        self._progress = metrics.Progress(run.experiment.num_steps, start)
        self._rate = optimizer.learning_rate(run.experiment.optimizer, run.experiment.num_steps)
        self._tokens_before = float(state.sums.tokens)  # since the last line, in an earlier process
        self._pending = None
        self._flops_per_token = utilisation.model_flops_per_token(
            model_config, parameters, run.experiment.data.sequence_length
        )
        sizes = ", ".join(f"{count:,} {name}" for name, count in parameters.items())
        windows = f"{len(run.corpus.train):,} training and {len(run.corpus.validation):,} validation windows"
        where = f"going on from step {start} in" if start else "new run in"
        self._progress.note(f"parameters: {sizes}; {windows}; {where} {run.directory}")

    def sync(self):
        self._file.sync()

    def validation_losses(self):
        """By step, of the run so far."""
        return {record["step"]: record["loss"] for record in self._file.kept if record["split"] == "validation"}

    def start_clock(self):
        self._progress.start_clock()
        self._clock = time.monotonic()

    @contextmanager
    def aside(self, state):
        """Around what is not training: its time does not count in tokens per second."""
        jax.block_until_ready(state)
        self.flush()
        began = time.monotonic()
        yield
        self._clock += time.monotonic() - began

    def train(self, at, sums):
        """Takes a line of the log; `flush` writes it, once the next step is under way: the device never waits."""
        self._pending = at, sums

    def flush(self):
        if self._pending is None:
            return
        (at, sums), self._pending = self._pending, None
        values = step.means(sums, self._run.experiment.training)  # waits for the step
        self.require_number(at, "loss", values["loss"])
        values["learning_rate"] = float(self._rate(at - 1))
        now = time.monotonic()
        values["tokens_per_second"] = (float(sums.tokens) - self._tokens_before) / (now - self._clock)
        self._clock, self._tokens_before = now, 0.0
        values |= self._utilisation(values["tokens_per_second"])
        self._file.write(at, "train", values)
        self._progress.show(at, values)

    def _utilisation(self, tokens_per_second):
        mesh = self._run.mesh
        device = mesh.local_devices[0]
        flops = tokens_per_second * self._flops_per_token / mesh.size
        figures = {"model_flops_per_second": flops, "peak_memory_bytes": utilisation.peak_memory_bytes(device)}
        peak = utilisation.peak_flops(device)
        return figures if peak is None else figures | {"model_flops_utilisation": flops / peak}

    def require_number(self, at, name, value):
        """Raises FloatingPointError when training has diverged: nothing of it is logged or saved."""
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the {name} is {value} at step {at}: the last checkpoint is from before; try a lower "
                f"config.optimizer.peak_rate={self._run.experiment.optimizer.peak_rate} in another --workdir"
            )

    def validation(self, at, sums):
        values = step.means(sums, self._run.experiment.training)
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
        directory = self._run.directory
        curve.plot(metrics.read(directory / "metrics.jsonl"), directory / "loss.png")
        if is_complete:
            self._progress.note(f"done at step {at}: {directory}/metrics.jsonl, loss.png, checkpoints")
        else:
            self._progress.note(f"stopped at step {at}; the same command goes on from there")


class _Signals:
    """Remembers the first signal that asks for an end; each of them acts as usual when it comes again.

    SIGUSR1 is what Slurm sends ahead of a preemption (--signal=USR1@60); the SIGTERM that follows may find the run
    still saving.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self):
        self.received = 0
        self._previous = {}

    def __enter__(self):
        for number in self.NUMBERS:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number, _frame):
        self.received = self.received or number
        signal.signal(number, self._previous[number])

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
