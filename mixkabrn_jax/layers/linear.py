"""Linear layers without bias: dense, ternary (BitNet b1.58) or binary (BitNet), for one matrix or one per expert."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.layers.frozen import Adapted, low_rank, side_by_side
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.layers.recompute import recomputed
from mixkabrn_jax.layers.variables import Buffer
from mixkabrn_jax.ops import backend as backends
from mixkabrn_jax.ops import ternary
from mixkabrn_jax.ops.grouped_matmul import grouped_matmul

LINEAR_TYPES = ("dense", "ternary", "binary")
ROUNDED = "rounded"
"""The number format of a matrix that was read as codes times scales: inputs are rounded for it, it is not, again."""
TABLE_TYPES = ("dense", "int8", "int4")
"""Number formats of the embedding."""
QUANTIZERS = {"ternary": ternary.quantize_weight, "binary": ternary.binarize_weight}
"""What gives a quantised matrix its codes and scale."""
BITS = {"int8": 8, "int4": 4}
"""Of the codes of formats whose scale is the largest weight's."""
_FAKE_QUANTIZERS = {
    "ternary": ternary.fake_quant_weight,
    "binary": ternary.fake_binary_weight,
    **{name: partial(ternary.fake_absmax_weight, bits=bits) for name, bits in BITS.items()},
}


@dataclass(frozen=True)
class LinearConfig:
    """The number format of a linear layer's matrix and inputs, and how the product is computed."""

    linear: str = "ternary"
    """Number format of the matrix, one of `LINEAR_TYPES`."""
    activation_bits: int = 8
    """Bits of the input beside a ternary or binary matrix; a dense layer's input is not rounded."""
    normalize_input: bool = False
    """RMS-normalise the input before it is rounded, without a learned scale (BitNet, sec. 2.1)."""
    norm_epsilon: float = 1e-6
    """Added to the mean square in RMS norms."""
    init_scale: float = 1.0
    """Factor on the initial standard deviation 1 / sqrt(inputs)."""
    backend: str = "auto"
    """The processor to compute for, one of `ops.backend.BACKENDS`."""

    def __post_init__(self):
        if self.linear not in (*LINEAR_TYPES, ROUNDED):
            raise ValueError(f"linear={self.linear!r}: one of {LINEAR_TYPES} is needed")
        if not 2 <= self.activation_bits <= 8:
            raise ValueError(f"activation_bits={self.activation_bits}: 2 to 8 is needed")
        backends.check(self.backend)


def multiply(x: jax.Array, weight: jax.Array, group_sizes: jax.Array | None, backend: str = "auto") -> jax.Array:
    """x `[..., D]` @ weight `[D, F]`, or rows x `[R, D]` sorted by expert with weight `[E, D, F]`."""
    if group_sizes is None:
        # Rows as one dimension: the gradient of the weight sums over two otherwise, and on a CPU XLA first writes its
        # input transposed, which takes as long as the product.
        return _flat_product(x, weight)
    return grouped_matmul(x, weight, group_sizes, backend=backend)


def plus_low_rank(
    y: jax.Array,
    x: jax.Array,
    factors: tuple[jax.Array, jax.Array] | None,
    group_sizes: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """y + (x A) B, the product with a low-rank matrix by its factors, as `frozen.low_rank` gives them; y without any.

    Added last, behind all other products of a layer, whose sums are those of a layer without adapters. XLA may still
    fuse them otherwise: a B of 0 adds exactly 0, and what stands before it is the same to rounding.
    """
    for factor in factors or ():
        x = multiply(x, factor.astype(x.dtype), group_sizes, backend)
    return y if factors is None else y + x


@recomputed
def _flat_product(x, weight):
    return (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], weight.shape[-1])


def effective_weight(weight: jax.Array, linear: str) -> jax.Array:
    """The matrix that a layer multiplies by, rounded to its number format; each expert's has its own scale."""
    if linear in ("dense", ROUNDED):
        return weight
    return over_matrices(_FAKE_QUANTIZERS[linear], weight)


def over_matrices(function, *weights: jax.Array):
    """`function` of each `[D, F]` matrix alone; leading dimensions are layers, experts or basis functions."""
    for _ in range(weights[0].ndim - 2):
        function = jax.vmap(function)
    return function(*weights)


def effective_spline(spline: jax.Array, num_basis: int, linear: str) -> jax.Array:
    """Spline coefficients `[..., G D, F]` as a KAN layer multiplies by them; every basis function has its own scale.

    Functions at the grid's edge see fewer inputs than those in its middle: under one scale, coefficients that have
    moved little would all round to 0.
    """
    return effective_weight(by_basis(spline, num_basis), linear).reshape(spline.shape)


def effective_table(table_WD: jax.Array, kind: str) -> jax.Array:
    """The embedding as a model reads it and multiplies by it: rounded with a scale for each token's row, or as it is.

    Args:
        kind: one of `TABLE_TYPES`.
    """
    return table_WD if kind == "dense" else ternary.fake_quant_activation(table_WD, BITS[kind])


def by_basis(spline: jax.Array, num_basis: int) -> jax.Array:
    """`[..., G D, F]` to `[..., G, D, F]`."""
    return spline.reshape(*spline.shape[:-2], num_basis, -1, spline.shape[-1])


def effective_activation(x: jax.Array, config: LinearConfig) -> jax.Array:
    """The input that a layer multiplies its matrix by: rounded per token, unless the matrix is dense."""
    return x if config.linear == "dense" else ternary.fake_quant_activation(x, config.activation_bits)


