"""Ternary and binary weights, low-bit activations, and their packed storage.

Sources: Ma et al., The Era of 1-bit LLMs (BitNet b1.58, 2024), eq. 1-3, and its Training Tips, Code and FAQ;
Wang et al., BitNet (2023), eq. 1-5 for binary weights. A weight matrix here is one logical projection `[D, F]`:
experts and fused projections are vmapped, so that each has a scale of its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

_SMALLEST_SCALE = 1e-5  # of a weight matrix and of an activation's maximum, as in the primary source


def quantize_weight(w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Absmean quantisation: scale = mean|w|, codes = round(w / scale) cut to {-1, 0, 1}.

    Args:
        w: any shape; one scale for the whole array.
    Returns: (codes int8 of the same shape, scale `[]`); w ~ codes * scale.
    """
    w = w.astype(jnp.promote_types(w.dtype, jnp.float32))  # as for activations
    scale = jnp.maximum(jnp.mean(jnp.abs(w)), _SMALLEST_SCALE)
    return jnp.clip(jnp.round(w / scale), -1, 1).astype(jnp.int8), scale


def binarize_weight(w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sign quantisation: codes = sign(w - mean w) in {-1, 1}, scale = mean|w|.

    Returns: (codes int8 of the same shape, scale `[]`); w ~ codes * scale.
    """
    w = w.astype(jnp.promote_types(w.dtype, jnp.float32))
    codes = jnp.where(w >= jnp.mean(w), 1, -1).astype(jnp.int8)
    return codes, jnp.maximum(jnp.mean(jnp.abs(w)), _SMALLEST_SCALE)


def quantize_absmax(w: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    """Symmetric absmax quantisation of a weight matrix to 2 to 8 bits.

    Args:
        w: any shape; one scale for the whole array.
    Returns: (codes int8 of the same shape, scale `[]`); w ~ codes * scale.
    Raises: ValueError for a width that int8 cannot hold.
    """
    codes, scale = quantize_activation(w.reshape(-1), bits)
    return codes.reshape(w.shape), scale.reshape(())


def quantize_activation(x: jax.Array, bits: int = 8) -> tuple[jax.Array, jax.Array]:
    """Symmetric absmax quantisation, one scale for each token.

    Args:
        x: `[..., D]`.
        bits: 2 to 8; codes lie in [-2^(bits-1), 2^(bits-1) - 1].
    Returns: (codes int8 `[..., D]`, scale `[..., 1]`); x ~ codes * scale.
    Raises: ValueError for a width that int8 cannot hold.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits={bits}: activations are quantised to 2 to 8 bits")
    largest = 2 ** (bits - 1) - 1
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # bf16 quotients would round one code in ten to its neighbour
    scale = jnp.maximum(jnp.max(jnp.abs(x), axis=-1, keepdims=True), _SMALLEST_SCALE) / largest
    return jnp.clip(jnp.round(x / scale), -largest - 1, largest).astype(jnp.int8), scale


def fake_quant_weight(w: jax.Array) -> jax.Array:
    """The ternary matrix codes * scale in w's dtype, with the gradient of the identity (straight through)."""
    return _straight_through(w, *quantize_weight(w))


def fake_binary_weight(w: jax.Array) -> jax.Array:
    """The binary matrix codes * scale in w's dtype, with the gradient of the identity (straight through)."""
    return _straight_through(w, *binarize_weight(w))


def fake_absmax_weight(w: jax.Array, bits: int) -> jax.Array:
    """`quantize_absmax`'s codes * scale in w's dtype, with the gradient of the identity (straight through)."""
    return _straight_through(w, *quantize_absmax(w, bits))


def fake_quant_activation(x: jax.Array, bits: int = 8) -> jax.Array:
    """The quantised activation codes * scale in x's dtype, with the gradient of the identity (straight through)."""
    return _straight_through(x, *quantize_activation(x, bits))


def integer_matmul(x_codes: jax.Array, x_scale: jax.Array, w_codes: jax.Array, w_scale: jax.Array) -> jax.Array:
    """The product of quantised activations and weights: int8 times int8 summed exactly in int32, scaled once.

    Equal to the product of the fake-quantised factors up to the rounding of the latter. XLA has no fast int8 product
    for a single row on a CPU; this is the definition that a kernel has to meet.

    Args:
        x_codes: int8 `[..., D]`; x_scale: `[..., 1]`, as `quantize_activation` gives them.
        w_codes: int8 `[D, F]`; w_scale: `[]`, as `quantize_weight` gives them.
    Returns: `[..., F]` in the scales' dtype.
    """
    total = jnp.einsum("...d,df->...f", x_codes, w_codes, preferred_element_type=jnp.int32)
    return total.astype(x_scale.dtype) * (x_scale * w_scale)


def statistics(w: jax.Array, quantize: Callable = quantize_weight) -> tuple[jax.Array, jax.Array]:
    """Of one matrix's codes: (share of zeros `[]`, scale `[]`)."""
    codes, scale = quantize(w)
    return jnp.mean((codes == 0).astype(jnp.float32)), scale


def flip_rate(old_w: jax.Array, new_w: jax.Array, quantize: Callable = quantize_weight) -> jax.Array:
    """Share of one matrix's codes that differ after an update, `[]`; 0 where only sizes changed."""
    return jnp.mean((quantize(old_w)[0] != quantize(new_w)[0]).astype(jnp.float32))


def pack(codes: jax.Array) -> jax.Array:
    """Packs ternary codes four to a byte along the first axis; any size.

    byte[r] = sum_i (code[r + i R/4] + 1) << 2i, with the R rows padded by code -1 (stored as 0) to a multiple of 4:
    the interchange layout of the published b1.58 checkpoints.

    Args:
        codes: int8 `[R, ...]` in {-1, 0, 1}.
    Returns: uint8 `[ceil(R / 4), ...]`.
    """
    rows = -(-codes.shape[0] // 4)
    digits = (codes + 1).astype(jnp.uint8)
    digits = jnp.pad(digits, [(0, 4 * rows - codes.shape[0])] + [(0, 0)] * (codes.ndim - 1))
    digits = digits.reshape((4, rows, *codes.shape[1:]))
    return digits[0] | digits[1] << 2 | digits[2] << 4 | digits[3] << 6


def unpack(packed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Inverse of `pack`: int8 codes of the given shape.

    Raises: ValueError when the packed array cannot hold that shape.
    """
    if packed.shape != (-(-shape[0] // 4), *shape[1:]):
        raise ValueError(f"packed codes of shape {packed.shape} do not hold an array of shape {shape}")
    digits = jnp.concatenate([packed >> (2 * i) & 3 for i in range(4)])
    return digits[: shape[0]].astype(jnp.int8) - 1


def _straight_through(x, codes, scale):
    quantized = (codes * scale).astype(x.dtype)
    return _identity_gradient(x, jax.lax.stop_gradient(quantized))


@jax.custom_jvp
def _identity_gradient(_, value):
    """`value` forward, identity of the first argument backward: x + stop_gradient(value - x) without its rounding."""
    return value


@_identity_gradient.defjvp
def _identity_gradient_jvp(primals, tangents):
    return primals[1], tangents[0]
