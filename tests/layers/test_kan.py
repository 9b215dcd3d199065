import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.kan import Kan, KanLayer
from mixkabrn_jax.layers.linear import LinearConfig
from tests import reference, toy

KAN = toy.kan(-2.0, 2.0, 4, 3)
GRID = KAN.grid
D, F = 5, 6


def make(kan=KAN, linear="dense"):
    return KanLayer(D, F, kan, LinearConfig(linear), rngs=nnx.Rngs(0))


def silu(x):
    return x * reference.sigmoid(x)


def edges(x, base_DF, spline, grid, linear="dense"):
    """The sum over inputs of every edge's function, one edge after the other: w_b silu(x) + sum_g c_g B_g(x)."""
    x, base_DF = np.asarray(x, np.float64), np.asarray(base_DF, np.float64)
    knots = reference.uniform_knots(grid.low, grid.high, grid.num_intervals, grid.degree)
    basis = reference.bspline_basis(x, knots, grid.degree)
    coefficient_GDF = np.asarray(spline, np.float64).reshape(grid.num_basis, *base_DF.shape)
    activation = silu(x)
    if linear != "dense":
        codes, scale = reference.quantize_activation(activation)
        activation = codes * scale
        codes, scale = (reference.quantize_weight if linear == "ternary" else reference.binarize_weight)(base_DF)
        base_DF = codes * scale
    y = np.zeros((*x.shape[:-1], base_DF.shape[1]))
    for d in range(base_DF.shape[0]):
        for f in range(base_DF.shape[1]):
            y[..., f] += base_DF[d, f] * activation[..., d] + basis[..., d, :] @ coefficient_GDF[:, d, f]
    return y


@jax.jit
def value_and_gradients(layer, x, out_bar):
    y, pull = jax.vjp(lambda layer, x: layer(x), layer, x)
    return y, *pull(out_bar)


def inputs(*shape):
    """Inside the grid, in the margin where splines fade, and far outside; on no knot, where slopes jump."""
    x = reference.normal(1, *shape)
    x.flat[:3] = 2.4, -3.9, 40.0
    return x


@pytest.mark.parametrize("linear", ["dense", "ternary", "binary"])
def test_a_layer_is_the_sum_over_edges_of_silu_and_spline(linear):
    layer, x = make(linear=linear), inputs(3, 4, D)
    y, layer_bar, _ = value_and_gradients(layer, x, reference.normal(2, 3, 4, F))
    want = edges(x, layer.base[...], layer.spline[...], GRID, linear)
    # silu(40) = 40 passes through one token's scale: a code's rounding is that of the largest product.
    reference.assert_close(y, want, terms=D * (GRID.num_basis + 1) * 4)
    # The layer is linear in its parameters, so the gradient is the feature: for the base, the quantised silu.
    activation = silu(np.asarray(x, np.float64))
    if linear != "dense":
        codes, scale = reference.quantize_activation(activation)
        activation = codes * scale
    want = np.einsum("btd,btf->df", activation, reference.normal(2, 3, 4, F))
    reference.assert_close(layer_bar.base[...], want, terms=12)


@pytest.mark.parametrize("linear", ["dense", "ternary"])
def test_the_functions_on_the_edges_are_each_of_one_input_and_add_up_to_the_layer(linear):
    layer, x = make(linear=linear), inputs(8, D)
    found = np.asarray(jax.jit(lambda layer, x: layer.edges(x))(layer, x))
    assert found.shape == (8, D, F)
    reference.assert_close(found.sum(axis=1), layer(x), terms=D * (GRID.num_basis + 1) * 4)
    if linear == "dense":  # the scale of activation codes is that of all inputs
        x[:, 1] += 0.5
        other = np.asarray(jax.jit(lambda layer, x: layer.edges(x))(layer, x))
        np.testing.assert_array_equal(np.delete(other, 1, axis=1), np.delete(found, 1, axis=1))
        assert np.abs(other[:, 1] - found[:, 1]).max() > 0.1


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_layer_is_the_sum_over_edges_at_every_degree(degree):
    kan = toy.kan(-1.5, 2.5, 3, degree)
    grid = kan.grid
    layer, x = make(kan), inputs(8, D)
    y, layer_bar, x_bar = value_and_gradients(layer, x, reference.normal(2, 8, F))
    reference.assert_close(y, edges(x, layer.base[...], layer.spline[...], grid), terms=4 * D * (grid.num_basis + 1))
    out_bar = reference.normal(2, 8, F).astype(np.float64)
    knots = reference.uniform_knots(grid.low, grid.high, grid.num_intervals, degree)
    basis = reference.bspline_basis(x, knots, degree)
    want = np.einsum("rdg,rf->gdf", basis, out_bar).reshape(-1, F)
    reference.assert_close(layer_bar.spline[...], want, terms=8 * 4)
    x = np.asarray(x, np.float64)
    slope = reference.bspline_slope(x, knots, degree)
    slope_silu = reference.sigmoid(x) * (1 + x * (1 - reference.sigmoid(x)))
    coefficient = np.asarray(layer.spline[...], np.float64).reshape(grid.num_basis, D, F)
    want = np.einsum("rdg,gdf,rf->rd", slope, coefficient, out_bar)
    want += np.einsum("rd,df,rf->rd", slope_silu, np.asarray(layer.base[...], np.float64), out_bar)
    reference.assert_close(x_bar, want, terms=4 * F * (grid.num_basis + 1))


