"""The models that are timed, and their training steps on random tokens."""

import functools

import jax
import numpy as np
import optax
from flax import nnx

from benchmarks.measure import Contender
from configs import lm
from configs import retnet as retnet_config
from mixkabrn_jax.layers import variables
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.runs.config import build
from mixkabrn_jax.training import optimizer, step
from mixkabrn_jax.training.experiment import Experiment

RETNET = {"d_model": 256, "value_width": 128, "key_width": 64, "hidden_width": 512, "num_heads": 4}
VOCABULARY = 512


def retnet(num_layers):
    """RetNet's language model in the size of the comparison: width 256, values 512, gated feed-forward 512."""
    fields = retnet_config.get_config("300m").model.to_dict() | RETNET
    fields |= {"num_layers": num_layers, "compute_dtype": "float32", "remat": False}
    return LanguageModel(build(ModelConfig, fields, "config.model"), VOCABULARY, rngs=nnx.Rngs(0))


def experiment(size="tiny", **changes):
    """configs/lm.py with changed fields."""
    config = lm.get_config(size)
    config.update_from_flattened_dict(changes)
    return Experiment.from_dict(config.to_dict())


def batch(num_rows, length, vocab_size):
    """Random tokens as `data.packing` lays them out: one document a row."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, (num_rows, length + 1)).astype(np.int32)
    ones = np.ones((num_rows, length), np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": ones,
        "loss_mask": ones.astype(np.float32),
        "num_bytes": ones,
    }


def train_step(role, name, model, batch, optimizer=None, of=None) -> Contender:
    """One update of a model, the state donated as in training."""
    optimizer, of = optimizer or optax.adamw(1e-3), of or experiment()
    setup = step.Setup(variables.split(model)[0], of.objective, optimizer, of.training)
    state = step.init(model, optimizer)
    program = jax.jit(functools.partial(step.train_step, setup=setup), donate_argnums=0)
    program = program.lower(state, batch).compile()
    held = [state]

    def call():
        held[0] = jax.block_until_ready(program(held[0], batch))

    return Contender(role, name, call, program.memory_analysis().temp_size_in_bytes)


def lm_step(role, name, size="tiny", **changes) -> Contender:
    """One update of configs/lm.py with changed fields."""
    return train_step(role, name, *lm_parts(size, **changes))


def lm_parts(size="tiny", **changes):
    """(model, batch, optimizer, experiment) of configs/lm.py with changed fields."""
    of = experiment(size, **changes)
    model = jax.jit(lambda: LanguageModel(of.model, 259, rngs=nnx.Rngs(0)))()
    adamw = optimizer.make(of.optimizer, of.num_steps)
    return model, batch(of.data.batch_size, of.data.sequence_length, 256), adamw, of
