"""Every combination of the four ideas builds, learns and generates."""

import itertools

import jax
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.inference.generate import generate
from mixkabrn_jax.inference.sampling import Sampling
from mixkabrn_jax.layers.feed_forward import FEED_FORWARDS
from mixkabrn_jax.layers.linear import LINEAR_TYPES
from mixkabrn_jax.models.config import MIXERS
from mixkabrn_jax.training import optimizer, step
from tests import toy

EXPERTS = (0, 4)
ALL = tuple(itertools.product(MIXERS, FEED_FORWARDS, LINEAR_TYPES, EXPERTS))
NUM_STEPS = 150


ENDS = [("retention", "kan", "ternary", 4), ("attention", "mlp", "dense", 0)]
"""All four ideas, and none."""


def learns_one_batch_and_repeats_it(mixer, ffn, linear, num_experts, **more):
    config = toy.model_config(mixer=mixer, ffn=ffn, linear=linear, num_experts=num_experts, **more)
    model = toy.make(config)
    # Rows that start differently and go on by a rule, so that what was learnt can be asked for.
    row_T = (np.arange(13) * 5) % toy.VOCAB_SIZE
    stream = ((row_T[None] + np.arange(4)[:, None]) % toy.VOCAB_SIZE).astype(np.int32)
    batch = toy.batch(0) | {"tokens": stream[:, :-1], "targets": stream[:, 1:]}
    batch["segment_ids"] = np.ones_like(batch["segment_ids"])
    batch["loss_mask"] = np.ones_like(batch["loss_mask"])

    adamw = optimizer.make(optimizer.OptimizerConfig(**toy.section("optimizer")), NUM_STEPS)
    update, state = jax.jit(toy.train_step(model, adamw), donate_argnums=0), step.init(model, adamw)
    losses, total = [], 0.0
    for _ in range(NUM_STEPS):
        state = update(state, batch)
        losses.append(float(state.totals.nats) - total)
        total += losses[-1]
    losses = np.array(losses) / batch["tokens"].size
    assert losses[0] > 0.8 * np.log(toy.VOCAB_SIZE)
    assert losses[-1] < 0.1 * losses[0], losses[::15]

    trained = nnx.merge(nnx.graphdef(model), state.params, state.buffers)
    greedy = Sampling(temperature=0.0)
    drawn = np.stack(list(generate(trained, stream[:, :4], max_tokens=9, sampling=greedy, seed=0)), axis=1)
    assert (drawn == stream[:, 4:]).mean() > 0.9


@pytest.mark.parametrize(
    ("mixer", "ffn", "linear", "num_experts"), [ENDS[0], pytest.param(*ENDS[1], marks=pytest.mark.slow)]
)
def test_a_combination_learns_one_batch_and_repeats_it(mixer, ffn, linear, num_experts):
    learns_one_batch_and_repeats_it(mixer, ffn, linear, num_experts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixer", "ffn", "linear", "num_experts"), [combination for combination in ALL if combination not in ENDS]
)
def test_every_other_combination_learns_one_batch_and_repeats_it(mixer, ffn, linear, num_experts):
    learns_one_batch_and_repeats_it(mixer, ffn, linear, num_experts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ffn", "changes"),
    [
        ("kan", {"kan__spline_linear": "ternary"}),
        ("kan", {"quantization__normalize_input": True}),
        ("swiglu", {"quantization__normalize_input": True, "quantization__activation_bits": 4}),
        ("mlp", {"router__capacity_factor": 1.25, "router__score": "sigmoid"}),
    ],
)
def test_every_number_format_learns_one_batch_and_repeats_it(ffn, changes):
    learns_one_batch_and_repeats_it("retention", ffn, "ternary", 4, **changes)
