"""A layer on another grid: pykan's numbers, exactness, purity, stacks, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers import refinement
from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.variables import Buffer
from tests import reference, toy

GOLDEN = pytest.mark.parametrize("stem", ["kan_layer_a", "kan_layer_b"])
update_grid = jax.jit(refinement.update_grid, static_argnames="uniform_fraction")
extend_grid = jax.jit(refinement.extend_grid, static_argnames="num_intervals")
run = jax.jit(lambda layer, x: layer(x))
D, F = 4, 5


def make(kan, num_experts=0, widths=(D, F)):
    options = {"kind": "dense", "activation_bits": 8, "rngs": nnx.Rngs(0), "num_experts": num_experts}
    return KanLayer(*widths, kan=kan, **options)


def adaptive(degree=3, num_intervals=4, **changes):
    return toy.kan(-2.0, 2.0, num_intervals, degree, knots="adaptive", **changes)


def pykans(z, dtype):
    """pykan's layer as ours: its scale of each spline is a factor of the coefficients, and it has no norm or bias."""
    degree, num = int(z["order"]), int(z["num"])
    inputs, outputs = z["scale_base"].shape
    layer = make(toy.kan(-1.0, 1.0, num, degree, knots="adaptive"), widths=(inputs, outputs))
    layer.base = nnx.Param(jnp.asarray(z["scale_base"], dtype))
    coef_DFG = z["coef"] * z["scale_sp"][..., None]
    layer.spline = nnx.Param(jnp.asarray(np.moveaxis(coef_DFG, -1, 0).reshape(-1, outputs), dtype))
    layer.features.knots_DM = Buffer(jnp.asarray(z["grid"], dtype))
    return layer


def coefficients(layer):
    inputs, outputs = layer.base[...].shape
    return np.moveaxis(np.asarray(layer.spline[...]).reshape(-1, inputs, outputs), 0, -1)


def splines(x, layer):
    """The splines' part of the output, by the oracle: `[N, F]`."""
    knots = np.asarray(layer.features.knots_DM[...], np.float64)
    basis = reference.bspline_basis(x, knots, layer.features.grid.degree)
    return np.einsum("ndg,dfg->nf", basis, coefficients(layer).astype(np.float64))


def assert_golden(got, want, dtype):
    atol = {np.float64: 1e-10, np.float32: 1e-5}[dtype]
    reference.assert_close(got, want, atol=atol * max(1.0, np.abs(want).max()))


@GOLDEN
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.usefixtures("x64")
def test_a_layer_and_its_update_from_samples_and_its_refinement_are_pykans(stem, dtype):
    z = reference.golden(stem)
    layer = pykans(z, dtype)
    assert_golden(run(layer, z["x"].astype(dtype)), z["y"], dtype)
    updated = update_grid(layer, z["update_x"].astype(dtype), float(z["update_grid_eps"]))
    assert_golden(updated.features.knots_DM[...], z["updated_grid"], dtype)
    assert_golden(run(updated, z["update_x"].astype(dtype)), z["updated_y"], dtype)
    if dtype == np.float64:
        assert_golden(coefficients(updated), z["updated_coef"] * z["scale_sp"][..., None], dtype)
    refined = extend_grid(layer, 2 * int(z["num"]))
    assert_golden(refined.features.knots_DM[...], z["refined_grid"], dtype)
    want = np.einsum("ndf,df->nf", z["refined_spline"], z["scale_sp"])
    assert_golden(splines(z["refine_x"], refined), want, dtype)
    if dtype == np.float64:
        assert_golden(coefficients(refined), z["refined_coef"] * z["scale_sp"][..., None], dtype)
