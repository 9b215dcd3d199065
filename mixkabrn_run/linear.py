"""The matrices of a model, and how their inputs are rounded."""

import numpy as np

from mixkabrn_run.arithmetic import product, quantize, rms_norm
from mixkabrn_run.file import Matrix


class Linear:
    """y = x W, with the input rounded where training rounded it: not for values, nor for codes of 8 bits."""

    def __init__(self, matrix: Matrix, bits: int, normalize: bool, epsilon: float):
        self.bits, self.epsilon = bits, epsilon if normalize else None
        # float32 holds sums of codes exactly up to 2^24, in any order.
        self.values = np.ascontiguousarray(matrix.values, np.float32)
        self.scale = None if matrix.scales is None else matrix.scales.reshape(())[()]
        self.is_rounded = matrix.kind in ("ternary", "binary")

    def __call__(self, x):
        """`[D]` -> `[F]`."""
        if self.epsilon is not None:
            x = rms_norm(x, self.epsilon)
        if not self.is_rounded:
            return product(x if self.scale is None else x * self.scale, self.values)
        codes, scale = quantize(x, self.bits)
        return (codes @ self.values) * (scale * self.scale)


def normalizes_input(config: dict) -> bool:
    """Whether each quantised matrix normalises its own input (BitNet, sec. 2.1)."""
    return config["quantization"]["normalize_input"] and config["linear"] != "dense"
