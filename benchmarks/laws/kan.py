"""Laws of KAN layers that pykan and jaxkan break."""

import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.laws.verdict import Law, Verdict, close
from mixkabrn_jax.layers import refinement
from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.features import KanConfig
from mixkabrn_jax.layers.kan import Kan, KanLayer
from mixkabrn_jax.layers.linear import LinearConfig
from mixkabrn_jax.ops.uniform_bspline import UniformGrid


def kan_config(degree=3, reach=1.0, knots="uniform"):
    return KanConfig(knots=knots, grid=UniformGrid(-reach, reach, 5, degree))


def kan_layer(width_in=2, width_out=5, seed=0, **options):
    return KanLayer(width_in, width_out, kan_config(**options), LinearConfig("dense"), rngs=nnx.Rngs(seed))


def in_an_empty_folder(build):
    """Names of the files that building something leaves behind."""
    before = pathlib.Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            build()
            return sorted(path.name for path in pathlib.Path(folder).rglob("*"))
        finally:
            os.chdir(before)


def pykan(**options):
    import kan

    return kan.KAN(**({"width": [2, 5, 1], "grid": 5, "k": 3, "auto_save": False, "device": "cpu"} | options))


def pykan_files():
    files = in_an_empty_folder(lambda: pykan(auto_save=True))  # its default
    return Verdict(not files, f"files written by the constructor: {files}")


def our_files():
    files = in_an_empty_folder(kan_layer)
    return Verdict(not files, f"files written by the constructor: {files}")


def pykan_randomness():
    import torch

    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        pykan()
        drawn.append(float(torch.rand(())))
    return Verdict(drawn[0] != drawn[1], f"the next number after seeds 1 and 2: {drawn[0]:.4f}, {drawn[1]:.4f}")


def our_randomness():
    drawn = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002 - the global state is what is looked at
        kan_layer()
        drawn.append(float(np.random.rand()))  # noqa: NPY002
    return Verdict(drawn[0] != drawn[1], f"the next number after seeds 1 and 2: {drawn[0]:.4f}, {drawn[1]:.4f}")


def pykan_degree_zero():
    import torch

    y = pykan(k=0)(torch.linspace(-0.9, 0.9, 20).reshape(10, 2))
    return Verdict(bool(torch.isfinite(y).all()), "a finite output")


def our_degree_zero():
    y = kan_layer(degree=0)(jnp.linspace(-0.9, 0.9, 20).reshape(10, 2))
    return Verdict(bool(jnp.isfinite(y).all()), "a finite output")


def through_layers(x, layers):
    """How much smaller or larger a signal is after some layers."""
    before = float(x.std())
    for layer in layers:
        x = layer(x)
    ratio = float(x.std()) / before
    return Verdict(abs(ratio - 1) < 0.1, f"its size is {ratio:.2g} times what it was")


def pykan_size():
    import torch
    from kan.KANLayer import KANLayer

    torch.manual_seed(0)
    layers = [KANLayer(in_dim=64, out_dim=64, num=5, k=3, device="cpu") for _ in range(8)]
    return through_layers(2 * torch.rand(1000, 64) - 1, [lambda x, f=f: f(x)[0] for f in layers])


def our_size():
    layers = [kan_layer(64, 64, seed=seed, reach=3.0) for seed in range(8)]
    return through_layers(jax.random.normal(jax.random.key(9), (1000, 64)), layers)


def jaxkan(dims=(3, 3, 3), **options):
    from jaxkan.models.KAN import KAN

    return KAN(list(dims), layer_type="base", required_parameters={"k": 3, "G": 5} | options, seed=0)


def spread(number, width=3, scale=0.5):
    return scale * jax.random.normal(jax.random.key(1), (number, width))


def jaxkan_seeds():
    first, second = jaxkan().layers
    equal = bool(jnp.array_equal(first.c_basis[...], second.c_basis[...]))
    return Verdict(not equal, f"two layers start {'equal' if equal else 'different'}")


def our_seeds():
    both = Kan(3, 3, kan_config(), BranchConfig("dense"), rngs=nnx.Rngs(0))
    equal = bool(jnp.array_equal(both.up.spline[...], both.down.spline[...]))
    return Verdict(not equal, f"two layers start {'equal' if equal else 'different'}")


def jaxkan_state():
    model, x = jaxkan(), spread(200)
    model.update_grids(x, 5)
    again = jaxkan()
    nnx.update(again, nnx.state(model))
    return close(float(jnp.abs(again(x) - model(x)).max()), float(jnp.abs(model(x)).max()))


def jaxkan_one_sample():
    model = jaxkan()
    model.update_grids(spread(1), 5)
    finite = bool(jnp.isfinite(model(spread(4))).all())
    return Verdict(finite, "finite after an update" if finite else "NaN after an update")


def our_state():
    x = spread(200)
    layer = refinement.update_grid(kan_layer(3, 3, knots="adaptive"), x, 0.02)
    again = kan_layer(3, 3, seed=1, knots="adaptive")
    nnx.update(again, nnx.state(layer))
    return close(float(jnp.abs(again(x) - layer(x)).max()), float(jnp.abs(layer(x)).max()))


def our_one_sample():
    layer = refinement.update_grid(kan_layer(3, 3, knots="adaptive"), spread(1), 0.02)
    finite = bool(jnp.isfinite(layer(spread(4))).all())
    return Verdict(finite, "finite after an update" if finite else "NaN after an update")


LAWS = (
    Law("pykan", "building a model writes no file", pykan_files, our_files),
    Law("pykan", "building a model leaves the global random state alone", pykan_randomness, our_randomness),
    Law("pykan", "degree 0 works", pykan_degree_zero, our_degree_zero),
    Law("pykan", "eight 64-wide layers keep the size of a signal", pykan_size, our_size),
    Law("jaxkan", "layers start from different numbers", jaxkan_seeds, our_seeds),
    Law("jaxkan", "a saved state holds the grid", jaxkan_state, our_state),
    Law("jaxkan", "a grid update with one sample leaves a finite layer", jaxkan_one_sample, our_one_sample),
)
