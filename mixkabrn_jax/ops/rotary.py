"""Rotary position embedding: pairs of features turn by an angle proportional to the position.

Sources: Su et al., RoFormer (2021), eq. 34; Sun et al., RetNet (2023), eq. 3-5 (the decay plays the part of xPos).
"""

import jax
import jax.numpy as jnp


def frequencies(key_width: int, base: float = 10000.0, kind: str = "linspace") -> jax.Array:
    """Radians per position for each pair of features.

    Args:
        key_width: features of one head, even.
        kind: "linspace" as RetNet (the last frequency is exactly 1/base), or "rope" as RoFormer (base^(-2i/K)).
    Returns: `[key_width // 2]` float32.
    Raises: ValueError for an odd width or an unknown kind.
    """
    if key_width % 2:
        raise ValueError(f"key_width={key_width}: rotary pairs need an even width")
    pairs = key_width // 2
    if kind == "linspace":
        exponent = jnp.linspace(0, 1, pairs)
    elif kind == "rope":
        exponent = jnp.arange(pairs) / pairs
    else:
        raise ValueError(f"kind={kind!r}: one of 'linspace', 'rope' is needed")
    return base**-exponent


def rotate(x: jax.Array, position: jax.Array, frequency: jax.Array) -> jax.Array:
    """Turns the interleaved pairs (x0, x1) to (x0 cos - x1 sin, x1 cos + x0 sin).

    Args:
        x: `[B, T, H, K]`.
        position: `[B, T]` int; angles are float32, since bf16 cannot tell position 257 from 258.
        frequency: `[K // 2]`.
    Returns: the shape and dtype of x.
    """
    angle_BTP = position.astype(frequency.dtype)[..., None] * frequency.reshape(1, 1, -1)
    cos, sin = jnp.cos(angle_BTP)[:, :, None], jnp.sin(angle_BTP)[:, :, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
