"""The one toy experiment of the suite: small enough to compile in about a second, large enough to break every law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mixkabrn_jax.layers import variables
from mixkabrn_jax.layers.kan import KanConfig
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.training import step
from mixkabrn_jax.training.objectives.language import LanguageObjective
from mixkabrn_jax.training.step import Setup, StepConfig
from tests import reference

_MODEL = {
    "d_model": 16,
    "num_layers": 2,
    "vocab_size": 29,
    "tied_embeddings": True,
    "embedding_scale": 1.0,
    "residual": "pre_norm",
    "norm_epsilon": 1e-6,
    "compute_dtype": "float32",
    "remat": False,
    "kernels": False,
    "mixer": "retention",
    "num_heads": 2,
    "key_width": 8,
    "value_width": 8,
    "chunk_size": 4,
    "decay": "paper",
    "first_decay_exponent": 3.0,
    "retention_norm": "sqrt_sum",
    "rotary_kind": "linspace",
    "rotary_base": 10000.0,
    "rotary_layout": "half",
    "ffn": "kan",
    "hidden_width": 12,
    "grid_low": -3.0,
    "grid_high": 3.0,
    "grid_intervals": 3,
    "spline_degree": 3,
    "outside_grid": "fade",
    "knots": "uniform",
    "kan_basis": "bspline",
    "rational_groups": 2,
    "kan_init": "variance",
    "spline_share": 0.5,
    "train_base": True,
    "train_spline": True,
    "num_experts": 4,
    "experts_per_token": 2,
    "num_shared_experts": 1,
    "expert_width": 6,
    "expert_dispatch": "sorted",
    "capacity_factor": 0.0,
    "first_dense_layers": 0,
    "router_score": "softmax",
    "router_groups": 1,
    "router_groups_per_token": 1,
    "router_normalize": True,
    "router_scale": 1.0,
    "router_device_groups": 1,
    "linear": "dense",
    "activation_bits": 8,
    "down_activation_bits": 8,
    "spline_linear": "dense",
    "quant_norm": "sub",
    "sub_norm": True,
}
_SECTIONS = {
    "data": {
        "source": "auto",
        "path": "",
        "tokenizer": "bytes",
        "sequence_length": 16,
        "batch_size": 8,
        "validation_fraction": 0.1,
        "num_threads": 1,
        "timeout_seconds": 60.0,
    },
    "optimizer": {
        "schedule": "two_stage",
        "peak_rate": 2e-2,
        "second_peak_rate": 1.5e-2,
        "final_fraction": 0.02,
        "decay_fraction": 0.2,
        "warmup_steps": 2,
        "b1": 0.9,
        "b2": 0.95,
        "epsilon": 1e-8,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
    },
    "objective": {
        "balance_loss": 0.01,
        "sequence_balance_loss": 0.0,
        "device_balance_loss": 0.0,
        "router_z_loss": 0.0,
    },
    "training": {
        "accumulation_steps": 1,
        "router_bias_rate": 0.001,
        "grid_update_every": 0,
        "grid_update_until": 0,
        "grid_uniform_fraction": 0.02,
    },
    "guard": {"history_length": 128, "sigmas": 6.0, "max_consecutive_skips": 3},
    "checkpoint": {"every": 4, "keep": 2, "keep_every": 0, "keep_best": 0},
    "mesh": {"data": 1, "expert": 1, "model": 1, "context": 1},
    "profile": {"start": 1, "steps": 0},
}


def model_config(**changes) -> ModelConfig:
    """The toy model with some fields changed; all matrices are dense, so that laws hold to rounding."""
    return ModelConfig(**(_MODEL | changes))


def kan(low, high, num_intervals, degree, **changes) -> KanConfig:
    """What KAN layers have in common in the toy model, on another grid and with some fields changed."""
    grid = {"grid_low": low, "grid_high": high, "grid_intervals": num_intervals, "spline_degree": degree}
    return model_config(**grid, **changes).kan


def section(name, **changes) -> dict:
    """One section of the toy experiment, as keywords of its dataclass."""
    return _SECTIONS[name] | changes


def experiment(path, **changes) -> dict:
    """A whole experiment on the text at `path`; changes are named like `model__mixer="attention"` or `num_steps=3`."""
    config = {
        "seed": 0,
        "num_steps": 12,
        "log_every": 2,
        "evaluate_every": 6,
        "evaluate_windows": 3,
        "model": {key: value for key, value in _MODEL.items() if key != "vocab_size"},
    }
    config |= {name: dict(fields) for name, fields in _SECTIONS.items()}
    config["training"] |= config.pop("objective")  # until config.objective is a section
    config["data"]["path"] = str(path)
    for name, value in changes.items():
        where, _, field = name.rpartition("__")
        target = config[where] if where else config
        if field not in target:
            raise KeyError(f"{name} is not a field of the experiment")
        target[field] = value
    return config


def setup(model: LanguageModel, optimizer, guard=None, mesh=None, **changes) -> Setup:
    """What the toy's steps have in common; changes are fields of config.objective and config.training."""
    objective = {name: value for name, value in changes.items() if name in _SECTIONS["objective"]}
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


def write_text(path, num_lines=60):
    """A text that a toy model can learn something from in a few steps; returns its path."""
    path.write_text("".join(f"line {i % 7} of a toy text, {i} in all\n" for i in range(num_lines)))
    return path


def make(config: ModelConfig, seed=0) -> LanguageModel:
    """A model with random parameters of the usual sizes, and norm scales that are not 1: those would hide mistakes.

    Drawn here, since compiling the initialisation of a toy model takes longer than compiling its forward pass.
    """
    abstract = jax.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
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


def tokens(seed, *shape, vocab_size=_MODEL["vocab_size"]) -> np.ndarray:
    """Random tokens."""
    return np.random.default_rng(seed).integers(0, vocab_size, shape).astype(np.int32)


def batch(seed, batch_size=4, length=12, vocab_size=_MODEL["vocab_size"]) -> dict:
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
    basis = config.grid_intervals + config.spline_degree + 1 if config.ffn == "kan" else 1
    mixer = 2 * config.d_model + config.key_width + length + config.num_heads * config.value_width
    width = config.hidden_width + config.num_experts * config.expert_width
    feed_forward = basis * (config.d_model + width)
    return reference.tolerance(want, config.num_layers * (mixer + feed_forward) + config.d_model)
