"""The functions on the edges of a KAN layer, at one input each: `[1, D]` -> `[G, D]`."""

import math

import numpy as np

from mixkabrn_jax.export.onnx.graph import DOUBLE, FLOAT, Graph, whole
from mixkabrn_run.functions import Functions


def edges(g: Graph, functions: Functions, x: str, width: int) -> str:
    """All G functions at each of `width` inputs."""
    if functions.basis != "bspline":
        return _OTHERS[functions.basis](g, functions, x, width)
    basis = _uniform if functions.knots is None else _on_knots
    if functions.extrapolation == "fade":
        return basis(g, functions, x)
    low, high = np.array([functions.low]), np.array([functions.high])
    if functions.knots is not None:
        low, high = functions.knots[functions.degree], functions.knots[-functions.degree - 1]
    values_GD = basis(g, functions, g("Min", g("Max", x, low), high))
    if functions.extrapolation == "linear" and functions.degree:
        # Outside they go on straight: one step further out tells how steep.
        first, last = functions(low) - functions(low - 1), functions(high + 1) - functions(high)
        values_GD = g("Add", values_GD, g("Mul", g("Min", g("Sub", x, low), 0.0), first))
        values_GD = g("Add", values_GD, g("Mul", g("Max", g("Sub", x, high), 0.0), last))
    return values_GD


def _uniform(g, functions, x):
    """On equally spaced knots: one bump, shifted."""
    degree, last = functions.degree, functions.num_intervals
    place = g("Mul", g("Sub", x, functions.low), last / functions.span)
    centres_G1 = np.arange(functions.num_basis, dtype=np.float32)[:, None] - np.float32((degree - 1) / 2)
    if degree == 0:
        inside = g("Equal", g("Floor", place), centres_G1 - np.float32(0.5))
        is_end = g("And", g("Equal", x, functions.high), np.arange(last)[:, None] == last - 1)
        return g("Cast", g("Or", inside, is_end), to=FLOAT)
    # 1/p! sum_j (-1)^j C(p+1, j) max((p+1)/2 - j - distance, 0)^p (Schoenberg 1946): j intervals from the bump's end.
    j_I = np.arange(degree // 2 + 1)
    factors_I = [(-1) ** j * math.comb(degree + 1, j) / math.factorial(degree) for j in j_I]
    distance_GD = g("Abs", g("Sub", place, centres_G1))
    height_IGD = g("Relu", g("Sub", np.float32((degree + 1) / 2 - j_I)[:, None, None], distance_GD))
    power_IGD = g("Mul", height_IGD, np.float32(factors_I)[:, None, None])
    for _ in range(degree - 1):
        power_IGD = g("Mul", power_IGD, height_IGD)
    return g("ReduceSum", power_IGD, whole([0]), keepdims=0)


def _on_knots(g, functions, x):
    """On knots of each input's own: Cox and de Boor."""
    knots_MD = np.stack(functions.knots)
    left, right = knots_MD[:-1], knots_MD[1:]
    is_end = g("And", g("Equal", x, knots_MD[-1]), (right == knots_MD[-1]) & (left < right))
    inside = g("Or", g("And", g("GreaterOrEqual", x, left), g("Less", x, right)), is_end)
    values = g("Cast", inside, to=FLOAT)
    for p in range(1, functions.degree + 1):
        width = knots_MD[p:] - knots_MD[:-p]
        per_width = np.divide(1, width, out=np.zeros_like(width), where=width > 0)
        number = whole([len(width)])
        rising = g("Mul", g("Sub", x, knots_MD[: -p - 1]), per_width[:-1])
        falling = g("Mul", g("Sub", knots_MD[p + 1 :], x), per_width[1:])
        first, second = (g("Slice", values, whole([i]), number + i - 1, whole([0])) for i in (0, 1))
        values = g("Add", g("Mul", rising, first), g("Mul", falling, second))
    return values


def _chebyshev(g, functions, x, width):
    squashed = g("Tanh", x)
    values, doubled = [np.ones((1, width), np.float32), squashed], g("Mul", squashed, 2.0)
    while len(values) < functions.num_basis:
        values.append(g("Sub", g("Mul", doubled, values[-1]), values[-2]))
    return g("Concat", *values[: functions.num_basis], axis=0)


def _fourier(g, functions, x, width):
    turns = g("Div", g("Sub", g("Cast", x, to=DOUBLE), np.float64(functions.low)), np.float64(functions.span))
    harmonics_P11 = np.arange(functions.num_basis // 2 + 1, dtype=np.float64)[:, None, None]
    waves_GD = g("Concat", *cos_and_sin(g, g("Mul", turns, harmonics_P11)), axis=1)
    waves_GD = g("Reshape", waves_GD, whole([-1, width]))
    # The sine of no harmonic is none.
    return g("Gather", waves_GD, whole([0, *range(2, functions.num_basis + 1)]), axis=0)


def _rbf(g, functions, x, width):  # noqa: ARG001
    step = np.float32(functions.span / max(functions.num_basis - 1, 1))
    place = g("Clip", g("Div", g("Sub", x, functions.low), step), -32.0, float(functions.num_basis + 31))
    distance_GD = g("Sub", place, np.arange(functions.num_basis, dtype=np.float32)[:, None])
    return g("Exp", g("Neg", g("Mul", distance_GD, distance_GD)))


def _rational(g, functions, x, width):  # noqa: ARG001
    def horner(coefficients):
        value = coefficients[-1:]
        for i in range(len(coefficients) - 2, -1, -1):
            value = g("Add", g("Mul", value, x), coefficients[i : i + 1])
        return value

    below = g("Add", 1.0, g("Abs", g("Mul", x, horner(functions.denominator))))
    return g("Div", horner(functions.numerator), below)


_OTHERS = {"chebyshev": _chebyshev, "fourier": _fourier, "rbf": _rbf, "rational": _rational}


def cos_and_sin(g: Graph, turns: str) -> tuple[str, str]:
    """Of angles in turns, float64; float32."""
    angle = g("Mul", g("Sub", turns, g("Round", turns)), np.float64(2 * math.pi))
    angle = g("Cast", angle, to=FLOAT)
    return g("Cos", angle), g("Sin", angle)
