"""The one toy experiment of the suite: small enough to compile in about a second, large enough to break every law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import lm
from mixkabrn_jax.layers import variables
from mixkabrn_jax.layers.features import KanConfig
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.ops.uniform_bspline import UniformGrid
from mixkabrn_jax.runs.config import build
from mixkabrn_jax.training import step
from mixkabrn_jax.training.objectives.language import LanguageObjective
from mixkabrn_jax.training.step import Setup, StepConfig
from tests import reference

VOCAB_SIZE = 29
_CHANGES = {
    "num_steps": 12,
    "log_every": 2,
    "evaluate_every": 6,
    "evaluate_windows": 3,
    "model.d_model": 16,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.key_width": 8,
    "model.value_width": 8,
    "model.hidden_width": 12,
    "model.expert_width": 6,
    "model.linear": "dense",
    "model.embedding_scale": 1.0,
    "model.conv_size": 3,
    "model.sub_norm": True,
    "model.retention.decay": "paper",
    "model.retention.normalization": "sqrt_sum",
    "model.retention.chunk_size": 4,
    "model.kan.rational_groups": 2,
    "model.kan.spline_linear": "dense",
    "model.quantization.embedding": "dense",
    "model.router.dispatch": "sorted",
    "data.tokenizer": "bytes",
    "data.sequence_length": 16,
    "data.batch_size": 8,
    "data.validation_fraction": 0.1,
    "data.timeout_seconds": 60.0,
    "optimizer.matrices": "adamw",
    "optimizer.peak_rate": 2e-2,
    "optimizer.second_peak_rate": 1.5e-2,
    "optimizer.warmup_steps": 2,
    "training.router_bias_rate": 0.001,
    "guard.max_consecutive_skips": 3,
    "checkpoint.every": 4,
    "profile.start": 1,
}
"""What the toy changes of configs/lm.py:tiny; all matrices are dense, so that laws hold to rounding."""


def document(**changes) -> dict:
    """The whole toy experiment; changes are named like `model__kan__knots="adaptive"` or `num_steps=3`.

    Raises: KeyError for a field that there is not.
    """
    config = lm.get_config("tiny")
    config.update_from_flattened_dict(_CHANGES)
    config = config.to_dict()
    for name, value in changes.items():
        *sections, field = name.split("__")
        target = config
        for section in sections:
            target = target[section]
        if field not in target:
            raise KeyError(f"{name} is not a field of the experiment")
        target[field] = value
    return config


def model_config(**changes) -> ModelConfig:
    """The toy model with some fields changed, named like `mixer="attention"` or `kan__grid__degree=1`."""
    changes = {f"model__{name}": value for name, value in changes.items()}
    return build(ModelConfig, document(**changes)["model"], "config.model")


def kan(low, high, num_intervals, degree, extrapolation="fade", **changes) -> KanConfig:
    """A KAN layer's config on another grid, with some fields of `KanConfig` changed."""
    return KanConfig(
        **{"grid": UniformGrid(low, high, num_intervals, degree, extrapolation), "rational_groups": 2} | changes
    )


def section(name, **changes) -> dict:
    """One section of the toy experiment, as keywords of its dataclass."""
    return document(**{f"{name}__{field}": value for field, value in changes.items()})[name]


def experiment(path, **changes) -> dict:
    """The whole toy experiment on the text at `path`; changes as for `document`."""
    return document(**{"data__path": str(path), **changes})


def write_text(path, num_lines=60):
    """A text that a toy model can learn something from in a few steps; returns its path."""
    path.write_text("".join(f"line {i % 7} of a toy text, {i} in all\n" for i in range(num_lines)))
    return path


def make(config: ModelConfig, seed=0, vocab_size=VOCAB_SIZE) -> LanguageModel:
    """A model with random parameters of the usual sizes, and norm scales that are not 1: those would hide mistakes.

    Drawn here, since compiling the initialisation of a toy model takes longer than compiling its forward pass.
    """
    abstract = jax.eval_shape(lambda: LanguageModel(config, vocab_size, rngs=nnx.Rngs(0)))
    graph, params, buffers = nnx.split(abstract, nnx.Param, ...)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        is_scale = any("scale" in str(key) for key in path)
        size = 0.1 if is_scale else (leaf.shape[-1] if "WD" in str(path) else leaf.shape[-2]) ** -0.5
        return jnp.asarray(is_scale + size * rng.standard_normal(leaf.shape), leaf.dtype)

    params = jax.tree_util.tree_map_with_path(draw, params)
    grid = config.kan.grid
    knots_M = reference.uniform_knots(grid.low, grid.high, grid.num_intervals, grid.degree)

    def start(path, leaf):
        value = knots_M if "knots" in str(path) else 0
        return jnp.broadcast_to(jnp.asarray(value, leaf.dtype), leaf.shape)

    buffers = jax.tree_util.tree_map_with_path(start, buffers)
    return nnx.merge(graph, params, buffers)


def setup(model: LanguageModel, optimizer, guard=None, mesh=None, **changes) -> Setup:
    """What the toy's steps have in common; changes are fields of config.objective and config.training."""
    objective = {name: value for name, value in changes.items() if name in section("objective")}
    training = {name: value for name, value in changes.items() if name not in objective}
    return Setup(
        variables.split(model)[0],
        LanguageObjective(**section("objective", **objective)),
        optimizer,
        StepConfig(**section("training", **training)),
        guard,
        mesh,
    )


def train_step(*arguments, **changes):
    """`step.train_step` with a `setup`, to be jitted."""
    return functools.partial(step.train_step, setup=setup(*arguments, **changes))


def evaluate_step(model: LanguageModel, mesh=None):
    """`step.evaluate_step` with a `setup`, to be jitted."""
    return functools.partial(step.evaluate_step, setup=setup(model, None, mesh=mesh))


def tokens(seed, *shape, vocab_size=VOCAB_SIZE) -> np.ndarray:
    """Random tokens."""
    return np.random.default_rng(seed).integers(0, vocab_size, shape).astype(np.int32)


def batch(seed, batch_size=4, length=12, vocab_size=VOCAB_SIZE) -> dict:
    """One batch as `data.packing` makes them: two documents in each row, and two positions of padding."""
    stream = tokens(seed, batch_size, length + 1, vocab_size=vocab_size)
    segment_ids = np.ones((batch_size, length), np.int32)
    segment_ids[:, length // 2 :] = 2
    segment_ids[:, -2:] = 0
    return {
        "tokens": stream[:, :-1],
        "targets": stream[:, 1:],
        "segment_ids": segment_ids,
        "loss_mask": (segment_ids > 0).astype(np.float32),
        "num_bytes": np.ones((batch_size, length), np.int32) * (segment_ids > 0),
    }


def rounding(want, config: ModelConfig, length):
    """How far two orders of one model's float32 sums may end up from each other.

    The `reference.tolerance` of one sum as long as all sums on the way from a token to a logit laid end to end: in
    each layer the projections, the mixer's scores and sums over time, the feed-forward, and at the end the head.
    """
    basis = config.kan.grid.num_basis + 1 if config.ffn == "kan" else 1
    mixer = 2 * config.d_model + config.key_width + length + config.num_heads * config.value_width
    width = config.hidden_width + config.num_experts * config.expert_width
    feed_forward = basis * (config.d_model + width)
    return reference.tolerance(want, config.num_layers * (mixer + feed_forward) + config.d_model)
