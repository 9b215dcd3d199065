"""A layer on another grid: pykan's numbers, exactness, purity, stacks, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers import refinement
from mixkabrn_jax.layers.features import KNOTS
from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import LinearConfig
from mixkabrn_jax.layers.variables import Buffer
from tests import reference, toy

GOLDEN = pytest.mark.parametrize("stem", ["kan_layer_a", "kan_layer_b"])
update_grid = jax.jit(refinement.update_grid, static_argnames="uniform_fraction")
extend_grid = jax.jit(refinement.extend_grid, static_argnames="num_intervals")
run = jax.jit(lambda layer, x: layer(x))
D, F = 4, 5


def make(kan, num_experts=0, widths=(D, F)):
    return KanLayer(*widths, kan, LinearConfig("dense"), num_experts=num_experts, rngs=nnx.Rngs(0))


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
    """The splines' part of the output, by the oracle: `[R, F]`."""
    knots = np.asarray(layer.features.knots_DM[...], np.float64)
    basis = reference.bspline_basis(x, knots, layer.features.config.grid.degree)
    return np.einsum("rdg,dfg->rf", basis, coefficients(layer).astype(np.float64))


def assert_golden(got, want, dtype):
    atol = {np.float64: 1e-10, np.float32: 1e-5}[dtype]
    reference.assert_close(got, want, atol=atol * max(1.0, np.abs(want).max()))


@GOLDEN
@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
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
    want = np.einsum("rdf,df->rf", z["refined_spline"], z["scale_sp"])
    assert_golden(splines(z["refine_x"], refined), want, dtype)
    if dtype == np.float64:
        assert_golden(coefficients(refined), z["refined_coef"] * z["scale_sp"][..., None], dtype)


@pytest.mark.parametrize(("knots", "num_intervals"), [("uniform", 8), ("uniform", 7), ("adaptive", 8), ("adaptive", 7)])
def test_an_extended_grid_keeps_the_layer_and_leaves_its_own_as_it_is(knots, num_intervals):
    layer = make(toy.kan(-2.0, 2.0, 4, 3, knots=knots))
    before = jax.tree.map(np.asarray, nnx.state(layer))
    x = np.linspace(-2, 2, 64, dtype=np.float32).reshape(-1, D)
    extended = extend_grid(layer, num_intervals)
    assert extended.spline[...].shape == ((num_intervals + 3) * D, F)
    assert extended.features.config.grid.num_intervals == num_intervals
    want = np.asarray(run(layer, x))
    error = np.abs(np.asarray(run(extended, x)) - want).max() / np.abs(want).max()
    # A multiple of the intervals is exact to rounding; seven on four can only come near.
    assert error < 1e-5 if num_intervals % 4 == 0 else 1e-3 < error < 0.3
    jax.tree.map(np.testing.assert_array_equal, nnx.state(layer), before)
    assert layer.features.config.grid.num_intervals == 4
    if knots == "adaptive":
        assert extended.features.knots_DM[...].shape == (D, num_intervals + 7)
        assert extended.features.knots_DM[...].dtype == jnp.float32


def test_stacked_layers_and_experts_change_each_as_if_alone():
    layers = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), make(adaptive(), num_experts=3))
    x = reference.normal(3, 2, 3, 60, D)
    before = jax.tree.map(np.asarray, nnx.state(layers))
    updated = update_grid(layers, x, 0.5)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(layers), before)
    knots = np.asarray(updated.features.knots_DM[...])
    assert knots.dtype == np.float32
    for at, end in ((3, x.min(axis=-2)), (-4, x.max(axis=-2))):
        reference.assert_close(knots[..., at], end, terms=4)
    for index in ((0, 2), (1, 0)):
        alone = jax.tree.map(lambda a, at=index: a[at], layers)
        want = update_grid(alone, x[index], 0.5)
        for got, leaf in zip(jax.tree.leaves(updated), jax.tree.leaves(want), strict=True):
            reference.assert_close(got[index], leaf, terms=1000)


