"""The matrices of a model, and how their inputs are rounded."""

from collections.abc import Sequence

import numpy as np

from mixkabrn_jax.export.onnx.graph import FLOAT, INT8, Graph, whole
from mixkabrn_run.linear import Linear

_ZERO = np.uint8(128)
"""Codes are stored 128 higher: products of unsigned and signed bytes are the fast ones."""


def linear(g: Graph, layers: Sequence[Linear], x: str) -> list[str]:
    """What matrices `[D, F]` that read the same input give, by one product: `[1, F]` each."""
    first = layers[0]
    if first.epsilon is not None:
        x = rms_norm(g, x, first.values.shape[0], first.epsilon)
    widths = [layer.values.shape[1] for layer in layers]
    values_DF = np.concatenate([layer.values for layer in layers], axis=1)
    if not first.is_rounded:
        scales = [np.float32(1) if layer.scale is None else layer.scale for layer in layers]
        y = g("MatMul", x, values_DF * np.repeat(scales, widths))
    else:
        codes, scale = _quantize(g, x, first.bits)
        y = g("MatMulInteger", codes, g.codes(values_DF, INT8), _ZERO)
        scale_F = np.repeat(np.array([layer.scale for layer in layers], np.float32), widths)
        y = g("Mul", g("Cast", y, to=FLOAT), g("Mul", scale, scale_F if len(layers) > 1 else first.scale))
    return g.split(y, widths)


def rms_norm(g: Graph, x: str, width: int, epsilon: float) -> str:
    """x / sqrt(mean(x^2) + epsilon) over the last dimension."""
    return g("RMSNormalization", x, np.ones(width, np.float32), axis=-1, epsilon=epsilon)


def silu(g: Graph, x: str) -> str:
    """x sigmoid(x)."""
    return g("Mul", x, g("Sigmoid", x))


def _quantize(g, x, bits):
    """(codes + 128, uint8; their scale, `[1, 1]`)."""
    largest = g("Max", g("ReduceMax", g("Abs", x), whole([1])), 1e-5)
    scale = g("Div", largest, float(2 ** (bits - 1) - 1))
    return g("QuantizeLinear", x, g("Reshape", scale, whole([])), _ZERO), scale
