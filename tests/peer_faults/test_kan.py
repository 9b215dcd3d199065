"""Faults of other KAN libraries, each with a test that it is not one of ours."""

import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers import refinement
from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.kan import Kan, KanLayer
from mixkabrn_jax.layers.linear import LinearConfig
from mixkabrn_jax.layers.variables import Buffer
from mixkabrn_jax.ops import bases, bspline, knot_insertion
from tests import reference, toy

pytestmark = pytest.mark.slow  # each is a law of its room as well, on other numbers

D, F = 3, 4
update_grid = jax.jit(refinement.update_grid)
run = jax.jit(lambda layer, x: layer(x))


def make(kan=None, widths=(D, F), seed=0):
    kan = toy.kan(-2.0, 2.0, 4, 3, knots="adaptive") if kan is None else kan
    return KanLayer(*widths, kan, LinearConfig("dense"), rngs=nnx.Rngs(seed))


# --- pykan -------------------------------------------------------------------------------------------------------


def test_pykan_resets_the_global_random_numbers_in_every_constructor():
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    want = np.random.random(3), random.random()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    make()
    got = np.random.random(3), random.random()  # noqa: NPY002
    np.testing.assert_array_equal(got[0], want[0])
    assert got[1] == want[1]


def test_pykan_writes_files_unasked_and_keeps_what_it_was_last_called_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = make()
    before = jax.tree.map(np.asarray, nnx.state(layer))
    run(layer, reference.normal(1, 40, D))
    assert not list(tmp_path.iterdir())
    jax.tree.map(np.testing.assert_array_equal, nnx.state(layer), before)


def test_pykan_crashes_at_degree_zero():
    layer, x = make(toy.kan(-2.0, 2.0, 4, 0, knots="adaptive")), reference.normal(1, 40, D)

    @jax.jit
    def everything(layer, x):
        layer = refinement.update_grid(layer, x, 0.02)
        gradient = jax.grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)
        return layer(x), refinement.extend_grid(layer, 8)(x), gradient.spline[...]

    y, finer_y, spline_bar = everything(layer, x)
    # The function jumps at its knots, which lie on samples: a knot that rounds to another side takes its row along.
    moved = np.abs(np.asarray(finer_y) - np.asarray(y)).max(axis=1) > 1e-5
    assert moved.sum() <= 5 * D
    assert np.abs(spline_bar).max() > 0


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _sizes(inner)
        yield from (math.prod(out.aval.shape) for out in equation.outvars)


def test_pykan_refits_with_a_copy_of_the_basis_for_every_output():
    inputs, outputs, rows = 256, 256, 4096
    kan = toy.kan(-2.0, 2.0, 5, 3, knots="adaptive")
    layer = jax.eval_shape(lambda: make(kan, (inputs, outputs)))
    x = jax.ShapeDtypeStruct((rows, inputs), jnp.float32)
    largest = max(_sizes(jax.make_jaxpr(refinement.update_grid, static_argnums=2)(layer, x, 0.02).jaxpr))
    basis = rows * inputs * (5 + 2 * 3)  # with the functions of lower degree on the way
    assert largest <= 1.1 * basis  # not even rows * inputs * outputs, 23 times as much


@pytest.mark.usefixtures("x64")
def test_pykan_gets_worse_from_grid_50_to_grid_100():
    x = np.linspace(-1, 1, 1000)[:, None]
    y = np.exp(np.sin(np.pi * x) + x**2)[..., None]

    @jax.jit
    def refined(knots, coef):
        finer = knot_insertion.refine_knots(knots, 100, 3)
        return finer, knot_insertion.insert_knots(coef, knots, finer, 3), bspline.fit(x, y, finer, 3)

    knots = bspline.uniform_knots(-1.0, 1.0, 50, 3)
    coef = jax.jit(lambda knots: bspline.fit(x, y, knots, 3))(knots)

    def error(knots, coef):
        knots = np.asarray(knots)
        return np.abs(np.einsum("rdg,dfg->rdf", reference.bspline_basis(x, knots, 3), coef) - y).max()

    finer, inserted, fitted = refined(knots, coef)
    coarse = error(knots, coef)
    assert coarse < 1e-5
    assert error(finer, inserted) < coarse * (1 + 1e-9)
    assert error(finer, fitted) < coarse / 8  # fourth order


# --- efficient-kan -----------------------------------------------------------------------------------------------


def test_efficient_kan_applies_the_scale_twice_in_a_grid_update():
    layer, x = make(), reference.normal(1, 400, D).clip(-1.9, 1.9)
    layer.base = nnx.Param(jnp.zeros((D, F)))
    before, after = (np.asarray(run(which, x)).std() for which in (layer, update_grid(layer, x, 0.02)))
    assert abs(after / before - 1) < 0.05


# --- jaxKAN ------------------------------------------------------------------------------------------------------


def test_jaxkan_leaves_its_grid_out_of_the_state_and_compiles_it_in():
    layer, x = make(), reference.normal(1, 400, D)
    kinds = [type(leaf) for leaf in jax.tree.leaves(nnx.state(layer), is_leaf=lambda v: isinstance(v, nnx.Variable))]
    assert kinds.count(Buffer) == 1
    traces = []

    @jax.jit
    def count(layer, x):
        traces.append(None)
        return layer(x)

    moved = nnx.clone(layer)
    moved.features.knots_DM = Buffer(layer.features.knots_DM[...] + 0.5)
    assert np.abs(np.asarray(count(layer, x)) - np.asarray(count(moved, x))).max() > 0.1
    assert len(traces) == 1


def test_jaxkan_gives_every_layer_the_same_seed():
    kan = Kan(D, D, toy.kan(-2.0, 2.0, 4, 3), BranchConfig("dense"), rngs=nnx.Rngs(0))
    for part in ("base", "spline"):
        one, other = (np.asarray(getattr(layer, part)[...]) for layer in (kan.up, kan.down))
        assert np.abs(one - other).min() > 0


def test_jaxkan_is_not_a_number_after_one_sample():
    layer, x = make(), reference.normal(1, 1, D)
    updated = update_grid(layer, x, 0.02)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updated))
    assert np.isfinite(run(updated, x)).all()


# --- KAT ---------------------------------------------------------------------------------------------------------


def test_kats_gelu_is_of_another_formula():
    x = np.linspace(-3, 3, 101, dtype=np.float32)[:, None]
    got = bases.group_rational(x, *(jnp.array([row]) for row in bases.GELU))
    assert np.abs(np.asarray(got) - np.asarray(jax.nn.gelu(x))).max() < 1e-2


def test_kats_init_is_overwritten():
    """The rationals of a new layer are active: their part has its variance, and their coefficients have gradients."""
    layer = make(toy.kan(-3.0, 3.0, 3, 3, basis="rational", spline_share=1.0), (32, 256))
    x = reference.normal(1, 64, 32)
    y, gradient = jax.jit(lambda layer, x: (layer(x), jax.grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)))(layer, x)
    assert abs(float(jnp.mean(y**2)) - 1) < 0.15
    assert all(np.abs(leaf).min() > 0 for leaf in (gradient.features.numerator_PG[...], gradient.spline[...]))
