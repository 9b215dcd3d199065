"""What both sequence mixers are told of their heads: how many, how wide, and how positions turn queries and keys."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mixkabrn_jax.ops import rotary


@dataclass(frozen=True)
class HeadsConfig:
    """The number of heads and the features of one head."""

    num_heads: int
    key_width: int
    """Features of a query and of a key; even, for they turn in pairs."""
    value_width: int
    """Features of a value."""

    def __post_init__(self):
        for field in ("num_heads", "key_width", "value_width"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: at least 1 is needed")
        if self.key_width % 2:
            raise ValueError(f"key_width={self.key_width}: rotary pairs need an even width")

    def split(self, x_BTF: jax.Array) -> jax.Array:
        """The features of all heads side by side as `[B, T, H, K]`, or `[B, T, H, V]`."""
        return x_BTF.reshape(*x_BTF.shape[:-1], self.num_heads, x_BTF.shape[-1] // self.num_heads)

    def empty_state(self, batch_size: int) -> jax.Array:
        """A retention's state before the first position: float32 `[B, H, K, V]`."""
        return jnp.zeros((batch_size, self.num_heads, self.key_width, self.value_width), jnp.float32)

    def empty_cache(self, batch_size: int, max_length: int, dtype) -> tuple[jax.Array, jax.Array]:
        """An attention's cache of `max_length` positions: keys `[B, S, H, K]`, values `[B, S, H, V]`."""
        shape = (batch_size, max_length, self.num_heads)
        return jnp.zeros((*shape, self.key_width), dtype), jnp.zeros((*shape, self.value_width), dtype)


@dataclass(frozen=True)
class RotaryConfig:
    """How positions turn pairs of features (Su et al., RoFormer, 2021); fields as in `ops.rotary`."""

    kind: str = "linspace"
    """Which frequencies: "linspace", RetNet's, or "rope", RoFormer's."""
    base: float = 10000.0
    """The lowest frequency is about 1 / base, in radians a position."""
    layout: str = "interleaved"
    """Which features are a pair: "interleaved", neighbours; "half", feature i and i + K/2, faster on a CPU."""

    def __post_init__(self):
        for field, known in (("kind", rotary.KINDS), ("layout", rotary.LAYOUTS)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r}: one of {known} is needed")
        if not 0 < self.base < math.inf:
            raise ValueError(f"base={self.base}: more than 0 and finite is needed")

    def rotate(self, x_BTHK: jax.Array, position_BT: jax.Array) -> jax.Array:
        """Queries or keys turned by their positions: `[B, T, H, K]`."""
        frequency = rotary.frequencies(x_BTHK.shape[-1], self.base, self.kind)
        return rotary.rotate(x_BTHK, position_BT, frequency, self.layout)
