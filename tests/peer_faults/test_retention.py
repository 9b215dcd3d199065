"""What goes wrong in other implementations of retention, each fault as a law that holds here.

Official: torchscale 0.3.0. Port: the HF-style RetNet. Triton: flash-linear-attention. `benchmarks/faults.py` shows the
peers that can be installed failing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkabrn_jax.inference.generate import generate
from mixkabrn_jax.inference.sampling import Sampling
from mixkabrn_jax.models import language
from mixkabrn_jax.ops import retention
from tests import reference, toy

pytestmark = pytest.mark.slow  # each is a law of its room as well, on other numbers

forward = jax.jit(lambda model, tokens, state=None, mask=None: model(tokens, state, mask_BT=mask))
step = jax.jit(lambda model, token, state: model.step(token, state))
CONFIG = toy.model_config(ffn="mlp", num_experts=0, num_layers=1)
TOKENS = toy.tokens(0, 2, 11)


@functools.cache
def model():
    return toy.make(CONFIG)


@functools.cache
def whole():
    """(logits of all positions at once, their tolerance)."""
    logits = np.asarray(forward(model(), TOKENS).logits_BTW)
    return logits, toy.rounding(logits, CONFIG, 11)


def by_steps(state, start):
    rows = []
    for t in range(start, 11):
        logits_BW, state = step(model(), TOKENS[:, t], state)
        rows.append(logits_BW)
    return np.stack(rows, axis=1)


def test_official_modes_differ_by_a_clamp_and_epsilon_ours_agree_to_rounding():
    logits, atol = whole()
    reference.assert_close(by_steps(model().init_state(2, None), 0), logits, atol=atol)


def test_official_prefill_of_a_prompt_crashes_and_the_ports_cache_is_wrongly_scaled():
    """The port's state after a chunkwise pass is off by sqrt(S_T) / S_C: 2e-2 in what it decodes."""
    logits, atol = whole()
    prefill = forward(model(), TOKENS[:, :7])  # no multiple of the chunk size 4
    reference.assert_close(by_steps(prefill.state, 7), logits[:, 7:], atol=atol)


def test_the_ports_chunkwise_pass_ignores_the_state_it_is_given():
    logits, atol = whole()
    first = forward(model(), TOKENS[:, :5])
    second = forward(model(), TOKENS[:, 5:], first.state)
    reference.assert_close(second.logits_BTW, logits[:, 5:], atol=atol)


def test_the_ports_chunkwise_pass_ignores_the_padding_mask_and_the_official_one_has_none():
    logits, atol = whole()
    padded = np.concatenate([toy.tokens(1, 2, 3), TOKENS], axis=1)
    mask = np.concatenate([np.zeros((2, 3), np.int32), np.ones((2, 11), np.int32)], axis=1)
    got = forward(model(), padded, None, mask).logits_BTW
    reference.assert_close(np.asarray(got)[:, 3:], logits, atol=atol)


def test_the_port_decodes_with_the_whole_prefix_ours_with_a_state_of_constant_size():
    state = model().init_state(2, None)
    sizes = {leaf.size for leaf in jax.tree.leaves(jax.eval_shape(step, model(), TOKENS[:, 0], state)[1])}
    assert sizes == {leaf.size for leaf in jax.tree.leaves(state)}
    assert jax.tree.leaves(state.mixers)[0].shape == (1, 2, 2, 8, 8)


def test_official_far_heads_do_not_decay():
    """float32 log(1 - 2^(-5-h)) is exactly 0 from h = 20 on: 12 of the 32 heads of the largest published size."""
    naive = np.log(np.float32(1) - np.float32(2) ** (-5 - np.arange(32, dtype=np.float32)))
    assert (naive == 0).sum() == 12
    assert (np.asarray(retention.log_decay(32)) < 0).all()


def test_official_beam_reorder_takes_the_wrong_axis():
    other = toy.tokens(2, 2, 11)
    tokens = np.concatenate([TOKENS, other])
    state = forward(model(), tokens[:, :7]).state
    beams = language.reorder(state, jnp.array([3, 0]))
    got, _ = step(model(), tokens[[3, 0], 7], beams)
    want, _ = step(model(), tokens[:, 7], state)
    np.testing.assert_allclose(got, np.asarray(want)[[3, 0]], atol=whole()[1])


@pytest.mark.parametrize("residual", ["deepnorm", "pre_norm"])
def test_official_deepnorm_leaves_the_norms_before_the_branches_on(residual):
    """A norm in front would make the branch blind to the size of its input; retention's own head norm is left out."""
    deep = toy.make(toy.model_config(ffn="mlp", num_experts=0, num_layers=1, residual=residual))
    block = jax.tree.map(lambda leaf: leaf[0], deep.dense_blocks)
    x = jnp.asarray(reference.normal(1, 1, 1, 16))
    seen = [block._before(block.ffn_norm, x * size) for size in (1.0, 2.0)]
    ratio = float(jnp.linalg.norm(seen[1]) / jnp.linalg.norm(seen[0]))
    assert ratio == pytest.approx(2.0 if residual == "deepnorm" else 1.0, rel=1e-4)


def test_the_port_crashes_without_a_gated_feed_forward():
    assert model().config.ffn == "mlp"
    tokens = list(generate(model(), TOKENS, max_tokens=3, sampling=Sampling(temperature=0.0), seed=0))
    assert len(tokens) == 3


@pytest.mark.parametrize("order", ["parallel", "chunkwise"])
def test_half_precision_gives_no_nan_and_the_triton_one_has_no_cpu_path(order):
    """bf16, keys and queries of size 30, the fastest and the slowest head, 200 positions; values and gradients."""
    q, k, v = (jnp.asarray(30 * reference.normal(i, 1, 200, 2, 4), jnp.bfloat16) for i in range(3))
    log_decay = jnp.array([-20.0, retention.log_decay(32)[-1]])

    def total(q, k, v):
        if order == "parallel":
            out = retention.parallel(q, k, v, log_decay)
        else:
            out, _ = retention.chunkwise(q, k, v, log_decay, jnp.zeros((1, 2, 4, 4)), chunk_size=64)
        return jnp.sum(jnp.sin(out.astype(jnp.float32) / 1e5)), out

    (_, out), bars = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    assert all(jnp.isfinite(a.astype(jnp.float32)).all() for a in (out, *bars))
