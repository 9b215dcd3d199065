"""The matrices of a model, how their inputs are rounded, and what adapters add beside them."""

from collections.abc import Iterable

import numpy as np

from mixkabrn_run.arithmetic import product, quantize, rms_norm, totals
from mixkabrn_run.file import LowRank, Matrix


class Linear:
    """y = x W, with the input rounded where training rounded it: not for values, nor for codes of 8 bits."""

    def __init__(self, matrix: Matrix, bits: int, normalize: bool, epsilon: float):
        self.bits, self.epsilon = bits, epsilon if normalize else None
        # float32 holds sums of codes exactly up to 2^24, in any order.
        self.values = np.ascontiguousarray(matrix.values, np.float32)
        self.scale = None if matrix.scales is None else matrix.scales.reshape(())[()]
        self.is_rounded = matrix.kind in ("ternary", "binary")
        self.low_ranks = matrix.low_ranks

    def __call__(self, x):
        """`[D]` -> `[F]`."""
        if self.epsilon is not None:
            x = rms_norm(x, self.epsilon)
        if not self.is_rounded:
            y = product(x if self.scale is None else x * self.scale, self.values)
            return plus_low_ranks(y, x, self.low_ranks)
        codes, scale = quantize(x, self.bits)
        return plus_low_ranks((codes @ self.values) * (scale * self.scale), codes * scale, self.low_ranks)


def plus_low_ranks(y: np.ndarray, x: np.ndarray, low_ranks: Iterable[LowRank]) -> np.ndarray:
    """y `[F]` + (x A) B of each, one after the other; x is what the matrix beside them reads, `[D]` or `[G, D]`."""
    for each in low_ranks:
        y = plus_rows(y, totals(np.atleast_2d(x), each.lora_A) * each.weight, each.lora_B)
    return y


def plus_rows(y: np.ndarray, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """y `[F]` + values `[K]` @ rows `[K, F]`, rank after rank."""
    for value, row in zip(values, rows, strict=True):
        y = y + value * row
    return y


def normalizes_input(config: dict) -> bool:
    """Whether each quantised matrix normalises its own input (BitNet, sec. 2.1)."""
    return config["quantization"]["normalize_input"] and config["linear"] != "dense"
