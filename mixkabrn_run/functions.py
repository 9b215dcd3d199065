"""The functions on the edges of a KAN layer, at one input each: `mixkabrn_jax.layers.features` for one token."""

import math
from itertools import pairwise

import numpy as np

from mixkabrn_run.arithmetic import cos_and_sin, exp, tanh

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


class Functions:
    """`[D]` -> `[G, D]`."""

    def __init__(self, config, d_in, arrays):
        grid = config["grid"]
        self.basis = config["basis"]
        self.low, self.high = np.float32(grid["low"]), np.float32(grid["high"])
        self.num_intervals, self.degree, self.extrapolation = (
            grid[key] for key in ("num_intervals", "degree", "extrapolation")
        )
        self.num_basis = self.num_intervals + self.degree
        self.span = grid["high"] - grid["low"]
        self.knots = None
        if self.basis == "rational":
            groups = np.arange(d_in) * len(arrays["features.numerator_PG"].values) // d_in
            self.numerator = arrays["features.numerator_PG"].values[groups].T
            self.denominator = arrays["features.denominator_PG"].values[groups].T
        elif "features.knots_DM" in arrays:
            self.knots = list(arrays["features.knots_DM"].values.T)

    def __call__(self, x):
        if self.knots is not None:
            return np.stack(self._on_knots(x))
        return np.stack(getattr(self, f"_{self.basis}")(x))

    def _chebyshev(self, x):
        squashed = tanh(x)
        values = [np.ones_like(x), squashed]
        while len(values) < self.num_basis:
            values.append(_TWO * squashed * values[-1] - values[-2])
        return values[: self.num_basis]

    def _fourier(self, x):
        turns = (x.astype(np.float64) - self.low) / self.span
        values = [np.ones_like(x)]
        for harmonic in range(1, self.num_basis // 2 + 1):
            values += cos_and_sin(turns * harmonic)
        return values[: self.num_basis]

    def _rbf(self, x):
        step = np.float32(self.span / max(self.num_basis - 1, 1))
        position = np.clip((x - self.low) / step, np.float32(-32), np.float32(self.num_basis + 31))
        return [exp(-((position - np.float32(g)) * (position - np.float32(g)))) for g in range(self.num_basis)]

    def _rational(self, x):
        def horner(coefficients):
            value = coefficients[-1]
            for coefficient in coefficients[-2::-1]:
                value = value * x + coefficient
            return value

        return [horner(self.numerator) / (_ONE + np.abs(x * horner(self.denominator)))]

    # --- B-splines on equally spaced knots: one bump, shifted ----------------------------------------------------

    def _bspline(self, x):
        degree, last = self.degree, np.float32(self.num_intervals)
        free = (x - self.low) * np.float32(self.num_intervals / self.span)
        free = np.where(x == self.high, last, free)
        margin = np.float32(degree + 1 if self.extrapolation == "fade" else 0)
        held = np.minimum(np.maximum(free, -margin), last + margin)
        below, above = np.minimum(free, _ZERO), np.maximum(free - last, _ZERO)
        values = []
        for g in range(self.num_basis):
            if degree == 0:
                is_last = (g == self.num_intervals - 1) & (held == np.float32(g + 1))
                value = ((held >= np.float32(g)) & ((held < np.float32(g + 1)) | is_last)).astype(np.float32)
            else:
                value = self._bump(np.abs(held - np.float32(g - (degree - 1) / 2)))
            if self.extrapolation == "linear":
                value = value + below * np.float32(self._end_slope(g))
                value = value - above * np.float32(self._end_slope(self.num_basis - 1 - g))
            values.append(value)
        return values

    def _bump(self, distance):
        """1/p! sum_j (-1)^j C(p+1, j) max((p+1)/2 - j - distance, 0)^p (Schoenberg 1946)."""
        value = None
        for j in range(self.degree // 2 + 1):
            height = np.maximum(np.float32((self.degree + 1) / 2 - j) - distance, _ZERO)
            power = height
            for _ in range(self.degree - 1):
                power = power * height
            term = np.float32((-1) ** j * math.comb(self.degree + 1, j) / math.factorial(self.degree)) * power
            value = term if value is None else value + term
        return value

    def _end_slope(self, g):
        """Slope in 1/step of function g at the grid's first point, seen from inside; a Python number."""
        degree = self.degree
        if degree == 0:
            return 0.0

        def bump(u):
            if degree == 1:
                return float(-0.5 <= u < 0.5)
            heights = (max(degree / 2 - j - abs(u), 0) for j in range(degree))
            terms = ((-1) ** j * math.comb(degree, j) * h ** (degree - 1) for j, h in enumerate(heights))
            return sum(terms) / math.factorial(degree - 1)

        centre = g - (degree - 1) / 2
        return bump(0.5 - centre) - bump(-0.5 - centre)

    # --- B-splines on knots of each input's own: Cox and de Boor --------------------------------------------------

    def _on_knots(self, x):
        knots, degree = self.knots, self.degree
        if self.extrapolation == "fade":
            return _recursion(x, knots, degree)
        low, high = knots[degree], knots[-degree - 1]
        values = _recursion(np.minimum(np.maximum(x, low), high), knots, degree)
        if self.extrapolation == "linear" and degree:
            below, above = np.where(x < low, x - low, _ZERO), np.where(x > high, x - high, _ZERO)
            at_low, at_high = _slopes(low, knots, degree), _slopes(high, knots, degree, from_left=True)
            values = [
                value + below * first + above * last for value, first, last in zip(values, at_low, at_high, strict=True)
            ]
        return values


def _recursion(x, knots, degree, from_left=False):
    values = []
    for left, right in pairwise(knots):
        if from_left:
            inside = (x > left) & (x <= right)
        else:
            inside = ((x >= left) & (x < right)) | ((x == knots[-1]) & (right == knots[-1]) & (left < right))
        values.append(inside.astype(np.float32))
    for p in range(1, degree + 1):
        per_width = [_ratio(_ONE, high - low) for low, high in zip(knots, knots[p:], strict=False)]
        values = [
            (x - knots[i]) * per_width[i] * values[i] + (knots[i + p + 1] - x) * per_width[i + 1] * values[i + 1]
            for i in range(len(values) - 1)
        ]
    return values


def _slopes(x, knots, degree, from_left=False):
    lower = [
        _ratio(np.float32(degree), high - low) * value
        for low, high, value in zip(knots, knots[degree:], _recursion(x, knots, degree - 1, from_left), strict=False)
    ]
    return [rise - fall for rise, fall in pairwise(lower)]


def _ratio(numerator, denominator):
    """0 / 0 counts as 0."""
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, _ONE), _ZERO)
