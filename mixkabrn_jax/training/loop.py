"""Training from a config to a finished workdir. Running the same command again goes on where the last run stopped."""

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh

from mixkabrn_jax import processes, sharding
from mixkabrn_jax.data import pipeline
from mixkabrn_jax.data.mixture import Mixture
from mixkabrn_jax.runs import metrics
from mixkabrn_jax.runs import workdir as workdirs
from mixkabrn_jax.runs.adapters import Base
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.runs.config import defaults, flatten
from mixkabrn_jax.training import curve, optimizer, start
from mixkabrn_jax.training import log as logs
from mixkabrn_jax.training.evaluate import Validation
from mixkabrn_jax.training.experiment import Experiment
from mixkabrn_jax.training.profile import Profile
from mixkabrn_jax.training.progress import in_words
from mixkabrn_jax.training.signals import Signals
from mixkabrn_jax.training.step import parameters_norm, parts

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """An experiment in a workdir that is ready to be trained; made by `prepare`."""

    workdir: Path
    experiment: Experiment
    mesh: Mesh
    corpus: pipeline.Corpus
    changes: tuple[str, ...] = ()
    """Fields that an earlier process of this run had other values of, as in "log_every 20 -> 10"."""
    base: Base | None = None
    """What adapters are trained beside; `train` takes its arrays over, so that none is there twice."""


def prepare(config: Mapping, workdir: Path, *, extend: bool = False) -> Training:
    """Checks everything that can be checked before the first step. Of several processes, each comes here alike.

    Args:
        extend: whether a run that is there may be trained to a larger num_steps than it was begun with.
    Raises: TypeError, ValueError, OSError with a sentence that names the field or file; nothing is overwritten.
    """
    with processes.ErrorConsensus():
        experiment = Experiment.from_dict(config)
        mesh = sharding.make_mesh(experiment.mesh)
        start.require_apart(workdir, experiment.data)
        if processes.is_first():
            workdirs.check(workdir, config, defaults(Experiment), extend=extend)
            if (workdir / "metrics.jsonl").exists():
                metrics.read(workdir / "metrics.jsonl")  # raises for a file that could not be gone on with
        tokenizer, base = workdirs.load_tokenizer(workdir), None
        if tokenizer is None or experiment.adapter.rank:
            base, tokenizer = start.given(experiment)
        corpus = pipeline.load(experiment.data, tokenizer)
    fingerprints, sha256 = corpus.fingerprints(), base.sha256 if base else ""
    processes.require_same(config=flatten(config), data=fingerprints, base={"sha256": sha256})
    options = {"base": sha256, "defaults": defaults(Experiment), "extend": extend}
    changes = processes.broadcast_from_first(
        lambda: workdirs.create(workdir, config, corpus.tokenizer, fingerprints, **options)
    )
    if jax.process_count() > 1:
        token = processes.broadcast_from_first(lambda: workdirs.leave_token(workdir))
        with processes.ErrorConsensus():
            workdirs.await_token(workdir, token)
    if processes.is_first():
        for warning in _warnings(experiment, corpus):
            _log.warning("%s", warning)
    return Training(workdir, experiment, mesh, corpus, tuple(changes), base)


def _warnings(experiment, corpus):
    """What is allowed and hardly meant."""
    warmup, num_steps = experiment.optimizer.warmup_steps, experiment.num_steps
    if warmup >= num_steps:
        yield (
            f"config.optimizer.warmup_steps={warmup} of config.num_steps={num_steps}: the rate only rises, and the run "
            "ends before it is at its peak"
        )
    windows, batch_size = len(corpus.train), experiment.data.batch_size
    if windows < batch_size:
        yield (
            f"the training text has {corpus.train.num_targets:,} tokens, {windows} window(s) of "
            f"config.data.sequence_length={experiment.data.sequence_length}: each batch of "
            f"config.data.batch_size={batch_size} holds all of it, and some of it twice"
        )


def train(training: Training) -> int:
    """Trains to the last step, or to the end of the step in which SIGINT, SIGTERM or SIGUSR1 came.

    Raises: BlockingIOError when another process trains in the workdir; TimeoutError when no batch comes within
        config.data.timeout_seconds; FloatingPointError when the guard skipped too many updates in a row or, where
        there is none, when the loss stops being a number, and nothing is saved from then on; OSError when a
        checkpoint or a record of the log cannot be written, or no checkpoint is intact;
        `checkpoint.DoesNotFitError` when one is of another model; `processes.LostError` when another process of
        this run ends, `processes.ElsewhereError` when one of these is raised in it; KeyboardInterrupt at the second
        SIGINT.
    Returns: 0, or 128 + the signal's number when stopped by one (the state is saved first). Of several processes
        all stop at the same step, whichever of them was sent it.
    """
    with ExitStack() as held, processes.exchange():
        processes.broadcast_from_first(lambda: bool(held.enter_context(workdirs.lock(training.workdir))))
        return _train(training)