@pytest.mark.parametrize("spline_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("init_scale", [1.0, 0.5])
def test_outputs_start_with_the_promised_variance_and_share_of_splines(spline_share, init_scale):
    width, rows = 4096, 512
    kan = toy.kan(-3.0, 3.0, 3, 3, spline_share=spline_share)
    layer = KanLayer(16, width, kan, LinearConfig("dense", init_scale=init_scale), rngs=nnx.Rngs(0))
    run = jax.jit(lambda layer, x: layer(x))
    x = reference.normal(1, rows, 16)

    def check(layer, want):
        per_output = (np.asarray(run(layer, x), np.float64) ** 2).mean(axis=0)
        # Outputs are independent draws of weights over shared inputs, whose own power (a fourth moment of 3) is
        # known to sqrt(2 / their number).
        error = np.hypot(per_output.std() / np.sqrt(width), want * np.sqrt(2 / (16 * rows)))
        assert abs(per_output.mean() - want) <= 5 * error

    check(layer, init_scale**2)
    layer.base[...] = jnp.zeros_like(layer.base[...])
    check(layer, spline_share * init_scale**2)


def test_ternary_splines_are_the_sum_over_edges_of_their_codes():
    layer, x = make(toy.kan(-2.0, 2.0, 4, 3, spline_linear="ternary")), inputs(8, D)
    y, layer_bar, _ = value_and_gradients(layer, x, reference.normal(2, 8, F))
    spline_GDF = np.asarray(layer.spline[...]).reshape(GRID.num_basis, D, F)
    quantised = [codes * scale for codes, scale in map(reference.quantize_weight, spline_GDF)]
    want = edges(x, layer.base[...], np.concatenate(quantised), GRID)
    reference.assert_close(y, want, terms=4 * D * (GRID.num_basis + 1))
    # Straight through: the gradient of the coefficients that were multiplied.
    knots = reference.uniform_knots(GRID.low, GRID.high, GRID.num_intervals, GRID.degree)
    basis = reference.bspline_basis(x, knots, GRID.degree)
    want = np.einsum("rdg,rf->gdf", basis, reference.normal(2, 8, F)).reshape(-1, F)
    reference.assert_close(layer_bar.spline[...], want, terms=8 * 4)


def test_two_layers_meet_at_a_hidden_layer_of_unit_size():
    kan = Kan(D, 7, KAN, BranchConfig("dense", norm_epsilon=1e-6, scales=(1.0, 0.5)), rngs=nnx.Rngs(3))
    x = inputs(9, D)
    hidden = edges(x, kan.up.base[...], kan.up.spline[...], GRID)
    hidden /= np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + 1e-6)
    want = edges(hidden, kan.down.base[...], kan.down.spline[...], GRID)
    terms = (D + 7) * (GRID.num_basis + 1) * 4
    run = jax.jit(lambda kan, x, row_mask=None: kan(x, row_mask=row_mask))
    y, outside = run(kan, x)
    reference.assert_close(y, want, terms=terms)
    off_grid_R = (np.abs(x) > 2).sum(axis=1) + (np.abs(hidden) > 2).sum(axis=1)
    assert outside == (off_grid_R.sum(), x.size + hidden.size)
    # A row that is left out changes no output and counts for nothing.
    mask_R = np.array([1, 0, 1, 1, 0, 1, 0, 1, 1], np.float32)
    masked, outside = run(kan, x, mask_R)
    np.testing.assert_array_equal(masked, y)
    assert outside == (off_grid_R[mask_R > 0].sum(), 6 * (D + 7))
    assert 0 < outside.outside < off_grid_R.sum()
    reference.assert_close(outside.share(), off_grid_R[mask_R > 0].sum() / (6 * (D + 7)))
    assert run(kan, x, 0 * mask_R)[1].share() == 0
