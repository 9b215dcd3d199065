"""One KAN layer of 256 inputs and outputs, 5 intervals, degree 3, on 4096 rows; floor: its two matrix products."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.laws.kan import kan_layer
from benchmarks.measure import Case, Contender, compiled, difference, forward_and_backward

ROWS, WIDTH, INTERVALS, DEGREE = 4096, 256, 5, 3
PYKAN_ROWS = 256
"""pykan holds an array of rows * inputs * outputs several times over: 4096 rows would take 10 GB."""


def cases(options):
    return {
        "kan forward": partial(_case, options, backward=False),
        "kan forward + backward": partial(_case, options, backward=True),
    }


def _case(options, *, backward):
    on_gpu = options.suite == "gpu"
    rows, width, dtype = (65536, 768, jnp.bfloat16) if on_gpu else (ROWS, WIDTH, jnp.float32)
    graph, params = nnx.split(kan_layer(width, width, reach=3.0))
    x, cotangent = (_normal(seed, rows, width).astype(dtype) for seed in (0, 1))
    basis = _normal(2, rows, (INTERVALS + DEGREE) * width).astype(dtype)
    base, spline = params["base"][...].astype(dtype), params["spline"][...].astype(dtype)

    def layer(params, x):
        return nnx.merge(graph, params)(x)

    def products(x, basis, base, spline):
        return x @ base + basis @ spline

    def contender(role, name, function, *args):
        if backward:
            return compiled(role, name, forward_and_backward(function), args, cotangent)
        return compiled(role, name, function, *args)

    contenders = [
        contender("ours", "KanLayer", layer, params, x),
        contender("floor", "its two products", products, x, basis, base, spline),
    ]
    figures = {"flops": 2 * rows * width * width * (INTERVALS + DEGREE + 1) * (3 if backward else 1)}
    if not options.peers or on_gpu:
        return Case(contenders, figures)
    jaxkan, pykan = _jaxkan(params), _pykan(params, x, cotangent)
    trained, rest = nnx.split_state(jaxkan[1], nnx.Param, ...)
    contenders.append(
        contender("peer", "jaxKAN", lambda trained, x: nnx.merge(jaxkan[0], trained, rest)(x), trained, x)
    )
    call = pykan.backward if backward else pykan.forward
    contenders.append(Contender("peer", "pykan", call, scale=rows / PYKAN_ROWS))

    def agree():
        want = layer(params, x)
        return {
            "jaxKAN": difference(nnx.merge(*jaxkan)(x), want),
            "pykan": difference(pykan.forward(), want[:PYKAN_ROWS]),
        }

    return Case(contenders, figures, agree)


def _jaxkan(params):
    from jaxkan.layers import SplineLayer

    options = {"grid_range": (-3, 3), "grid_e": 1.0, "add_bias": False, "external_weights": False}
    peer = SplineLayer(WIDTH, WIDTH, k=DEGREE, G=INTERVALS, **options)
    peer.c_basis[...] = jnp.swapaxes(_coefficients(params), 0, 1)
    peer.c_res[...] = params["base"][...].T
    return nnx.split(peer)


class _Pykan(NamedTuple):
    forward: Callable
    backward: Callable


def _pykan(params, x, cotangent):
    import torch
    from kan.KANLayer import KANLayer

    peer = KANLayer(WIDTH, WIDTH, num=INTERVALS, k=DEGREE, grid_range=[-3, 3])
    peer.coef.data = torch.tensor(np.asarray(_coefficients(params)))
    peer.scale_base.data = torch.tensor(np.asarray(params["base"][...]))
    peer.scale_sp.data = torch.ones(WIDTH, WIDTH)
    rows, bar = (torch.tensor(np.asarray(a[:PYKAN_ROWS])) for a in (x, cotangent))
    rows.requires_grad_()

    def forward():
        with torch.no_grad():
            return peer(rows)[0].numpy()

    def backward():
        peer.zero_grad()
        rows.grad = None
        peer(rows)[0].backward(bar)

    return _Pykan(forward, backward)


def _coefficients(params):
    """`[D, F, G]` of our `[G D, F]`."""
    return jnp.moveaxis(params["spline"][...].reshape(-1, WIDTH, WIDTH), 0, -1)


def _normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)
