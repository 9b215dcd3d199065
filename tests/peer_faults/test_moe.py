"""What users of published mixtures of experts ran into, each as a law that holds here.

Of transformers: an auxiliary gradient that ignores accumulation and is missing from the reported loss, experts in a
Python loop. Of the DeepSeek-V3 release: a bias whose existence is hard-coded. Of maxtext: a balance loss k times the
paper's. Of torchscale: routing that needs a process group.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import core

from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.mlp import Mlp
from mixkabrn_jax.layers.moe import DISPATCHES, MixtureOfExperts, MoeConfig, RouterConfig
from mixkabrn_jax.models import language
from mixkabrn_jax.ops import routing
from mixkabrn_jax.training import optimizer, step, totals
from tests import reference, toy

pytestmark = pytest.mark.slow  # each is a law of its room as well, on other numbers

D = 8


def mixture(num_experts=4, dispatch="sorted", capacity_factor=0.0):
    router = RouterConfig("softmax", normalize=True, dispatch=dispatch, capacity_factor=capacity_factor)
    make_experts = functools.partial(Mlp, D, 6, BranchConfig("ternary", sub_norm=False))
    return MixtureOfExperts(D, MoeConfig(num_experts, 2, 1, router), make_experts, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_the_auxiliary_losses_are_minimised_and_reported_alike_at_any_accumulation():
    """Of four microbatches that are the same: their mean, not their sum, and in the total that the log shows."""
    coefficients = {name: 0.1 + 0.1 * i for i, name in enumerate(totals.AUXILIARY_LOSSES)}
    # A large epsilon: Adam's first step would turn a rounding of a gradient near 0 into a whole step otherwise.
    adamw = optimizer.make(optimizer.OptimizerConfig(**toy.section("optimizer", epsilon=1.0, peak_rate=0.5)), 10)
    shape = {"num_layers": 1, "ffn": "mlp", "mixer": "attention", "router__dispatch": "dense"}
    model_config = toy.model_config(router__device_groups=2, **shape)
    model = toy.make(model_config)
    batch = jax.tree.map(lambda rows: np.concatenate([rows] * 4), toy.batch(0, batch_size=1))
    after, losses = [], []
    for accumulation_steps in (1, 4):
        setup = toy.setup(model, adamw, accumulation_steps=accumulation_steps, router_bias_rate=0.0, **coefficients)
        after.append(jax.jit(functools.partial(step.train_step, setup=setup))(step.init(model, adamw), batch))
        values = totals.means(after[-1].totals, setup.objective)
        auxiliary = sum(coefficients[name] * values[name] for name in coefficients)
        reference.assert_close(values["total_loss"] - values["loss"], auxiliary, atol=1e-6 * values["total_loss"])
        assert auxiliary > 0.5
        losses.append(values["total_loss"])
    reference.assert_close(losses[1], losses[0], terms=4 * 12 * 29)
    for got, want in zip(jax.tree.leaves(after[1].params), jax.tree.leaves(after[0].params), strict=True):
        reference.assert_close(got, want, atol=toy.rounding(np.asarray(want), model_config, 4 * 12))


@pytest.mark.parametrize(
    ("dispatch", "capacity_factor"), [*((dispatch, 0.0) for dispatch in DISPATCHES), ("sorted", 1.0)]
)
def test_no_loop_runs_over_experts(dispatch, capacity_factor):
    """The program of 32 experts, gradients included, is as long as that of 4."""

    def equations(jaxpr):
        return len(jaxpr.eqns) + sum(equations(inner) for e in jaxpr.eqns for inner in core.jaxprs_in_params(e.params))

    def size(num_experts):
        moe = mixture(num_experts, dispatch, capacity_factor)
        gradient = jax.grad(lambda moe, x: jnp.sum(moe(x)[0] ** 2), allow_int=True)
        return equations(jax.make_jaxpr(gradient)(moe, jnp.ones((2, 8, D))).jaxpr)

    assert size(4) == size(32)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_a_bias_balances_any_score_and_is_no_parameter(score):
    """What makes it move is its rate in the config, not the size or kind of a model."""
    model = toy.make(toy.model_config(router__score=score, ffn="mlp"))
    assert "bias" not in str(nnx.state(model, nnx.Param))
    load = jnp.array([[3.0, 1.0, 2.0, 2.0]] * 2)
    moved = language.update_router_bias(model, load, 0.5)
    np.testing.assert_array_equal(moved.routed_blocks.ffn.bias_E[...], [[-0.5, 0.5, 0, 0]] * 2)
    logits = reference.normal(0, 6, 4)
    _, without = routing.top_k_gates(jnp.array(logits), 2, score=score)
    _, zero = routing.top_k_gates(jnp.array(logits), 2, score=score, bias=jnp.zeros(4))
    np.testing.assert_array_equal(without, zero)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_balance_losses_are_their_coefficient_when_balanced_whatever_k(k):
    scores = jnp.full((2, 6, 6), 1 / 6)
    indices = (jnp.arange(6)[:, None] + jnp.arange(k)[None]) % 6
    indices = jnp.stack([indices, indices])
    for loss in (
        routing.balance_loss(scores, indices),
        routing.sequence_balance_loss(scores, indices),
        routing.device_balance_loss(scores, indices, 3),
    ):
        reference.assert_close(loss, 1.0, terms=12)


def test_a_mixture_runs_on_one_device_without_any_set_up():
    assert not jax.distributed.is_initialized()
    assert jax.sharding.get_abstract_mesh().empty
    y, balance, _ = jax.jit(lambda moe, x: moe(x))(mixture(), reference.normal(0, 2, 5, D))
    assert np.isfinite(y).all()
    assert balance.load_E.sum() == 2 * 5 * 2


def test_nothing_is_dropped_unless_a_capacity_is_asked_for():
    """However one-sided the load."""
    dropless, limited = mixture(), mixture(capacity_factor=1.0)
    for moe in (dropless, limited):
        moe.bias_E[...] = jnp.array([9.0, 9.0, 0.0, 0.0])
    x = reference.normal(0, 2, 5, D)
    run = jax.jit(lambda moe, x: moe(x)[1])
    balance = run(dropless, x)
    assert balance.dropped == 0
    np.testing.assert_array_equal(balance.load_E, [10, 10, 0, 0])
    assert run(limited, x).dropped == 0.5
