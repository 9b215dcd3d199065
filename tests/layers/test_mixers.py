"""The retention and attention layers against the papers' formulas, with the projections around them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers.attention import Attention
from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.heads import HeadsConfig, RotaryConfig
from mixkabrn_jax.layers.retention import Retention, RetentionConfig
from tests import reference

D, H, K, V, EPSILON = 12, 3, 4, 6, 1e-6
HEADS = HeadsConfig(H, K, V)
RETENTION = RetentionConfig(decay="paper", first_decay_exponent=1.0, normalization="sqrt_sum", chunk_size=4)
ROTARY = RotaryConfig("linspace", base=100.0, layout="half")
BRANCH = BranchConfig("dense", sub_norm=True, norm_epsilon=EPSILON, scales=(1.0, 0.5))
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2], [1, 2, 2, 2, 3, 3, 3, 0, 0]], np.int32)
POSITIONS = np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4], [0, 0, 1, 2, 0, 1, 2, 0, 1]], np.int32)


def make(mixer, retention=RETENTION, rotary=ROTARY, branch=BRANCH):
    if mixer == "retention":
        return Retention(D, HEADS, retention, rotary, branch, rngs=nnx.Rngs(0))
    return Attention(D, HEADS, rotary, branch, rngs=nnx.Rngs(0))


def rotated(x_BTHK, layer, position_BT):
    frequencies = {"linspace": reference.linspace_frequencies, "rope": reference.rope_frequencies}
    frequency = frequencies[layer.rotary.kind](K, layer.rotary.base)
    if layer.rotary.layout == "half":  # the same pairs in another order, which scores do not see
        x_BTHK = np.stack([x_BTHK[..., : K // 2], x_BTHK[..., K // 2 :]], axis=-1).reshape(x_BTHK.shape)
    return reference.rotate(x_BTHK, position_BT, frequency)


def normalised(x):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON)


def formula_of_the_decay(layer, x):
    if layer.config.decay == "gated":
        return np.log(reference.sigmoid(x @ np.asarray(layer.decay_gate[...], np.float64))) / 16
    if layer.config.decay == "lm":
        return np.log(1 - np.geomspace(1 / 32, 1 / 512, H))
    return reference.log_decay(H, layer.config.first_decay_exponent)  # a learned one starts there


def has_sub_norm(layer):
    """An attention leaves the sub-norm to its last matrix, a retention computes it with its gate."""
    return layer.sub_norm if isinstance(layer, Retention) else layer.out.config.normalize_input


def formula(layer, x, position_BT, segment_ids, state=None):
    x = np.asarray(x, np.float64)
    heads = (*x.shape[:2], H, -1)
    q, k, v = (
        (x @ np.asarray(part.kernel[...], np.float64)).reshape(heads) for part in (layer.query, layer.key, layer.value)
    )
    q, k = rotated(q, layer, position_BT), rotated(k, layer, position_BT)
    if isinstance(layer, Retention):
        log_decay = formula_of_the_decay(layer, x)
        y, state = reference.retention(q, k * K**-0.5, v, log_decay, state, segment_ids)
        if layer.config.normalization == "sqrt_sum":
            y = y * reference.row_scale(position_BT, log_decay)[..., None]
        y = normalised(y).reshape(*x.shape[:2], -1)
        gate = x @ np.asarray(layer.gate.kernel[...], np.float64)
        y = gate * reference.sigmoid(gate) * y
    else:
        y = reference.attention(q, k, v, segment_ids).reshape(*x.shape[:2], -1)
    y = normalised(y) if has_sub_norm(layer) else y
    return y @ np.asarray(layer.out.kernel[...], np.float64), state


run = jax.jit(lambda layer, x, state, position, segment_ids: layer(x, state, position, segment_ids))
TERMS = 2 * D + 10 * K + H * V


OTHER = {"rotary": replace(ROTARY, kind="rope", layout="interleaved"), "branch": replace(BRANCH, sub_norm=False)}
DECAYS = tuple(
    {"retention": replace(RETENTION, **changes)}
    for changes in ({"decay": "lm"}, {"decay": "learned"}, {"decay": "gated", "normalization": "none"})
)


@pytest.mark.parametrize(
    ("mixer", "changes"),
    [
        *((mixer, changes) for mixer in ("retention", "attention") for changes in ({}, OTHER)),
        *(("retention", d) for d in DECAYS),
    ],
)
@pytest.mark.parametrize("segmented", [False, True])
def test_a_mixer_is_its_formula(mixer, changes, segmented):
    layer, x = make(mixer, **changes), reference.normal(1, 2, 9, D)
    position = POSITIONS if segmented else np.broadcast_to(np.arange(9), (2, 9))
    segment_ids = SEGMENTS if segmented else None
    state = jnp.zeros((2, H, K, V)) if mixer == "retention" else None
    got, got_state = run(layer, x, state, position, segment_ids)
    want, want_state = formula(layer, x, position, segment_ids)
    reference.assert_close(got, want, terms=TERMS)
    if mixer == "retention":
        assert got_state.dtype == jnp.float32
    if mixer == "retention" and not segmented and layer.rotary.layout == "interleaved":
        reference.assert_close(got_state, want_state, terms=TERMS)


@pytest.mark.parametrize(("mixer", "changes"), [("retention", {}), ("attention", {}), ("retention", DECAYS[-1])])
def test_a_mixer_fed_one_position_at_a_time_is_its_formula(mixer, changes):
    layer, x = make(mixer, **changes), reference.normal(1, 2, 9, D)
    cache = (jnp.zeros((2, 11, H, K)), jnp.zeros((2, 11, H, V)))
    state = jnp.zeros((2, H, K, V)) if mixer == "retention" else cache
    rows = []
    for t in range(9):
        y, state = run(layer, x[:, t : t + 1], state, np.full((2, 1), t, np.int32), None)
        rows.append(y)
    want, _ = formula(layer, x, np.broadcast_to(np.arange(9), (2, 9)), None)
    reference.assert_close(np.concatenate(rows, axis=1), want, terms=TERMS)


@pytest.mark.parametrize("mixer", ["retention", "attention"])
def test_a_mixer_s_last_matrix_starts_smaller_by_the_out_scale(mixer):
    small, large = make(mixer), make(mixer, branch=replace(BRANCH, scales=(1.0, 1.0)))
    reference.assert_close(small.out.kernel[...], 0.5 * np.asarray(large.out.kernel[...]))


def test_attention_refuses_packed_documents_together_with_a_cache():
    layer, x = make("attention"), jnp.zeros((2, 9, D))
    cache = (jnp.zeros((2, 9, H, K)), jnp.zeros((2, 9, H, V)))
    with pytest.raises(ValueError, match="segment ids together with a cache"):
        layer(x, cache, POSITIONS, SEGMENTS)


@pytest.mark.parametrize("decay", ["learned", "gated"])
def test_decays_that_are_trained_have_a_gradient(decay):
    layer = make("retention", replace(RETENTION, decay=decay, normalization="none"))
    x = reference.normal(1, 2, 9, D)
    position = np.broadcast_to(np.arange(9), (2, 9))

    def loss(layer):
        return run(layer, x, jnp.zeros((2, H, K, V)), position, None)[0].sum()

    bar = jax.grad(loss)(layer)
    leaf = np.asarray(bar.decay_logit_H[...] if decay == "learned" else bar.decay_gate[...])
    assert np.isfinite(leaf).all()
    assert (leaf != 0).all()


def test_a_layer_is_the_official_one():
    """torchscale's modes differ by up to 1.4e-4 of 8.3, by a clamp and where epsilon acts: ours is the recurrent."""
    z = reference.golden("retention_a")
    width, heads = z["x"].shape[-1], int(z["heads"])
    sizes = HeadsConfig(heads, width // heads, len(z["wv"]) // heads)
    retention = replace(RETENTION, chunk_size=5, first_decay_exponent=5.0)
    rotary = RotaryConfig("linspace", base=1e4, layout="interleaved")
    layer = Retention(width, sizes, retention, rotary, replace(BRANCH, sub_norm=False), rngs=nnx.Rngs(0))
    for part, name in (("query", "wq"), ("key", "wk"), ("value", "wv"), ("gate", "wg"), ("out", "wo")):
        getattr(layer, part).kernel[...] = jnp.asarray(z[name].T, jnp.float32)
    batch, length = z["x"].shape[:2]
    empty = jnp.zeros((batch, heads, sizes.key_width, sizes.value_width))
    position = np.broadcast_to(np.arange(length), (batch, length))
    got, state = run(layer, z["x"].astype(np.float32), empty, position, None)
    reference.assert_close(got, z["y_recurrent"], terms=width + length)
    # Its state is value-first and carries the row factor of the last position.
    scale_BH = reference.row_scale(position[:, -1:], reference.log_decay(heads))[:, 0]
    scaled = np.asarray(state) * scale_BH[..., None, None]
    reference.assert_close(scaled.swapaxes(-1, -2), z["final_state"], terms=width + length)