def test_samples_that_are_masked_are_as_if_they_were_not_there_and_too_few_change_nothing():
    layers = make(adaptive(), num_experts=3)
    x = reference.normal(3, 3, 120, D)
    mask = (reference.normal(4, 3, 120) > -0.5).astype(np.float32)
    enough = refinement.SAMPLES_PER_FUNCTION * 7  # basis functions
    mask[1] = np.arange(120) < enough - 1
    updated = update_grid(layers, x, 0.5, mask)
    for expert in range(3):
        alone = jax.tree.map(lambda leaf, e=expert: leaf[e], layers)
        got = jax.tree.map(lambda leaf, e=expert: leaf[e], updated)
        if expert == 1:
            jax.tree.map(np.testing.assert_array_equal, nnx.state(got), nnx.state(alone))
            continue
        kept = x[expert][mask[expert] > 0]
        assert enough < len(kept) < 110
        want = update_grid(alone, kept, 0.5)
        np.testing.assert_array_equal(got.features.knots_DM[...], want.features.knots_DM[...])
        reference.assert_close(got.spline[...], want.spline[...], terms=1000)
    mask[1, -1] = 1
    moved = update_grid(layers, x, 0.5, mask).features.knots_DM[...]
    assert (moved[1] != layers.features.knots_DM[...][1]).any()


def test_an_update_from_few_samples_keeps_the_splines():
    """1 to 64 samples all over the grid: too few leave it as it is, as many as are asked for fit the splines well."""
    layer = make(adaptive())
    spread = np.random.default_rng(0).permuted(np.linspace(-2, 2, 64))
    x = np.stack([np.roll(spread, shift) for shift in range(D)], axis=1).astype(np.float32)
    points = np.linspace(-2, 2, 201)[:, None].repeat(D, axis=1)
    want = splines(points, layer)
    enough = refinement.SAMPLES_PER_FUNCTION * 7  # basis functions
    for rows in range(1, 65):
        updated = update_grid(layer, x, 0.02, np.arange(64) < rows)
        moved = (updated.features.knots_DM[...] != layer.features.knots_DM[...]).any()
        assert moved == (rows >= enough)
        difference = np.abs(splines(points, updated) - want).max() / np.abs(want).max()
        assert difference < 0.03, f"{rows} samples: off by {difference:.0%} of the splines"


@pytest.mark.parametrize("basis", ["bspline", "rational"])
def test_experts_with_knots_or_rationals_of_their_own_are_each_expert_alone(basis):
    layer = make(adaptive() if basis == "bspline" else toy.kan(-2.0, 2.0, 4, 3, basis=basis), num_experts=3)
    own = "knots_DM" if basis == "bspline" else "numerator_PG"
    spread = getattr(layer.features, own)
    spread[...] = spread[...] * jnp.float32([1, 2, 3]).reshape(3, 1, 1)
    x, sizes = reference.normal(4, 9, D), np.array([4, 0, 5], np.int32)
    mask_R = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1])

    @jax.jit
    def forward(layer, x):
        features = layer.features
        return layer(x, sizes), features.outside_grid(x, sizes), features.outside_grid(x, sizes, mask_R)

    got, outside, masked = forward(layer, x)
    off_grid_R = np.zeros(9)
    for expert, rows in ((0, slice(0, 4)), (2, slice(4, 9))):
        alone = jax.tree.map(lambda a, e=expert: a[e], layer)
        reference.assert_close(got[rows], run(alone, x[rows]), terms=100)
        off_grid_R[rows] = (np.abs(x[rows]) > 2 * (expert + 1)).sum(axis=1)
    if basis == "bspline":
        assert outside == (off_grid_R.sum(), x.size)
        assert masked == ((off_grid_R * mask_R).sum(), 7 * D)
        assert off_grid_R.sum() > 0
    else:
        assert outside is None
        assert masked is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: refinement.extend_grid(make(adaptive()), 3), "num_intervals=3: at least the layer's 4"),
        (lambda: refinement.extend_grid(make(toy.kan(-1, 1, 3, 3, basis="rbf")), 6), "basis='rbf'"),
        (lambda: refinement.update_grid(make(toy.kan(-1, 1, 3, 3)), np.zeros((5, D)), 0.0), "knots='uniform'"),
        (lambda: refinement.update_grid(make(adaptive()), np.zeros((5, D + 1)), 0.0), r"\('R', 4\) is needed"),
        (lambda: refinement.update_grid(make(adaptive(), 3), np.zeros((5, D)), 0.0), r"\(3, 'R', 4\) is needed"),
    ],
)
def test_what_cannot_be_refined_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_adaptive_knots_follow_the_closed_form_until_they_move():
    """Values and gradients; in every mode outside the grid."""
    x = 2 * reference.normal(5, 12, D)
    for extrapolation in ("fade", "linear"):
        layers = [make(toy.kan(-2.0, 2.0, 4, 3, extrapolation, knots=knots)) for knots in KNOTS]
        want, got = (jax.jit(jax.value_and_grad(lambda x, k=k: jnp.sum(jnp.sin(k(x)))))(x) for k in layers)
        reference.assert_close(got[0], want[0], terms=1000)
        reference.assert_close(got[1], want[1], terms=1000)
