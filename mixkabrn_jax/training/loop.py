"""Training from a config to a finished workdir. Running the same command again goes on where the last run stopped."""

import signal
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mixkabrn_jax import processes, sharding
from mixkabrn_jax.data import pipeline
from mixkabrn_jax.layers import variables
from mixkabrn_jax.runs import metrics, workdir
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.runs.config import flatten
from mixkabrn_jax.training import guard, optimizer, step
from mixkabrn_jax.training.evaluate import evaluate
from mixkabrn_jax.training.experiment import Experiment
from mixkabrn_jax.training.profile import Profile
from mixkabrn_jax.training.report import Report


class Run:
    """An experiment in a workdir, ready to train. Of several processes, each makes it alike."""

    def __init__(self, config: Mapping, directory: Path, *, extend: bool = False):
        """Checks everything that can be checked before the first step.

        Args:
            extend: whether a run that is here may go on to a larger num_steps than it was begun with.

        Raises: TypeError, ValueError, OSError with a sentence that names the field or file; nothing is overwritten.
        """
        self.directory = directory
        with processes.ErrorConsensus():
            self.experiment = Experiment.from_dict(config)
            self.mesh = sharding.make_mesh(self.experiment.mesh)
            if processes.is_first():
                workdir.check(directory, config, extend=extend)
                if (directory / "metrics.jsonl").exists():
                    metrics.read(directory / "metrics.jsonl")  # raises for a file that could not be gone on with
            self.corpus = pipeline.load(self.experiment.data, workdir.load_tokenizer(directory))
        fingerprints = self.corpus.fingerprints()
        processes.require_same(config=flatten(config), data=fingerprints)
        self.changes = processes.broadcast_from_first(
            lambda: workdir.create(directory, config, self.corpus.tokenizer, fingerprints, extend=extend)
        )
        if jax.process_count() > 1:
            token = processes.broadcast_from_first(lambda: workdir.leave_token(directory))
            with processes.ErrorConsensus():
                workdir.await_token(directory, token)

    def train(self) -> int:
        """Trains to the last step, or to the first boundary after SIGINT, SIGTERM or SIGUSR1.

        Raises: BlockingIOError when another process trains in the directory; TimeoutError when no batch comes within
            config.data.timeout_seconds; FloatingPointError when the guard skipped too many updates in a row or, where
            there is none, when the loss stops being a number, and nothing is saved from then on; OSError when a
            checkpoint or a line of the log cannot be written, or no checkpoint is intact;
            `checkpoint.DoesNotFitError` when one is of another model; `processes.LostError` when another process of
            this run ends, `processes.ElsewhereError` when one of these is raised in it.
        Returns: 0, or 128 + the signal's number when stopped by one (the state is saved first). Of several processes
            all stop at the same step, whichever of them was sent it.
        """
        with ExitStack() as held, processes.exchange():
            processes.broadcast_from_first(lambda: bool(held.enter_context(workdir.lock(self.directory))))
            return self._train()

    def _train(self):
        experiment = self.experiment
        update_rule = optimizer.make(experiment.optimizer, experiment.num_steps)

        def new():
            return experiment.new_model(self.corpus.tokenizer.vocab_size)

        def start_anew():
            return step.init(new(), update_rule, guard.init(experiment.guard, experiment.log_every))

        model = jax.eval_shape(new)
        graph, _, _ = step.split(model)
        # Made where it lies: no device ever holds all of a state that is split.
        self._layout = sharding.shardings(variables.layout(jax.eval_shape(start_anew)), self.mesh)
        state = jax.jit(start_anew, out_shardings=self._layout)()
        self._rows = sharding.local_rows(self.mesh, experiment.data.batch_size)
        batches = pipeline.train_batches(self.corpus.train, experiment.data, experiment.seed, self._rows)
        about = {"config": workdir.load_config(self.directory), "data": self.corpus.fingerprints()}
        checkpoints = Checkpoints(self.directory / "checkpoints", experiment.checkpoint, about=about)
        start = processes.broadcast_from_first(lambda: checkpoints.latest_intact_step() or 0)
        if start:
            restored, iterator_state = checkpoints.restore(start, step.parts(state))
            state = step.from_parts(restored)
            batches.set_state(iterator_state)
        report = Report(self.directory, experiment, self.mesh, model, state, checkpoints.latest_step_in_time)
        report.begin(self.corpus, start, self.changes)
        for at, loss in report.validation_losses().items():
            checkpoints.note_loss(at, loss)
        evaluate_step = jax.jit(step.make_evaluate_step(graph, self.mesh))
        profile = Profile(experiment.profile, self.directory / "profile")
        largest, stopped_by = processes.AllReduceMax(), 0
        with _Signals() as signals, report, profile, checkpoints:
            is_due = start and self._validates_at(start)
            if is_due and processes.broadcast_from_first(lambda: start not in report.validation_losses()):
                # The run was killed just before it, or went back to a checkpoint from before it.
                checkpoints.note_loss(start, self._validate(evaluate_step, state, start, report))
            if start < experiment.num_steps:
                train_step = step.make_train_step(graph, update_rule, experiment.training, experiment.guard, self.mesh)
                update = self._compile(train_step, state)
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
                stopped_by = largest(signals.received)
                if at % experiment.log_every == 0 or is_last:
                    report.train(at, state)
                    sums = jax.tree.map(jnp.zeros_like, state.sums)
                    state = state._replace(sums=sums, guard=guard.next_line(state.guard))
                if at % experiment.checkpoint.every == 0 or is_last or stopped_by:
                    with report.aside(state):
                        report.require_number(at, "size of the parameters", step.size(state.params))
                        report.sync()
                        checkpoints.save(at, step.parts(state), batches.get_state())
                if self._validates_at(at):
                    with report.aside(state):
                        checkpoints.note_loss(at, self._validate(evaluate_step, state, at, report))
                if stopped_by:
                    break
            report.flush()
        report.end(at, is_complete=at == experiment.num_steps)
        batches.close()
        processes.broadcast_from_first(lambda: None)  # the others wait for what the first one has left to write
        return 128 + stopped_by if stopped_by else 0

    def _place(self, batch):
        return sharding.place_rows(batch, self.mesh, self.experiment.data.batch_size)

    def _compile(self, train_step, state):
        """Ahead of the first step, so that its time does not count as training."""
        example = {key: np.stack([row] * len(self._rows)) for key, row in self.corpus.train[0].items()}
        program = jax.jit(train_step, donate_argnums=0, out_shardings=self._layout)
        return program.lower(state, self._place(example)).compile()

    def _validates_at(self, at):
        return at % self.experiment.evaluate_every == 0 or at == self.experiment.num_steps

    def _validate(self, evaluate_step, state, at, report):
        """Over a sample of the validation windows; after the last step, over all of them. Returns the loss."""
        windows = None if at == self.experiment.num_steps else self.experiment.evaluate_windows
        batch_size = self.experiment.data.batch_size
        batches = pipeline.validation_batches(self.corpus.validation, batch_size, windows, self._rows)
        return report.validation(at, evaluate(evaluate_step, state.params, state.buffers, batches, self._place))


class _Signals:
    """Remembers the first signal that asks for an end; SIGINT acts as usual when it comes again.

    The others do not: a run may still be saving. Slurm sends SIGTERM twice within milliseconds where a partition gives
    no grace time (to a step, and once more by srun), and after SIGUSR1, its warning ahead of the time limit
    (--signal=USR1@60). SIGKILL is what ends a run that does not listen.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
    NUMBERS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows lacks the last

    def __init__(self):
        self.received = 0
        self._previous = {}

    def __enter__(self):
        # Python gives signals to the main thread; elsewhere, as in a worker of Ray, they are its owner's.
        is_main = threading.current_thread() is threading.main_thread()
        for number in self.NUMBERS if is_main else ():
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number, _frame):
        self.received = self.received or number
        if number == signal.SIGINT:
            signal.signal(number, self._previous[number])

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
