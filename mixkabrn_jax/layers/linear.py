"""Linear layers without bias: dense, ternary (BitNet b1.58) or binary (BitNet), for one matrix or one per expert."""

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.layers.recompute import recomputed
from mixkabrn_jax.layers.variables import Buffer
from mixkabrn_jax.ops import ternary
from mixkabrn_jax.ops.grouped_matmul import grouped_matmul

KINDS = ("dense", "ternary", "binary")
NORM_PLACES = ("sub", "inside")
QUANTIZERS = {"ternary": ternary.quantize_weight, "binary": ternary.binarize_weight}
"""What gives a matrix of each quantised kind its codes and scale."""


def multiply(x: jax.Array, weight: jax.Array, group_sizes: jax.Array | None, kernels: bool = False) -> jax.Array:
    """x `[..., D]` @ weight `[D, F]`, or rows x `[R, D]` sorted by expert with weight `[E, D, F]`."""
    if group_sizes is None:
        # Rows as one dimension: the gradient of the weight sums over two otherwise, and on a CPU XLA first writes its
        # input transposed, which takes as long as the product.
        return _flat_product(x, weight)
    return grouped_matmul(x, weight, group_sizes, backend="pallas" if kernels else "auto")


@recomputed
def _flat_product(x, weight):
    return (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], -1)


def effective_weight(weight: jax.Array, kind: str) -> jax.Array:
    """The matrix a layer of this kind multiplies by; leading dimensions are experts, each with its own scale."""
    if kind == "dense":
        return weight
    quantize = {"ternary": ternary.fake_quant_weight, "binary": ternary.fake_binary_weight}[kind]
    return over_matrices(quantize, weight)


def over_matrices(function, *weights: jax.Array):
    """`function` of each `[D, F]` matrix alone; leading dimensions are layers, experts or basis functions."""
    for _ in range(weights[0].ndim - 2):
        function = jax.vmap(function)
    return function(*weights)


def effective_spline(spline: jax.Array, num_basis: int, kind: str) -> jax.Array:
    """Spline coefficients `[..., G D, F]` as a KAN layer multiplies by them; every basis function has its own scale.

    Functions at the grid's edge see fewer inputs than those in its middle: under one scale, coefficients that have
    moved little would all round to 0.
    """
    return effective_weight(by_basis(spline, num_basis), kind).reshape(spline.shape)


def by_basis(spline: jax.Array, num_basis: int) -> jax.Array:
    """`[..., G D, F]` to `[..., G, D, F]`."""
    return spline.reshape(*spline.shape[:-2], num_basis, -1, spline.shape[-1])


def effective_activation(x: jax.Array, kind: str, bits: int) -> jax.Array:
    """The activation a layer of this kind multiplies: quantised per token unless dense."""
    return x if kind == "dense" else ternary.fake_quant_activation(x, bits)


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
        *,
        kind: str,
        activation_bits: int,
        rngs: nnx.Rngs,
        letters: str = "DF",
        num_experts: int = 0,
        init_scale: float = 1.0,
        norm_epsilon: float | None = None,
        kernels: bool = False,
    ):
        """
        Args:
            kind: one of `KINDS`.
            activation_bits: of the quantised input; unused when dense.
            letters: of the input's and the output's features, which say how the matrix is split over devices.
            num_experts: 0 for one matrix, else one matrix for each expert.
            init_scale: factor on the initial standard deviation 1 / sqrt(d_in).
            norm_epsilon: RMS-normalise the input before its quantiser, without a learned scale (BitNet, sec. 2.1);
                None where inputs arrive normalised.
            kernels: experts' products by `ops.kernels`.
        Raises: ValueError for an unknown kind.
        """
        if kind not in KINDS:
            raise ValueError(f"config.model.linear={kind!r}: one of {KINDS} is needed")
        experts = (num_experts,) if num_experts else ()
        self.kernel = normal_init(rngs, (*experts, d_in, d_out), init_scale, letters)
        self.kind = kind
        self.activation_bits = activation_bits
        self.norm_epsilon, self.kernels = norm_epsilon, kernels

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., F]`; with experts, rows `[R, D]` sorted by expert and `group_sizes_E`."""
        if self.norm_epsilon is not None:
            x = rms_norm(x, self.norm_epsilon)
        weight = effective_weight(self.kernel[...], self.kind).astype(x.dtype)
        x = effective_activation(x, self.kind, self.activation_bits)
        return multiply(x, weight, group_sizes_E, self.kernels)


class IntegerLinear(nnx.Module):
    """A quantised `Linear` for evaluation: the codes of its matrix, four to a byte, and a scale for each matrix.

    Gives what the `Linear` gives, to rounding, from an eighth of the bytes that bfloat16 takes. Not trainable.
    """

    def __init__(self, linear: Linear):
        """Raises: ValueError for a dense layer, which has no codes."""
        if linear.kind not in QUANTIZERS:
            raise ValueError(f"a {linear.kind} layer has no codes: one of {tuple(QUANTIZERS)} is needed")
        codes, scale = over_matrices(QUANTIZERS[linear.kind], linear.kernel[...])
        self.packed = Buffer(over_matrices(ternary.pack, codes))
        self.scale = Buffer(scale)
        self.d_in = linear.kernel[...].shape[-2]
        self.activation_bits, self.norm_epsilon = linear.activation_bits, linear.norm_epsilon

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., F]`; with experts, rows `[R, D]` sorted by expert and `group_sizes_E`."""
        if self.norm_epsilon is not None:
            x = rms_norm(x, self.norm_epsilon)
        packed, scale = self.packed[...], self.scale[...]
        w_codes = over_matrices(lambda packed: ternary.unpack(packed, (self.d_in, packed.shape[-1])), packed)
        x_codes, x_scale = ternary.quantize_activation(x, self.activation_bits)
        if group_sizes_E is None:
            return ternary.integer_matmul(x_codes, x_scale, w_codes, scale).astype(x.dtype)
        # float32 holds sums of codes exactly up to 2^24, which is 2^17 inputs: the order of the sum does not matter.
        total_RF = grouped_matmul(x_codes.astype(jnp.float32), w_codes.astype(jnp.float32), group_sizes_E)
        scale_R = jnp.repeat(scale, group_sizes_E, total_repeat_length=len(x))
        return (total_RF * (x_scale * scale_R[:, None])).astype(x.dtype)
