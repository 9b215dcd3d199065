"""Matrices that training leaves as they are: kept as codes, and with a low-rank one beside them that it trains.

Source: Hu et al., LoRA (2021), eq. 3: y = W x + (alpha / rank) B A x, with B = 0 at the start. Both modules stand where
a layer has its variable, and `[...]` reads them as it reads one.

What A multiplies is the layer's own input, just as W is given it: rounded where W is ternary or binary, silu(x) for a
KAN's base, the basis functions for its splines. So an adapter is a matrix that is added to W, whatever the layer is:
merging it is exact, and a runtime that has codes of the input needs no second input.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers import variables
from mixkabrn_jax.layers.variables import Frozen
from mixkabrn_jax.ops import ternary

_FOUR_TO_A_BYTE = ("ternary", "binary")


class Codes(nnx.Module):
    """A matrix, or several, as codes with their scales: `[..., G D, F]`, unpacked where it is read.

    Ternary and binary codes lie four to a byte, all others one.
    """

    def __init__(self, codes: jax.Array, scales: jax.Array, kind: str, letters: str = ""):
        """
        Args:
            codes: int8 `[..., G D, F]`.
            scales: float32 `[..., G]`, one for so many neighbouring rows.
            kind: number format of the codes, a key of `models.codes.PACKINGS`.
            letters: of the matrix that they stand for.
        """
        self.num_rows = codes.shape[-2] // scales.shape[-1]
        self.is_packed = kind in _FOUR_TO_A_BYTE
        codes = jnp.asarray(codes).reshape(*scales.shape, self.num_rows, codes.shape[-1])
        if self.is_packed:
            codes = _over_leading(ternary.pack, codes)
        # Rows that share a byte stay on one device.
        outer, columns = letters[:-2], letters[-1:]
        self.codes = Frozen(codes, letters=f"{outer}__{columns}" if letters else "", matrix=letters)
        self.scales = Frozen(jnp.asarray(scales), letters=f"{outer}_" if letters else "")

    def __getitem__(self, _) -> jax.Array:
        """`[..., G D, F]` float32, codes times scales."""
        codes, scales = self.codes[...], self.scales[...]
        if self.is_packed:
            codes = _over_leading(lambda packed: ternary.unpack(packed, (self.num_rows, packed.shape[-1])), codes)
        return (codes.astype(jnp.float32) * scales[..., None, None]).reshape(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix that they stand for."""
        *lead, num_scales = self.scales.shape
        return (*lead, num_scales * self.num_rows, self.codes.shape[-1])


class Adapted(nnx.Module):
    """A matrix W `[..., D, F]` that stays as it is, and the factors of a low-rank one that is added to it.

    Letters and the order of products are those of rows x: x W + scale (x A) B, where LoRA's paper has columns.
    """

    def __init__(self, matrix, lora_A: nnx.Variable, lora_B: nnx.Variable, scale: float = 1.0):
        """
        Args:
            matrix: a variable or `Codes`.
            lora_A: `[..., D, K]`; lora_B: `[..., K, F]`. Where experts share them, their dimension of E is 1.
            scale: alpha / rank.
        """
        self.matrix, self.lora_A, self.lora_B, self.scale = matrix, lora_A, lora_B, scale

    def __getitem__(self, index) -> jax.Array:
        """W alone."""
        return self.matrix[index]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of W."""
        return self.matrix.shape

    def factors(self) -> tuple[jax.Array, jax.Array]:
        """(A, scale B), which rows are multiplied by one after the other."""
        return self.lora_A[...], self.scale * self.lora_B[...]


def factor_letters(matrix, *, is_shared: bool) -> tuple[str, str]:
    """Letters of A and of B beside a variable, or a module in its place.

    Args:
        is_shared: by all experts, where the matrix is theirs.
    """
    letters = matrix.codes.get_metadata("matrix") if isinstance(matrix, Codes) else variables.letters(matrix)
    *experts, rows, columns = letters.rjust(2, "_")
    outer = "".join("_" if is_shared else letter for letter in experts)
    return f"{outer}{rows}_", f"{outer}_{columns}"


def low_rank(matrix) -> tuple[jax.Array, jax.Array] | None:
    """The factors beside a matrix, `[..., D, K]` and `[..., K, F]`; None where there are none."""
    return matrix.factors() if isinstance(matrix, Adapted) else None


def with_low_rank(weight: jax.Array, factors: tuple[jax.Array, jax.Array] | None) -> jax.Array:
    """The one matrix that multiplies as both do, to rounding."""
    return weight if factors is None else weight + jnp.matmul(*factors, precision="highest")


def side_by_side(factors: tuple[jax.Array, jax.Array] | None, num_basis: int = 1):
    """The factors of experts, `[E, G F, K]` and `[E, K, D]`, as those of the one matrix `[G E F, D]` that they are side
    by side. The first is block diagonal: for a few experts its zeros cost less than a product for each."""
    if factors is None:
        return None
    lora_A_EHK, lora_B_EKD = factors
    num_experts, height, rank = lora_A_EHK.shape
    lora_A_EGFK = lora_A_EHK.reshape(num_experts, num_basis, -1, rank)
    diagonal = jnp.einsum("egfk,en->gefnk", lora_A_EGFK, jnp.eye(num_experts, dtype=lora_A_EHK.dtype))
    lora_A = diagonal.reshape(num_experts * height, num_experts * rank)
    return lora_A, lora_B_EKD.reshape(num_experts * rank, -1)


def for_each_expert(experts: nnx.Module, num_experts: int) -> nnx.Module:
    """Stacked experts whose every leaf has a leading E: those that all of them share are there once."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_experts, *leaf.shape[1:])), experts)


def has_codes(module: nnx.Module) -> bool:
    """Whether any matrix of it is kept as codes."""
    return any(isinstance(part, Codes) for _, part in nnx.iter_modules(module))


def _over_leading(function, array):
    """`function` of each `[D, F]` of an array `[..., D, F]`."""
    matrices = jax.vmap(function)(array.reshape(math.prod(array.shape[:-2]), *array.shape[-2:]))
    return matrices.reshape(*array.shape[:-2], *matrices.shape[1:])