def sum_of_experts(layer, x_REF, gates_RE):
    """The sum over experts of gate times output, expert by expert: `[R, E, F]`, `[R, E]` -> `[R, D]`."""
    y_RED = jax.vmap(lambda expert, x_RF: expert(x_RF), in_axes=(0, 1), out_axes=1)(layer, x_REF)
    return jnp.einsum("re,red->rd", gates_RE.astype(y_RED.dtype), y_RED)


def normal_init(rngs: nnx.Rngs, shape: tuple[int, ...], scale: float, letters: str) -> nnx.Param:
    """Normal weights of variance scale^2 / fan-in; the fan-in is the second to last dimension.

    Args:
        letters: of the last two dimensions, "_" for one that is never split over devices.
    """
    weight = scale * shape[-2] ** -0.5 * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(weight, letters=letters)


class Linear(nnx.Module):
    """y = x W. Master weights are float32; quantisation happens in the forward pass, straight through backward."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        config: LinearConfig = LinearConfig(),
        letters: str = "DF",
        num_experts: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            letters: of the input's and the output's features, which say how the matrix is split over devices.
            num_experts: 0 for one matrix, else one matrix for each expert.
        """
        experts = (num_experts,) if num_experts else ()
        self.kernel = normal_init(rngs, (*experts, d_in, d_out), config.init_scale, letters)
        self.config = config

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., F]`; with experts, rows `[R, D]` sorted by expert and `group_sizes_E`."""
        if self.config.normalize_input:
            x = rms_norm(x, self.config.norm_epsilon)
        weight = effective_weight(self.kernel[...], self.config.linear).astype(x.dtype)
        x, backend = effective_activation(x, self.config), self.config.backend
        y = multiply(x, weight, group_sizes_E, backend)
        return plus_low_rank(y, x, low_rank(self.kernel), group_sizes_E, backend)

    def weighted_sum(self, x_REF, gates_RE):
        """The sum over experts of gate times output, as one product: `[R, E, F]`, `[R, E]` -> `[R, D]`."""
        if self.config.normalize_input:
            x_REF = rms_norm(x_REF, self.config.norm_epsilon)
        weight_EFD = effective_weight(self.kernel[...], self.config.linear).astype(x_REF.dtype)
        x_REF = effective_activation(x_REF, self.config) * gates_RE[..., None].astype(x_REF.dtype)
        x_RH = x_REF.reshape(len(x_REF), -1)
        y_RD = multiply(x_RH, weight_EFD.reshape(-1, weight_EFD.shape[-1]), None)
        return plus_low_rank(y_RD, x_RH, side_by_side(low_rank(self.kernel)))


def project(x: jax.Array, layers: Sequence[nnx.Module]) -> list[jax.Array]:
    """What each of several layers gives for the same input `[..., D]`, by one product with their matrices side by side.

    Apart where they are of different kinds, or where their columns lie on several devices.
    """
    kinds = {replace(layer.config, init_scale=1.0) if isinstance(layer, Linear) else None for layer in layers}
    if len(kinds) > 1 or None in kinds or sharding.model_size() > 1:
        return [layer(x) for layer in layers]
    (config,) = kinds
    if config.normalize_input:
        x = rms_norm(x, config.norm_epsilon)
    x = effective_activation(x, config)
    weights = [effective_weight(layer.kernel[...], config.linear) for layer in layers]
    y = multiply(x, jnp.concatenate(weights, axis=-1).astype(x.dtype), None)
    parts = jnp.split(y, list(itertools.accumulate(weight.shape[-1] for weight in weights))[:-1], axis=-1)
    return [plus_low_rank(part, x, low_rank(layer.kernel)) for part, layer in zip(parts, layers, strict=True)]


class IntegerLinear(nnx.Module):
    """A quantised `Linear` for evaluation: the codes of its matrix, four to a byte, and a scale for each matrix.

    Gives what the `Linear` gives, to rounding, from an eighth of the bytes that bfloat16 takes. Not trainable.
    """

    def __init__(self, linear: Linear):
        """Raises: ValueError for a dense layer, which has no codes, and for one with an adapter, which is float32."""
        if isinstance(linear.kernel, Adapted):
            raise ValueError("a layer of integers takes no adapter: adapters.apply(model, []) takes it off")
        if linear.config.linear not in QUANTIZERS:
            raise ValueError(f"a {linear.config.linear} layer has no codes: one of {tuple(QUANTIZERS)} is needed")
        codes, scale = over_matrices(QUANTIZERS[linear.config.linear], linear.kernel[...])
        self.packed = Buffer(over_matrices(ternary.pack, codes))
        self.scale = Buffer(scale)
        self.d_in = linear.kernel[...].shape[-2]
        self.config = linear.config

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., F]`; with experts, rows `[R, D]` sorted by expert and `group_sizes_E`."""
        if self.config.normalize_input:
            x = rms_norm(x, self.config.norm_epsilon)
        packed, scale = self.packed[...], self.scale[...]
        w_codes = over_matrices(lambda packed: ternary.unpack(packed, (self.d_in, packed.shape[-1])), packed)
        x_codes, x_scale = ternary.quantize_activation(x, self.config.activation_bits)
        if group_sizes_E is None:
            return ternary.integer_matmul(x_codes, x_scale, w_codes, scale).astype(x.dtype)
        # float32 holds sums of codes exactly up to 2^24, which is 2^17 inputs: the order of the sum does not matter.
        total_RF = grouped_matmul(x_codes.astype(jnp.float32), w_codes.astype(jnp.float32), group_sizes_E)
        scale_R = jnp.repeat(scale, group_sizes_E, total_repeat_length=len(x))
        return (total_RF * (x_scale * scale_R[:, None])).astype(x.dtype)

    def weighted_sum(self, x_REF, gates_RE):
        """The sum over experts of gate times output: `[R, E, F]`, `[R, E]` -> `[R, D]`."""
        return sum_of_experts(self, x_REF, gates_RE)
