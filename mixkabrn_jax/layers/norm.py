"""Root-mean-square normalisation (Zhang and Sennrich 2019)."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.recompute import recomputed


@partial(recomputed, static_argnums=1)
def rms_norm(x: jax.Array, epsilon: float) -> jax.Array:
    """x / sqrt(mean(x^2) + epsilon) over the last axis, computed in float32, returned in x's dtype."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + epsilon)).astype(x.dtype)


class RMSNorm(nnx.Module):
    """`rms_norm` with a learned scale for each feature."""

    def __init__(self, width: int, epsilon: float = 1e-6):
        self.scale_D = nnx.Param(jnp.ones(width))
        self.epsilon = epsilon

    def __call__(self, x):
        """`[..., D]` -> `[..., D]`."""
        return _scaled_rms_norm(x, self.scale_D[...], self.epsilon)


@partial(recomputed, static_argnums=2)
def _scaled_rms_norm(x, scale_D, epsilon):
    return rms_norm(x, epsilon) * scale_D.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
