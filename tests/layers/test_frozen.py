"""Matrices as codes read as what the codes stand for, and factors beside a matrix add their product, in every layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers import frozen
from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.frozen import Adapted, Codes
from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import IntegerLinear, Linear, LinearConfig, effective_activation, project
from mixkabrn_jax.models.codes import decode
from tests import reference, toy

DENSE = LinearConfig(linear="dense")


@pytest.mark.parametrize(("kind", "smallest", "largest"), [("ternary", -1, 1), ("binary", -1, 1), ("int8", -128, 127)])
@pytest.mark.parametrize("num_scales", [1, 3])
def test_codes_read_as_codes_times_scales(kind, smallest, largest, num_scales):
    rng = np.random.default_rng(0)
    codes = rng.integers(smallest, largest + 1, (2, 4, 15, 6)).astype(np.int8)  # 15 and 5 rows do not fill bytes
    scales = rng.random((2, 4, num_scales), np.float32)
    matrix = Codes(codes, scales, kind, "EDF")
    assert matrix.shape == codes.shape
    np.testing.assert_array_equal(matrix[...], decode(codes, scales))
    np.testing.assert_array_equal(jax.vmap(lambda each: each[...])(matrix), decode(codes, scales))
    per_code = 1 if kind == "int8" else 0.25
    rows = num_scales * np.ceil(15 / num_scales * per_code)
    assert matrix.codes[...].nbytes == 2 * 4 * rows * 6


def beside(matrix, rank=2):
    """The variable with random factors beside it."""
    *lead, d_in, d_out = matrix.shape
    rng = np.random.default_rng(d_in)
    lora_A, lora_B = rng.standard_normal((*lead, d_in, rank)), rng.standard_normal((*lead, rank, d_out))
    return Adapted(matrix, *(nnx.Param(jnp.asarray(each, jnp.float32)) for each in (lora_A, lora_B)), 0.5)


def both(layer, name):
    """(the layer with factors beside a matrix, one whose matrix is the sum)."""
    matrix = beside(getattr(layer, name))
    added, summed = nnx.clone(layer), nnx.clone(layer)
    setattr(added, name, matrix)
    setattr(summed, name, nnx.Param(frozen.with_low_rank(matrix[...], matrix.factors())))
    return added, summed


def layers():
    rngs = nnx.Rngs(0)
    kan = toy.kan(-3.0, 3.0, 3, 2)
    yield "linear", Linear(8, 6, DENSE, rngs=rngs), "kernel"
    yield "KAN base", KanLayer(8, 6, kan, DENSE, rngs=rngs), "base"
    yield "KAN splines", KanLayer(8, 6, kan, DENSE, rngs=rngs), "spline"
    yield "experts", Linear(8, 6, DENSE, num_experts=3, rngs=rngs), "kernel"
    yield "KAN experts' base", KanLayer(8, 6, kan, DENSE, num_experts=3, rngs=rngs), "base"
    yield "KAN experts' splines", KanLayer(8, 6, kan, DENSE, num_experts=3, rngs=rngs), "spline"


@pytest.mark.parametrize(("layer", "name"), [pytest.param(*each[1:], id=each[0]) for each in layers()])
def test_factors_beside_a_matrix_are_their_product_added_to_it(layer, name):
    added, summed = both(layer, name)
    x = np.random.default_rng(1).standard_normal((9, 8)).astype(np.float32)
    groups = (jnp.array([4, 0, 5]),) if getattr(layer, name).ndim == 3 else ()
    want = summed(x, *groups)
    np.testing.assert_allclose(added(x, *groups), want, atol=reference.tolerance(want, 200))
    assert np.abs(want - layer(x, *groups)).max() > 0.1
    if groups:
        x_REF = np.random.default_rng(2).standard_normal((9, 3, 8)).astype(np.float32)
        gates_RE = np.random.default_rng(3).random((9, 3)).astype(np.float32)
        want = summed.weighted_sum(x_REF, gates_RE)
        np.testing.assert_allclose(added.weighted_sum(x_REF, gates_RE), want, atol=reference.tolerance(want, 600))


def test_layers_side_by_side_have_each_its_own_factors():
    parts = [Linear(8, width, BranchConfig("dense").input, rngs=nnx.Rngs(width)) for width in (6, 4, 2)]
    pairs = [both(layer, "kernel") for layer in parts[:2]] + [(parts[2], parts[2])]
    x = np.random.default_rng(1).standard_normal((9, 8)).astype(np.float32)
    for got, want in zip(*(project(x, layers) for layers in zip(*pairs, strict=True)), strict=True):
        np.testing.assert_allclose(got, want, atol=reference.tolerance(want, 200))


def test_factors_read_the_rounded_input_of_a_ternary_matrix():
    """So that they are a matrix that is added to it: merged, nothing but sums are rounded otherwise."""
    layer = Linear(8, 6, LinearConfig(activation_bits=2), rngs=nnx.Rngs(0))
    layer.kernel = beside(layer.kernel)
    x = np.random.default_rng(1).standard_normal((9, 8)).astype(np.float32)
    coarse = frozen.with_low_rank(np.zeros((8, 6), np.float32), layer.kernel.factors())
    plain = nnx.clone(layer)
    plain.kernel = layer.kernel.matrix
    rounded = effective_activation(x, layer.config)
    assert np.abs(rounded - x).max() > 0.1
    np.testing.assert_allclose(layer(x), plain(x) + rounded @ coarse, atol=1e-5)


def test_a_layer_of_integers_takes_no_adapter():
    layer = Linear(8, 6, rngs=nnx.Rngs(0))
    layer.kernel = beside(layer.kernel)
    with pytest.raises(ValueError, match="takes no adapter"):
        IntegerLinear(layer)
