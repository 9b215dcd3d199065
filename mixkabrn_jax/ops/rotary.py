"""Rotary position embedding: pairs of features turn by an angle proportional to the position.

Sources: Su et al., RoFormer (2021), eq. 34; Sun et al., RetNet (2023), eq. 3-5 (the decay plays the part of xPos).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("linspace", "rope")
LAYOUTS = ("interleaved", "half")
EXACT_FROM = 4096
"""From this position on angles are computed modulo a turn. Below, the float32 product of frequency and position is off
by at most 3e-4 radians with the usual bases; at a million it would be off by 0.03 and more."""


class Frequencies(NamedTuple):
    """How fast each pair of features turns, in two units."""

    radian_P: jax.Array
    """Radians per position."""
    turn_P: np.ndarray
    """2^-32 turns per position, whole ones; int32, in which a whole turn is an overflow."""
    rest_P: np.ndarray
    """2^-32 turns per position that are left, 0 to 1; float32."""


def frequencies(key_width: int, base: float = 10000.0, kind: str = "linspace") -> Frequencies:
    """The frequency of each pair of features.

    Args:
        key_width: features of one head, even.
        kind: "linspace" as RetNet (the last frequency is exactly 1/base), or "rope" as RoFormer (base^(-2i/K)).
    Returns: `Frequencies` of key_width // 2 pairs.
    Raises: ValueError for an odd width or an unknown kind.
    """
    if key_width % 2:
        raise ValueError(f"key_width={key_width}: rotary pairs need an even width")
    pairs = key_width // 2
    if kind == "linspace":
        exponent_P, exact_P = jnp.linspace(0, 1, pairs), np.linspace(0, 1, pairs)
    elif kind == "rope":
        exponent_P, exact_P = jnp.arange(pairs) / pairs, np.arange(pairs) / pairs
    else:
        raise ValueError(f"kind={kind!r}: one of {KINDS} is needed")
    return Frequencies(base**-exponent_P, *turns(float(base) ** -exact_P))


def turns(radian_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radians per position, float64, as `turn_P` and `rest_P` of `Frequencies`."""
    part_P = np.asarray(radian_P, np.float64) / (2 * math.pi) % 1 * 2.0**32
    whole_P = np.floor(part_P)
    return whole_P.astype(np.uint32).view(np.int32), (part_P - whole_P).astype(np.float32)


def angles(position: jax.Array, frequency: Frequencies) -> jax.Array:
    """Position times frequency in radians, off by less than 1e-6 modulo a turn from position `EXACT_FROM` to 2^31 - 1.

    Args:
        position: `[B, T]` int, 0 or more.
    Returns: `[B, T, P]` in the dtype of the frequencies, float32 or better; bf16 cannot tell position 257 from 258.
    """
    radian_11P, turn_11P, rest_11P = (a.reshape(1, 1, -1) for a in frequency)
    angle_BTP = position.astype(radian_11P.dtype)[..., None] * radian_11P
    if angle_BTP.dtype == jnp.float64:
        return angle_BTP
    position_BT1 = position.astype(jnp.int32)[..., None]
    # Whole turns overflow, which costs nothing and leaves the rest exact: 32 bits of the product before the point of
    # 2^-32 turns, and a float32 behind it, which is at most 2^31 and off by 2^-24 of that.
    rest_BTP = (position_BT1.astype(jnp.float32) * rest_11P).astype(jnp.int32)
    turned_BTP = position_BT1 * turn_11P + rest_BTP
    reduced_BTP = turned_BTP.astype(jnp.float32) * np.float32(2 * math.pi / 2**32)
    return jnp.where(position_BT1 < EXACT_FROM, angle_BTP, reduced_BTP)


def rotate(x: jax.Array, position: jax.Array, frequency: Frequencies, layout: str = "interleaved") -> jax.Array:
    """Turns pairs of features (a, b) to (a cos - b sin, b cos + a sin).

    Args:
        x: `[B, T, H, K]`.
        position: `[B, T]` int, 0 or more.
        frequency: of the K / 2 pairs.
        layout: "interleaved", neighbours are a pair; "half", feature i and i + K/2 are. The same up to an order of
            the features; "half" is twice as fast on a CPU, whose vectors want neighbours to be alike.
    Returns: the shape and dtype of x.
    Raises: ValueError for an unknown layout.
    """
    angle_BTP = angles(position, frequency)
    cos, sin = jnp.cos(angle_BTP)[:, :, None], jnp.sin(angle_BTP)[:, :, None]
    if layout == "half":
        a, b = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
    if layout == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
        return turned.reshape(x.shape).astype(x.dtype)
    raise ValueError(f"layout={layout!r}: one of {LAYOUTS} is needed")
