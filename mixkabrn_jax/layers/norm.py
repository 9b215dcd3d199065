"""Root-mean-square normalisation (Zhang and Sennrich 2019)."""

import jax
import jax.numpy as jnp
from flax import nnx


def rms_norm(x: jax.Array, epsilon: float) -> jax.Array:
    """x / sqrt(mean(x^2) + epsilon) over the last axis, computed in float32, returned in x's dtype."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + epsilon)).astype(x.dtype)


class RMSNorm(nnx.Module):
    """`rms_norm` with a learned scale for each feature."""

    def __init__(self, width: int, *, epsilon: float):
        self.scale_D = nnx.Param(jnp.ones(width))
        self.epsilon = epsilon

    def __call__(self, x):
        """`[..., D]` -> `[..., D]`."""
        scale_D = self.scale_D[...].astype(x.dtype)
        return rms_norm(x, self.epsilon) * scale_D.reshape((1,) * (x.ndim - 1) + (-1,))
