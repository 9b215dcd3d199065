"""Mlp, Glu, norms; what they share with Kan."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.kan import Kan
from mixkabrn_jax.layers.mlp import Glu, Mlp
from mixkabrn_jax.layers.norm import RMSNorm, rms_norm
from tests import reference, toy

D, WIDTH, EPSILON = 8, 12, 1e-6
ERF = np.vectorize(math.erf)


def make(name, linear="dense", num_experts=0, sub_norm=True):
    branch = BranchConfig(linear, sub_norm=sub_norm, norm_epsilon=EPSILON, scales=(1.0, 0.5))
    if name == "kan":
        return Kan(D, WIDTH, toy.kan(-3.0, 3.0, 3, 3), branch, num_experts, rngs=nnx.Rngs(0))
    if name == "mlp":
        return Mlp(D, WIDTH, branch, num_experts, rngs=nnx.Rngs(0))
    return Glu(D, WIDTH, name, branch, num_experts, rngs=nnx.Rngs(0))


@jax.jit
def value_and_gradients(layer, x, group_sizes, out_bar):
    y, pull = jax.vjp(lambda layer, x: layer(x, group_sizes)[0], layer, x)
    return y, *pull(out_bar)


def normalised(x):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("sub_norm", [False, True])
@pytest.mark.parametrize("name", ["mlp", "swiglu", "geglu"])
def test_a_feed_forward_is_its_formula(name, sub_norm):
    layer, x = make(name, sub_norm=sub_norm), reference.normal(1, 2, 5, D)
    up, down = (np.asarray(part.kernel[...], np.float64) for part in (layer.up, layer.down))
    if name == "mlp":
        hidden = gelu(x @ up)
    else:
        gate = x @ np.asarray(layer.gate.kernel[...], np.float64)
        hidden = gate * (reference.sigmoid(gate) if name == "swiglu" else (1 + ERF(gate / 2**0.5)) / 2) * (x @ up)
    want = (normalised(hidden) if sub_norm else hidden) @ down
    got, _, _ = value_and_gradients(layer, x, None, np.zeros((2, 5, D), np.float32))
    reference.assert_close(got, want, terms=2 * D + 2 * WIDTH)


def stacked_kan(**changes):
    """Three networks that differ in all they own, knots and rational coefficients too."""
    grid = toy.kan(-3.0, 3.0, 3, 3, **changes)
    experts = Kan(D, WIDTH, grid, BranchConfig("dense", scales=(1.0, 0.5)), 3, rngs=nnx.Rngs(0))
    factor = jnp.array([1.0, 0.9, 1.2])
    return jax.tree.map(lambda leaf: leaf * factor.reshape(3, *(1,) * (leaf.ndim - 1)), experts)


@pytest.mark.parametrize(
    "experts",
    [
        stacked_kan(),
        stacked_kan(knots="adaptive"),
        pytest.param(stacked_kan(basis="rational"), marks=pytest.mark.slow),
        pytest.param(stacked_kan(basis="chebyshev"), marks=pytest.mark.slow),
        make("mlp", "ternary", 3),
        pytest.param(make("kan", "ternary", 3), marks=pytest.mark.slow),
        pytest.param(make("swiglu", "dense", 3), marks=pytest.mark.slow),
    ],
    ids=["kan", "adaptive", "rational", "chebyshev", "mlp", "ternary kan", "swiglu"],
)
def test_a_weighted_sum_of_experts_is_each_of_them_times_its_gates(experts, monkeypatch):
    # Codes of activations may flip where two orders of a sum differ by one rounding: here they are not rounded.
    monkeypatch.setattr("mixkabrn_jax.ops.ternary.fake_quant_activation", lambda x, bits: x)  # noqa: ARG005
    x, gates, bar = reference.normal(1, 7, D), reference.normal(2, 7, 3), reference.normal(3, 7, D)
    mask = np.array([[1, 0, 1]] * 3 + [[0, 1, 1]] * 4, np.float32)
    graph, params, rest = nnx.split(experts, nnx.Param, ...)

    def summed(params, x, gates):
        y, outside = nnx.merge(graph, params, rest).weighted_sum(x, gates, mask)
        return jnp.sum(y * bar), (y, outside)

    def one_by_one(params, x, gates):
        y, outside = jax.vmap(lambda expert, mask_R: expert(x, row_mask=mask_R))(nnx.merge(graph, params, rest), mask.T)
        y = jnp.sum(y * gates.T[..., None], axis=0)
        return jnp.sum(y * bar), (y, jax.tree.map(jnp.sum, outside))

    (got, want) = (
        jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(params, x, gates) for run in (summed, one_by_one)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        reference.assert_close(a, b, terms=7 * 3 * 6 * (D + WIDTH))


@pytest.mark.parametrize(
    ("name", "linear"), [("kan", "ternary"), ("mlp", "binary"), ("mlp", "ternary"), ("swiglu", "dense")]
)
def test_experts_in_sorted_rows_are_each_expert_alone(name, linear, monkeypatch):
    if linear != "dense":  # codes of activations may flip where two orders of a sum differ by one rounding
        monkeypatch.setattr("mixkabrn_jax.ops.ternary.fake_quant_activation", lambda x, bits: x)  # noqa: ARG005
    layer, sizes = make(name, linear, num_experts=3), np.array([4, 0, 4], np.int32)
    x, out_bar = reference.normal(1, 8, D), reference.normal(2, 8, D)
    y, layer_bar, x_bar = value_and_gradients(layer, x, sizes, out_bar)
    basis = 7 if name == "kan" else 1
    for expert, rows in ((0, slice(0, 4)), (2, slice(4, 8))):
        alone = jax.tree.map(lambda a, e=expert: a[e], layer)
        want, alone_bar, x_alone_bar = value_and_gradients(alone, x[rows], None, out_bar[rows])
        terms = basis * 2 * (D + WIDTH)
        reference.assert_close(y[rows], want, terms=terms)
        reference.assert_close(x_bar[rows], x_alone_bar, terms=2 * terms)
        for got, want in zip(jax.tree.leaves(layer_bar), jax.tree.leaves(alone_bar), strict=True):
            reference.assert_close(got[expert], want, terms=2 * terms)
    assert not any(leaf[1].any() for leaf in jax.tree.leaves(layer_bar))


def test_matrices_start_larger_by_their_scales():
    small = make("mlp")
    large = Mlp(D, WIDTH, BranchConfig("dense", scales=(2.0, 1.0)), rngs=nnx.Rngs(0))
    reference.assert_close(small.down.kernel[...], 0.5 * np.asarray(large.down.kernel[...]))
    reference.assert_close(small.up.kernel[...], 0.5 * np.asarray(large.up.kernel[...]))


def test_rms_norm_divides_by_the_root_mean_square():
    norm, x = RMSNorm(D, epsilon=0.1), 0.3 * reference.normal(1, 2, 3, D)
    norm.scale_D[...] = jnp.asarray(reference.normal(2, D))
    want = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + 0.1)
    reference.assert_close(jax.jit(lambda norm, x: norm(x))(norm, x), want * np.asarray(norm.scale_D[...]), terms=D)


def test_rms_norm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(reference.normal(1, 4, 512), jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    want = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + EPSILON)
    got = jax.jit(lambda x: rms_norm(x, EPSILON))(x)
    assert got.dtype == jnp.bfloat16
    # One rounding of the result, half a unit of 2^-8: sums in bfloat16 are off by several.
    assert (np.abs(np.asarray(got, np.float64) - want) <= 2.0**-8 * np.abs(want) * (1 + 1e-5)).all()
