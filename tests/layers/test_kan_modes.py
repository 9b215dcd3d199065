"""The choices of a KAN layer: how it starts, what is on its edges, what is trained; and that all stay finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers import refinement
from mixkabrn_jax.layers.features import BASES
from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import LinearConfig
from mixkabrn_jax.layers.variables import Buffer
from tests import reference, toy

D, F = 5, 6
KAN = toy.kan(-3.0, 3.0, 4, 3)


def make(kan=KAN, widths=(D, F), init_scale=1.0):
    return KanLayer(*widths, kan, LinearConfig("dense", init_scale=init_scale), rngs=nnx.Rngs(0))


@jax.jit
def run(layer, x):
    return layer(x)


@jax.jit
def value_and_gradients(layer, x, out_bar):
    y, pull = jax.vjp(lambda layer, x: layer(x), layer, x)
    return y, *pull(out_bar)


# --- Inits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(-3.0, 3.0, 3, 3), (-2.0, 2.0, 8, 3)])
def test_the_measured_size_of_the_signal_is_kept_through_eight_layers(grid):
    """On average over draws: one draw of 64 outputs is off by its own sampling error, about 9% after eight layers."""
    kan = toy.kan(*grid)

    @jax.jit
    @jax.vmap
    def sizes(key):
        x_key, *keys = jax.random.split(key, 9)
        layers = jax.vmap(lambda key: KanLayer(64, 64, kan, LinearConfig("dense"), rngs=nnx.Rngs(key)))

        def step(x, layer):
            y = layer(x)
            return y, jnp.sqrt(jnp.mean(y**2))

        return jax.lax.scan(step, jax.random.normal(x_key, (128, 64)), layers(jnp.stack(keys)))[1]

    measured = np.asarray(sizes(jax.random.split(jax.random.key(0), 8)))
    assert np.abs(measured.mean(axis=0) - 1).max() < 0.1, measured.mean(axis=0)


@pytest.mark.parametrize("basis", BASES)
def test_every_basis_starts_with_the_promised_variance_and_is_active(basis):
    kan = dataclasses.replace(KAN, basis=basis, spline_share=0.75)
    layer, x = make(kan, (64, 1024)), reference.normal(1, 256, 64)
    assert abs(float(jnp.mean(run(layer, x) ** 2)) - 1) < 0.1
    layer.base[...] = jnp.zeros_like(layer.base[...])
    assert abs(float(jnp.mean(run(layer, x) ** 2)) - 0.75) < 0.1


@pytest.mark.parametrize("init", ["lecun", "glorot"])
def test_an_init_draws_the_variance_it_is_named_for(init):
    layer = make(dataclasses.replace(KAN, init=init), (64, 256), init_scale=0.5)
    base, spline = (np.asarray(part[...], np.float64) for part in (layer.base, layer.spline))
    rows = spline.shape[0]
    assert rows == 7 * 64
    want = {"lecun": (1 / 64, 1 / rows), "glorot": (2 / (64 + 256), 2 / (rows + 256))}[init]
    for part, variance in zip((base, spline), want, strict=True):
        # The variance of n normal draws is known to sqrt(2 / n).
        assert abs(part.var() / (0.25 * variance) - 1) < 5 * np.sqrt(2 / part.size)


def test_pykans_init_goes_through_its_noise_and_shrinks_the_signal_as_pykans_does():
    layer = jax.jit(lambda: make(toy.kan(-1.0, 1.0, 5, 3, init="pykan"), (64, 64)))()
    x = np.random.default_rng(0).uniform(-1, 1, (512, 64)).astype(np.float32)
    assert abs(float(run(layer, x).std()) - 0.175) < 0.02
    base = np.asarray(layer.base[...], np.float64) * np.sqrt(64)
    assert np.abs(base).max() < 1
    assert abs(base.var() * 3 - 1) < 0.05
    points = np.linspace(-1, 1, 6)[:, None]
    basis = reference.bspline_basis(points, reference.uniform_knots(-1, 1, 5, 3), 3)[:, 0]
    at_points = basis @ np.asarray(layer.spline[...], np.float64).reshape(8, -1) * np.sqrt(64)
    # (U - 1/2) * 0.5 / 5 at every point of the grid.
    assert np.abs(at_points).max() < 0.05 * 1.001
    assert abs(at_points.std() / (0.1 / np.sqrt(12)) - 1) < 0.02


# --- What is trained ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", ["bspline", "rational"])
@pytest.mark.parametrize(("train_base", "train_spline"), [(False, True), (True, False)])
def test_a_frozen_part_is_a_buffer_with_the_same_numbers(train_base, train_spline, basis):
    kan = dataclasses.replace(KAN, basis=basis)
    whole = make(kan)
    layer = make(dataclasses.replace(kan, train_base=train_base, train_spline=train_spline))
    kinds = {True: nnx.Param, False: Buffer}
    assert type(layer.base) is kinds[train_base]
    assert type(layer.spline) is kinds[train_spline]
    if basis == "rational":
        assert type(layer.features.numerator_PG) is type(layer.features.denominator_PG) is kinds[train_spline]
    x = reference.normal(1, 3, D)
    np.testing.assert_array_equal(run(layer, x), run(whole, x))


# --- Every mode stays finite -------------------------------------------------------------------------------------

MODES = {
    "bspline": {"extrapolation": "linear"},
    "adaptive": {"extrapolation": "linear", "knots": "adaptive"},
    **{basis: {"basis": basis} for basis in BASES[1:]},
}
ROWS = {
    "constant": np.full((12, D), 0.3),
    "zero and one": np.arange(12 * D).reshape(12, D) % 2,
    "single row, repeated": np.tile(np.linspace(-1, 1, D), (12, 1)),
    "far away": np.where(np.arange(12 * D).reshape(12, D) % 2, 1e4, -1e4),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_finite_on_degenerate_inputs_in_single_and_half_precision(mode):
    layer = make(toy.kan(-3.0, 3.0, 4, 2, **MODES[mode]))
    if mode == "adaptive":  # as a constant feature leaves them
        crowded_M = jnp.asarray(0.3 + 1e-6 * np.arange(9), jnp.float32)
        layer.features.knots_DM = Buffer(jnp.broadcast_to(crowded_M, (D, 9)))
    for dtype in (jnp.float32, jnp.bfloat16):
        for rows in ROWS.values():
            out = value_and_gradients(layer, jnp.asarray(rows, dtype), jnp.ones((12, F), dtype))
            assert out[0].dtype == out[2].dtype == dtype
            assert all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(out))


def test_a_grid_update_is_finite_on_degenerate_samples():
    layer = make(toy.kan(-3.0, 3.0, 4, 3, knots="adaptive"))
    update = jax.jit(refinement.update_grid)
    for samples in ROWS.values():
        new = update(layer, np.tile(samples, (5, 1)).astype(np.float32), 0.02)  # enough not to be left alone
        assert (new.features.knots_DM[...] != layer.features.knots_DM[...]).any()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))
        assert (np.diff(new.features.knots_DM[...], axis=1) > 0).all()
        assert np.abs(new.spline[...]).max() < 1e3