def _train(training):
    """The order of one step: the update is started; while the device works, the record before it is written and errors
    of checkpoints are met; then signals are read, and what is due is done, a checkpoint before its validation, so that
    a run killed in between validates again.
    """
    workdir, experiment, mesh, corpus = training.workdir, training.experiment, training.mesh, training.corpus
    began, last, batch_size = time.monotonic(), experiment.num_steps, experiment.data.batch_size
    setup, state = start.new(experiment, corpus.tokenizer.vocab_size, mesh, training.base)
    rows = sharding.local_rows(mesh, batch_size)
    batches = pipeline.train_batches(corpus.train, experiment.data, experiment.seed, rows)
    about = {"config": workdirs.load_config(workdir), "data": corpus.fingerprints()}
    if training.base is not None:
        about["base"] = training.base.sha256
    checkpoints = Checkpoints(workdir / "checkpoints", experiment.checkpoint, about=about)
    first, state = start.resume(checkpoints, state, batches, experiment.log_every)
    if not first and experiment.init_from and training.base is None:
        state = start.from_run(experiment.init_from, state)
    log = logs.begin(training, setup, state, checkpoints.latest_step_in_time)
    for change in training.changes:
        log.note(f"config.{change} from step {first} on{_consequence(change, experiment, first)}")
    validation = Validation(training, setup, log, checkpoints)
    consensus, stopped_by, step = processes.AllReduceMax(), 0, first
    profile = Profile(experiment.profile, workdir / "profile")
    with Signals(is_told=processes.is_first()) as signals, log, profile, checkpoints:
        validation.catch_up(first, state)
        if first < last:
            update = start.compile(setup, state, corpus, batch_size)
        log.start_clock()
        for step in range(first + 1, last + 1):
            profile.before(step)
            state = update(state, sharding.place_rows(next(batches), mesh, batch_size))
            profile.after(step, state)
            log.write_pending()  # that of the step before, while the device works on this one
            checkpoints.check_for_errors()
            # Read once: a signal that comes during what follows is met, and saved for, after the next step.
            stopped_by = consensus(signals.received)
            if _is_due(step, experiment.log_every, last):
                state = log.take(step, state)
            if _is_due(step, experiment.checkpoint.every, last) or stopped_by:
                with log.aside(state):
                    log.require_finite(step, "size of the parameters", parameters_norm(state.params))
                    log.sync()
                    checkpoints.save(step, parts(state), batches.get_state())
            if _is_due(step, experiment.evaluate_every, last):
                with log.aside(state):
                    validation.run(step, state)
            if stopped_by:
                break
        log.write_pending()
    if processes.is_first():
        curve.plot(metrics.read(workdir / "metrics.jsonl"), workdir / "loss.png")
    log.note(_summary(training, step, log.validation_losses, time.monotonic() - began))
    batches.close()
    processes.broadcast_from_first(lambda: None)  # the others wait for what the first one has left to write
    return 128 + stopped_by if stopped_by else 0


def _consequence(change, experiment, step):
    """What a change of num_steps means for the schedule, which is a function of it."""
    if not change.startswith("num_steps "):
        return ""
    rate = float(optimizer.learning_rate(experiment.optimizer, experiment.num_steps)(step))
    return f": the learning rate is that of the longer schedule, {rate:.3g} for the next step"


def _is_due(step, every, last):
    return step % every == 0 or step == last


def _summary(training, step, validation_losses, seconds):
    """How the run ended, in two lines."""
    windows, num_rows = training.corpus.train, step * training.experiment.data.batch_size
    seen = [("", num_rows, windows)]
    if isinstance(windows, Mixture):
        seen = list(zip(windows.names, windows.drawn(num_rows), windows.parts, strict=True))
    tokens = [rows / len(part) * part.num_targets for _, rows, part in seen]
    told = [
        (f"{name}: " if name else "") + f"{count:,.0f} tokens seen, {rows / len(part):.3g} epochs"
        for (name, rows, part), count in zip(seen, tokens, strict=True)
    ]
    if len(told) > 1:
        told.insert(0, f"{sum(tokens):,.0f} tokens seen")
    lines = [f"{in_words(seconds)} in this process; {'; '.join(told)}"]
    if validation_losses:
        best = min(validation_losses, key=validation_losses.get)
        lines[0] += f"; lowest validation loss {validation_losses[best]:.4f} at step {best}"
    if step == training.experiment.num_steps:
        lines.append(f"done at step {step}: {training.workdir}/metrics.jsonl, loss.png, checkpoints")
    else:
        lines.append(f"stopped at step {step}; the same command goes on from there")
    return "\n".join(lines)
