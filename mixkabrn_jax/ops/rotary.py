"""Rotary position embedding: pairs of features turn by an angle proportional to the position.

Sources: Su et al., RoFormer (2021), eq. 34; Sun et al., RetNet (2023), eq. 3-5 (the decay plays the part of xPos).
"""

import jax
import jax.numpy as jnp

KINDS = ("linspace", "rope")
LAYOUTS = ("interleaved", "half")


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
        raise ValueError(f"kind={kind!r}: one of {KINDS} is needed")
    return base**-exponent


def rotate(x: jax.Array, position: jax.Array, frequency: jax.Array, layout: str = "interleaved") -> jax.Array:
    """Turns pairs of features (a, b) to (a cos - b sin, b cos + a sin).

    Args:
        x: `[B, T, H, K]`.
        position: `[B, T]` int; angles are float32, since bf16 cannot tell position 257 from 258.
        frequency: `[K // 2]`.
        layout: "interleaved", neighbours are a pair; "half", feature i and i + K/2 are. The same up to an order of
            the features; "half" is twice as fast on a CPU, whose vectors want neighbours to be alike.
    Returns: the shape and dtype of x.
    Raises: ValueError for an unknown layout.
    """
    angle_BTP = position.astype(frequency.dtype)[..., None] * frequency.reshape(1, 1, -1)
    cos, sin = jnp.cos(angle_BTP)[:, :, None], jnp.sin(angle_BTP)[:, :, None]
    if layout == "half":
        a, b = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
    if layout == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
        return turned.reshape(x.shape).astype(x.dtype)
    raise ValueError(f"layout={layout!r}: one of {LAYOUTS} is needed")
