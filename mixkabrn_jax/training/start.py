"""Where a run begins: with a new state, or with that of its newest checkpoint."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import jax
import numpy as np

from mixkabrn_jax import processes, runs, sharding
from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.data.files import Order, Patterns
from mixkabrn_jax.data.pipeline import Corpus
from mixkabrn_jax.data.reading import Batches
from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.layers import variables
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.runs import adapters, arrays, workdir
from mixkabrn_jax.runs.adapters import Base
from mixkabrn_jax.runs.checkpoint import Checkpoints, DoesNotFitError
from mixkabrn_jax.runs.config import build, defaults, flatten
from mixkabrn_jax.runs.model import abstract
from mixkabrn_jax.training import guard, optimizer
from mixkabrn_jax.training.experiment import Experiment
from mixkabrn_jax.training.signals import interruptible
from mixkabrn_jax.training.step import Setup, TrainState, from_parts, init, parts, train_step


def new(
    experiment: Experiment, vocab_size: int, mesh: jax.sharding.Mesh, base: Base | None = None
) -> tuple[Setup, TrainState]:
    """(what stays the same, the state before the first update), which lies on the mesh.

    Args:
        base: what adapters are put into; None without.
    """
    adamw = optimizer.make(experiment.optimizer, experiment.num_steps)

    def state_of(model):
        return init(model, adamw, guard.init(experiment.guard, experiment.log_every))

    def setup_of(model):
        graph, _, _ = variables.split(model)
        return Setup(graph, experiment.objective, adamw, experiment.training, experiment.guard, mesh)

    if base is not None:
        model = experiment.with_adapters(base.model)
        state = state_of(model)
        return setup_of(model), jax.device_put(state, _layout(state, mesh))

    def start():
        return state_of(experiment.new_model(vocab_size))

    setup = setup_of(jax.eval_shape(lambda: experiment.new_model(vocab_size)))
    # Made where it lies: no device ever holds all of a state that is split.
    return setup, jax.jit(start, out_shardings=_layout(jax.eval_shape(start), mesh))()


def require_apart(directory: Path, data: DataConfig) -> None:
    """Makes sure that what a run writes does not become a part of the text that it reads.

    Raises: ValueError for a workdir in the folder at config.data.path whose files would be read.
    """
    for _, part in data.components:
        top, own = Path(part.path).expanduser().resolve(), directory.resolve()
        if part.family != "text" or not own.is_relative_to(top):
            continue
        order = Order(Skipped(), Patterns(part.include, part.exclude), lambda _: True)
        if order.reason(f"{own.relative_to(top).as_posix()}/config.json") is None:
            raise ValueError(
                f"{directory} lies in config.data.path={part.path!r}, and what is written there would be read as text: "
                "choose a workdir elsewhere"
            )


def given(experiment: Experiment) -> tuple[Base | None, Tokenizer | None]:
    """What a run has from config.init_from: (the model that adapters are put into, the tokenizer), or None.

    Raises: as `base_of` and `tokenizer_of`.
    """
    if experiment.adapter.rank:
        base = base_of(experiment)
        return base, base.tokenizer
    return None, tokenizer_of(experiment) if experiment.init_from else None


def base_of(experiment: Experiment) -> Base:
    """The model that a run of adapters leaves as it is, once it is seen that config.model is its own and fits them.

    Raises: as `runs.adapters.open_base`; ValueError for a tokenizer of another kind than the config's, and for
        adapters that do not fit; DoesNotFitError naming the fields in which the models' configs differ.
    """
    where = f"config.init_from={experiment.init_from!r}"
    if not Path(experiment.init_from).exists():
        raise FileNotFoundError(f"{where}: there is no such folder or file; the workdir of a run, or a file, is needed")
    base = adapters.open_base(experiment.init_from)
    _require_tokenizer(base.tokenizer, experiment.data, where)
    there = flatten(asdict(build(ModelConfig, base.config["model"], "config.model", is_complete=False)))
    here = flatten(asdict(experiment.model))
    changes = {f"model.{name}": (there[name], here[name]) for name in here if here[name] != there[name]}
    if changes:
        raise DoesNotFitError(f"{where} holds another model: {', '.join(workdir.in_words(changes))}")
    jax.eval_shape(lambda: experiment.with_adapters(base.model))  # raises for those that do not fit
    return base


def tokenizer_of(experiment: Experiment) -> Tokenizer:
    """The tokenizer of the run whose parameters a new run starts from, once it is seen that they fit.

    Raises: FileNotFoundError where there is no such run, ValueError for one of adapters and for a tokenizer of another
        kind than the config's, DoesNotFitError naming the fields in which the models' configs differ or, where none
        does, the arrays.
    """
    where, directory = f"config.init_from={experiment.init_from!r}", Path(experiment.init_from)
    if not directory.is_dir():
        raise FileNotFoundError(f"{where}: there is no such folder; a run's workdir is needed")
    tokenizer = workdir.load_tokenizer(directory)
    if tokenizer is None:
        raise FileNotFoundError(f"{where} holds no tokenizer.json: a run's workdir is needed")
    adapters.require_own_model(directory)
    _require_tokenizer(tokenizer, experiment.data, where)
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise FileNotFoundError(f"{where} holds no checkpoint yet: train it longer")
        there = {name: array for name, array in checkpoints.arrays(step).items() if name.startswith("model.")}
    _, part = abstract(experiment.model, tokenizer.vocab_size)
    wrong = arrays.differences(there, arrays.describe({"model": part}))
    if wrong:
        changes = workdir.differences(directory, asdict(experiment), defaults(Experiment))
        fields = workdir.in_words({name: both for name, both in changes.items() if name.startswith("model.")})
        raise DoesNotFitError(f"{where} holds another model: {', '.join(fields) or '; '.join(wrong)}")
    return tokenizer


def _require_tokenizer(tokenizer, config, where):
    if tokenizer.name != tokenizers.kind(config):
        right = tokenizer.name if tokenizer.name in tokenizers.NAMES else "bpe"
        raise ValueError(
            f"config.data.tokenizer={config.tokenizer!r}, but the run of {where} has {tokenizer.name!r}, and this one "
            f"takes over its tokenizer: set config.data.tokenizer={right}"
        )


def from_run(init_from: str, state: TrainState) -> TrainState:
    """The state before the first update with the parameters and buffers of another run's newest checkpoint.

    Args:
        init_from: `config.init_from`, that run's workdir, of a model that fits.
    Raises: FileNotFoundError, OSError as `runs.open`.
    """
    model, _, _ = runs.open(init_from)
    _, params, buffers = variables.split(model)
    layout = jax.tree.map(lambda leaf: leaf.sharding, (state.params, state.buffers))
    params, buffers = jax.device_put(jax.device_get((params, buffers)), layout)
    return state._replace(params=params, buffers=buffers)


def _layout(state, mesh):
    return sharding.shardings(variables.layout(state), mesh)


def resume(checkpoints: Checkpoints, state: TrainState, batches: Batches, log_every: int) -> tuple[int, TrainState]:
    """(step, state) of the newest checkpoint that is intact, and the batches at its position; of none, as they are.

    Args:
        state: a new one, which says how the arrays lie.
        log_every: of the run from here on; that of the checkpoint may be another.
    Raises: OSError when none of several checkpoints is intact, DoesNotFitError when it is of another model.
    """
    step = processes.broadcast_from_first(lambda: checkpoints.latest_intact_step() or 0)
    if not step:
        return step, state
    like = state._replace(guard=_as_stored(state.guard, checkpoints.arrays(step)))
    restored, position = checkpoints.restore(step, parts(like))
    batches.set_state(position)
    restored = from_parts(restored, state)
    history = guard.resize(restored.guard, log_every, step)
    if history is not restored.guard:
        history = jax.device_put(history, jax.tree.map(lambda leaf: leaf.sharding, state.guard))
    return step, restored._replace(guard=history)


def _as_stored(history, arrays):
    """An abstract history whose skips have as many places as those of a checkpoint."""
    stored = arrays.get("optimizer.guard.skips.step_U")
    if history is None or stored is None:
        return history  # whether that fits is for `restore` to say
    (num_places,) = json.loads(stored[stored.index("[") :])

    def resized(leaf):
        shape = (num_places,) if leaf.ndim else ()
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)

    return history._replace(skips=jax.tree.map(resized, history.skips))


def compile(setup: Setup, state: TrainState, corpus: Corpus, batch_size: int):
    """The jitted update, ahead of the first step, so that its time does not count as training."""
    num_rows = len(sharding.local_rows(setup.mesh, batch_size))
    rows = {key: np.stack([row] * num_rows) for key, row in corpus.train[0].items()}
    update = partial(train_step, setup=setup)
    program = jax.jit(update, donate_argnums=0, out_shardings=_layout(state, setup.mesh))
    return interruptible(program.lower(state, sharding.place_rows(rows, setup.mesh, batch_size)).compile)
