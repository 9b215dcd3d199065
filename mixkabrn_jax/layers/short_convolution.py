"""A causal convolution over a few positions, channel by channel, of the embeddings that a model reads.

Sources: the short convolution of H3 (Fu et al. 2023, sec. 3.1), the token shift of RWKV (Peng et al. 2023, sec. 3.1).
Both have it in every layer. Here it stands once, before the first, so that all it carries between calls are a few
tokens; more of it gains little (docs/recipe.md).
"""

import jax
import jax.numpy as jnp
from flax import nnx


class ShortConvolution(nnx.Module):
    """y_t = x_t + sum_i w_i * x_(t-i) with a weight for each channel; starts as y = x."""

    def __init__(self, d_model: int, size: int):
        """
        Args:
            size: positions that an output depends on, its own among them; C of them are earlier ones.
        """
        self.weight_CD = nnx.Param(jnp.zeros((size - 1, d_model)), letters="_D")

    def __call__(self, x_BSD, position_BT):
        """
        Args:
            x_BSD: `[B, C + T, D]`, of which the first C stand before the T positions.
            position_BT: counted from the start of each document, which nothing before is seen from.
        Returns: `[B, T, D]`.
        """
        weight_CD = self.weight_CD[...].astype(x_BSD.dtype)
        num_earlier, length = len(weight_CD), position_BT.shape[1]
        y_BTD = x_BSD[:, num_earlier:]
        for i, weight_D in enumerate(weight_CD, start=1):
            is_seen_BT1 = (position_BT >= i)[..., None]
            earlier_BTD = x_BSD[:, num_earlier - i : num_earlier - i + length]
            y_BTD = y_BTD + jnp.where(is_seen_BT1, earlier_BTD * weight_D[None, None], 0)
        return y_BTD


def put_before(previous_BC: jax.Array, tokens_BT: jax.Array, mask_BT: jax.Array | None) -> jax.Array:
    """Tokens with those seen before them: `[B, C + T]`. Where padding comes first it gives way to them."""
    tokens_BS = jnp.concatenate([previous_BC, tokens_BT], axis=1)
    num_earlier = previous_BC.shape[1]
    if mask_BT is None or not num_earlier:
        return tokens_BS
    first_B = jnp.argmax(mask_BT > 0, axis=1)
    which_BS = jnp.arange(tokens_BS.shape[1])[None] - first_B[:, None]
    put_BS = jnp.take_along_axis(previous_BC, jnp.clip(which_BS, 0, num_earlier - 1), axis=1)
    return jnp.where((which_BS >= 0) & (which_BS < num_earlier), put_BS, tokens_BS)


def last(tokens_BS: jax.Array, num_earlier: int, mask_BT: jax.Array | None) -> jax.Array:
    """Of what `put_before` gave, the last tokens that are no padding: `[B, C]`."""
    num_positions = tokens_BS.shape[1] - num_earlier
    if mask_BT is None:
        return tokens_BS[:, num_positions:]
    # An empty row has its end before its first position: what was seen before stays.
    end_B = jnp.max(jnp.where(mask_BT > 0, jnp.arange(1, num_positions + 1)[None], 0), axis=1)
    return jnp.take_along_axis(tokens_BS, end_B[:, None] + jnp.arange(num_earlier)[None], axis=1)
