"""Training from a config to a finished workdir. Running the same command again goes on where the last run stopped."""

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.data import pipeline
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel, count_parameters
from mixkabrn_jax.training import curve, metrics, optimizer, step, workdir
from mixkabrn_jax.training.checkpoint import CheckpointConfig, Checkpoints
from mixkabrn_jax.training.evaluate import evaluate


@dataclass(frozen=True)
class Experiment:
    """A config, checked: an unknown key is a TypeError, an impossible value a ValueError that names its field."""

    seed: int
    num_steps: int
    log_every: int
    evaluate_every: int
    evaluate_windows: int
    """Validation windows of an evaluation on the way; the last one takes all."""
    model: Mapping
    """The fields of `ModelConfig` but vocab_size, which the tokenizer decides."""
    data: pipeline.DataConfig
    optimizer: optimizer.OptimizerConfig
    training: step.StepConfig
    checkpoint: CheckpointConfig
    mesh: sharding.MeshConfig

    def __post_init__(self):
        for field in ("num_steps", "log_every", "evaluate_every", "evaluate_windows"):
            if getattr(self, field) < 1:
                raise ValueError(f"config.{field}={getattr(self, field)}: at least 1 is needed")
        parts = self.training.accumulation_steps * self.mesh.data
        if self.data.batch_size % parts:
            raise ValueError(
                f"config.data.batch_size={self.data.batch_size} is not a multiple of "
                f"config.training.accumulation_steps * config.mesh.data = {parts}"
            )
        self.model_config(vocab_size=1)

    @classmethod
    def from_dict(cls, config: Mapping) -> "Experiment":
        """From `config.json` or a ConfigDict's `to_dict()`."""
        sections = {
            "data": pipeline.DataConfig,
            "optimizer": optimizer.OptimizerConfig,
            "training": step.StepConfig,
            "checkpoint": CheckpointConfig,
            "mesh": sharding.MeshConfig,
        }
        return cls(**{key: sections[key](**value) if key in sections else value for key, value in config.items()})

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The model for a tokenizer of this size."""
        return ModelConfig(vocab_size=vocab_size, **self.model)


class Run:
    """An experiment in a workdir, ready to train."""

    def __init__(self, config: Mapping, directory: Path):
        """Checks everything that can be checked before the first step.

        Raises: TypeError, ValueError, OSError with a sentence that names the field or file; nothing is overwritten.
        """
        self.experiment = Experiment.from_dict(config)
        self.directory = directory
        self.corpus = pipeline.load(self.experiment.data, workdir.load_tokenizer(directory))
        self.mesh = sharding.make_mesh(self.experiment.mesh)
        workdir.claim(directory, config)
        workdir.save_tokenizer(directory, self.corpus.tokenizer)

    def train(self) -> int:
        """Trains to the last step, or to the first boundary after SIGINT or SIGTERM.

        Returns: 0, or 128 + the signal's number when stopped by one (the state is saved first).
        """
        experiment = self.experiment
        model_config = experiment.model_config(self.corpus.tokenizer.vocab_size)
        model = LanguageModel(model_config, rngs=nnx.Rngs(experiment.seed))
        update_rule = optimizer.make(experiment.optimizer, experiment.num_steps)
        graph, _, _ = step.split(model)
        state = sharding.place(step.init(model, update_rule), "", self.mesh)
        batches = iter(pipeline.train_dataset(self.corpus.train, experiment.data, experiment.seed))
        checkpoints = Checkpoints(self.directory / "checkpoints", keep=experiment.checkpoint.keep)
        start = checkpoints.latest_step() or 0
        if start:
            state, iterator_state = checkpoints.restore(start, state)
            batches.set_state(iterator_state)

        sizes = count_parameters(model)
        progress = metrics.Progress(experiment.num_steps, start)
        progress.note(
            f"{sizes['total']:,} parameters, {sizes['active']:,} active for a token, {sizes['embedding']:,} embedding; "
            + (f"going on from step {start}" if start else f"new run in {self.directory}")
        )
        log = metrics.MetricsFile(self.directory / "metrics.jsonl", start)
        update = jax.jit(step.make_train_step(graph, update_rule, experiment.training), donate_argnums=0)
        place = partial(sharding.place, letters="BT", mesh=self.mesh)
        evaluate_step = jax.jit(step.make_evaluate_step(graph))
        rate = optimizer.learning_rate(experiment.optimizer, experiment.num_steps)

        def validate(at):
            windows = None if at == experiment.num_steps else experiment.evaluate_windows
            held_out = pipeline.validation_batches(self.corpus.validation, experiment.data.batch_size, windows)
            sums = evaluate(evaluate_step, state.params, state.buffers, held_out, place)
            values = step.means(sums, experiment.training.balance_loss)
            log.write(at, "validation", values | {"tokens": int(sums.tokens)})
            progress.note(f"step {at}  validation loss {values['loss']:.4f}  bits/byte {values['bits_per_byte']:.4f}")

        clock = time.monotonic()
        with _Signals() as signals:
            for at in range(start + 1, experiment.num_steps + 1):
                state = update(state, place(next(batches)))
                if at % experiment.log_every == 0 or at == experiment.num_steps:
                    values = step.means(state.sums, experiment.training.balance_loss)
                    num_tokens = float(state.sums.tokens)
                    now = time.monotonic()
                    values["learning_rate"] = float(rate(at - 1))
                    values["tokens_per_second"] = num_tokens / (now - clock)
                    log.write(at, "train", values)
                    progress.show(at, values)
                    state = state._replace(sums=jax.tree.map(jnp.zeros_like, state.sums))
                    clock = time.monotonic()
                is_last = at == experiment.num_steps
                if at % experiment.evaluate_every == 0 or is_last:
                    validate(at)
                    clock = time.monotonic()
                if at % experiment.checkpoint.every == 0 or is_last or signals.received:
                    checkpoints.save(state, batches.get_state())
                    clock = time.monotonic()
                if signals.received:
                    progress.note(f"stopped at step {at}; the same command goes on from there")
                    break
        log.close()
        checkpoints.close()
        curve.plot(metrics.read(self.directory / "metrics.jsonl"), self.directory / "loss.png")
        return 128 + signals.received if signals.received else 0


class _Signals:
    """Remembers the first SIGINT or SIGTERM; a second one acts as usual."""

    def __init__(self):
        self.received = 0
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number, _frame):
        self.received = number
        self._restore()

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_):
        self._restore()
