"""Knots of a whole model that follow its tokens: each layer's own inputs, and no others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers import refinement
from mixkabrn_jax.models import grid
from tests import reference, toy

FRACTION, B, T = 0.25, 6, 24
ADAPTIVE = {"mixer": "attention", "kan__knots": "adaptive", "kan__grid__degree": 1, "hidden_width": 6}
update_grid = jax.jit(functools.partial(grid.update_grid, uniform_fraction=FRACTION))
forward = jax.jit(lambda model, tokens, mask=None: model(tokens, mask_BT=mask))


@functools.cache
def make(**changes):
    return toy.make(toy.model_config(**(ADAPTIVE | changes)))


def mixture(bias):
    """A dense layer and a mixture whose router has this bias for each expert."""
    model = nnx.clone(make(first_dense_layers=1, num_shared_experts=2))
    model.routed_blocks.ffn.bias_E[...] = jnp.asarray([bias])
    return model


def layers(tree):
    """All leaves of the feed-forwards' grids, by path."""
    flat = jax.tree_util.tree_leaves_with_path(nnx.state(tree))
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}
    return {path: leaf for path, leaf in named.items() if "knots" in path or "spline" in path}


def padded():
    """Tokens and a mask with 5 positions of padding at the end of one row and 3 at the start of another."""
    mask = np.ones((B, T), np.float32)
    mask[1, -5:] = mask[2, :3] = 0
    return toy.tokens(3, B, T), mask


def by_hand(model, tokens, mask):
    """Layer by layer, expert by expert: the grids by path, and the logits."""
    position_BT = np.cumsum(mask, axis=1) - mask

    @jax.jit
    def before(block, x_BTD):
        x_BTD = x_BTD + block.mixer(block.mixer_norm(x_BTD), None, position_BT.astype(np.int32), None, mask)[0]
        return x_BTD, block.ffn_norm(x_BTD)

    @jax.jit
    def moved(kan, h_RD, sample_mask_R):
        new = nnx.clone(kan)
        new.up = refinement.update_grid(kan.up, h_RD, FRACTION, sample_mask_R)
        hidden = new.up(h_RD)
        hidden = hidden / jnp.sqrt(jnp.mean(hidden**2, axis=-1, keepdims=True) + kan.up.linear.norm_epsilon)
        new.down = refinement.update_grid(kan.down, hidden, FRACTION, sample_mask_R)
        return new

    def part(tree, index):
        return jax.tree.map(lambda leaf: leaf[index], tree)

    def stack(parts):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

    new, mask_R = nnx.clone(model), mask.reshape(-1)
    dense, routed = part(model.dense_blocks, 0), part(model.routed_blocks, 0)
    x_BTD, h_BTD = before(dense, model.embedding_WD[...][tokens])
    dense.ffn = moved(dense.ffn, h_BTD.reshape(B * T, -1), mask_R)
    _, h_BTD = before(routed, x_BTD + jax.jit(lambda ffn, h_BTD: ffn(h_BTD)[0])(dense.ffn, h_BTD))
    h_RD = h_BTD.reshape(B * T, -1)
    logits = np.asarray(h_RD, np.float64) @ np.asarray(routed.ffn.router[...], np.float64)
    chosen = reference.top_k_gates(logits, 2, score="softmax", bias=routed.ffn.bias_E[...])[1]
    samples = [((chosen == e).any(axis=1) * mask_R).astype(np.float32) for e in range(4)]
    routed.ffn.experts = stack([moved(part(routed.ffn.experts, e), h_RD, samples[e]) for e in range(4)])
    routed.ffn.shared = stack([moved(part(routed.ffn.shared, e), h_RD, mask_R) for e in range(2)])
    new.dense_blocks.ffn, new.routed_blocks.ffn = stack([dense.ffn]), stack([routed.ffn])
    return new


@pytest.mark.slow
def test_every_layer_and_expert_follows_its_own_inputs_behind_those_that_have_moved():
    model = mixture([0.0, 0.0, 0.0, 0.1])  # without it the last expert has 4 of 136 tokens, too few to follow
    before = jax.tree.map(np.asarray, nnx.state(model))
    tokens, mask = padded()
    got = update_grid(model, tokens, mask_BT=mask)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), before)
    want = by_hand(model, tokens, mask)
    for (path, leaf), want_leaf, old in zip(
        layers(got).items(), layers(want).values(), layers(model).values(), strict=True
    ):
        assert leaf.dtype == np.float32
        assert (np.abs(leaf - old).max(axis=(-2, -1)) > 1e-3).all(), path  # every expert of every layer has moved
        if "knots" in path:  # of the inputs, which differ by the fits before them
            reference.assert_close(leaf, want_leaf, atol=toy.rounding(want_leaf, model.config, T))
    logits = forward(want, tokens, mask).logits_BTW[mask > 0]
    got_logits = forward(got, tokens, mask).logits_BTW[mask > 0]
    reference.assert_close(got_logits, logits, atol=toy.rounding(logits, model.config, T))
    # The knots lie over what the layers see on these tokens: nothing is beyond them, but for rounding.
    assert (forward(got, tokens, mask).outside_L < 0.02).all()
    # What stands at padding has no part in it.
    other = update_grid(model, np.where(mask > 0, tokens, 7), mask_BT=mask)
    for (path, leaf), want_leaf in zip(layers(other).items(), layers(got).values(), strict=True):
        if "knots" in path:
            np.testing.assert_array_equal(leaf, want_leaf)


def test_an_expert_that_hardly_any_token_chose_keeps_its_grid_to_the_bit():
    model = mixture([0.0, 0.0, -9.0, 0.1])
    tokens, mask = padded()
    new = update_grid(model, tokens, mask_BT=mask)
    for (path, leaf), old in zip(layers(new).items(), layers(model).values(), strict=True):
        same = (leaf == old)[0].all(axis=(-2, -1))
        np.testing.assert_array_equal(same, np.arange(4) == 2 if "experts" in path else np.zeros_like(same))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ffn": "mlp"}, "ffn='mlp' has no splines"),
        ({"kan__knots": "uniform"}, "knots='uniform': .* are 'adaptive'"),
        ({"kan__knots": "uniform", "kan__basis": "rbf"}, "basis='rbf' has no knots"),
    ],
)
def test_what_has_no_adaptive_knots_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        grid.update_grid(make(**changes), toy.tokens(0, 1, 4), uniform_fraction=0.0)
