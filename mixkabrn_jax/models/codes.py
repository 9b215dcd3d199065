"""The numbers of a trained model as they are kept: codes with their scales where a format has some, packed.

Ternary codes lie five to a byte, in base 3; binary ones eight, those of int4 two, those of int8 one. All codes of an
array are packed in one row, the last dimension first, so that no byte but the last is partly used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import BITS, QUANTIZERS, Linear, by_basis, over_matrices
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.ops import ternary


class Packing(NamedTuple):
    """How the codes of a number format lie in a byte, as digits of a number."""

    per_byte: int
    base: int
    """Codes that there are."""
    smallest: int
    step: int = 1
    """From one code to the next."""


PACKINGS = {
    "ternary": Packing(5, 3, -1),
    "binary": Packing(8, 2, -1, step=2),
    "int4": Packing(2, 16, -8),
    "int8": Packing(1, 256, -128),
}
ROUNDINGS = ("int8", "bfloat16")
"""What a file can hold of matrices that training did not round."""


@dataclass(frozen=True)
class Coded:
    """A variable of a model that has codes."""

    path: tuple[str, ...]
    """Of the variable in the model, as in ("embedding_WD",)."""
    kind: str
    """Its number format, a key of `PACKINGS`, or bfloat16."""
    variable: nnx.Variable
    num_scales: int
    """Matrices of the second last dimension that have a scale each."""

    @property
    def total_scales(self) -> int:
        """Of all matrices of all layers and experts."""
        return self.variable.size // (self.variable.shape[-2] * self.variable.shape[-1]) * self.num_scales

    def num_bytes(self) -> int:
        """Of its packed codes."""
        return num_bytes(self.variable.size, self.kind)

    def encode(self) -> tuple[jax.Array, jax.Array]:
        """(codes int8 in the variable's shape, scales float32 `[..., num_scales]`)."""
        codes, scale = over_matrices(self._quantize, by_basis(self.variable[...], self.num_scales))
        return codes.reshape(self.variable.shape), scale

    def _quantize(self, matrix):
        if self.kind in QUANTIZERS:
            return QUANTIZERS[self.kind](matrix)
        return ternary.quantize_absmax(matrix, BITS[self.kind])


def coded(model: LanguageModel, rounding: str = "") -> Iterator[Coded]:
    """Everything in a model that has codes, and with a rounding, one of `ROUNDINGS`, its dense matrices too.

    Raises: ValueError for another rounding.
    """
    if rounding not in ("", *ROUNDINGS):
        raise ValueError(f"rounding={rounding!r}: one of {ROUNDINGS} is needed, or none")
    kinds = {kind: kind for kind in PACKINGS} | ({"dense": rounding} if rounding else {})
    for path, layer in surgery.layers(model, (Linear, KanLayer)):
        parts = tuple(path.split("."))
        if isinstance(layer, Linear):
            found = [("kernel", layer.kernel, layer.config.linear, 1)]
        else:
            spline = "spline", layer.spline, layer.features.config.spline_linear, layer.features.num_basis
            found = [("base", layer.base, layer.linear.linear, 1), spline]
        for name, variable, kind, num_scales in found:
            if kind in kinds:
                yield Coded((*parts, name), kinds[kind], variable, num_scales)
    for name in ("embedding_WD", "head_WD"):
        table, kind = getattr(model, name), model.config.quantization.embedding
        if table is not None and kind in kinds:
            yield Coded((name,), kinds[kind], table, table.shape[0])


def decode(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What the model multiplies by: codes `[..., D, F]` times scales `[..., G]` of D / G rows each; float32."""
    shape = codes.shape
    rows = codes.reshape(*shape[:-2], scales.shape[-1], -1, shape[-1])
    return (rows.astype(np.float32) * scales[..., None, None]).reshape(shape)


def num_bytes(size: int, kind: str) -> int:
    """Of so many packed codes."""
    return -(-size // PACKINGS[kind].per_byte)


def pack(codes: np.ndarray, kind: str) -> np.ndarray:
    """Codes of any shape as uint8 `[num_bytes]`; the first of a byte's codes is its last digit."""
    per_byte, base, smallest, step = PACKINGS[kind]
    digits = (np.asarray(codes, np.int32).reshape(-1) - smallest) // step
    digits = np.pad(digits, (0, -len(digits) % per_byte)).reshape(-1, per_byte)
    return (digits @ base ** np.arange(per_byte)).astype(np.uint8)


def unpack(packed: np.ndarray, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `pack`: int8 codes of a shape. Raises: ValueError when the bytes do not hold that shape."""
    size = int(np.prod(shape))
    if packed.shape != (num_bytes(size, kind),):
        raise ValueError(f"{packed.size} bytes do not hold {kind} codes of shape {shape}")
    per_byte, base, smallest, step = PACKINGS[kind]
    digits = packed.astype(np.int32)[:, None] // base ** np.arange(per_byte) % base
    return (digits.reshape(-1)[:size] * step + smallest).astype(np.int8).reshape(shape)
