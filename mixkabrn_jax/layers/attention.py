"""Multi-head softmax attention with rotary positions: what retention is compared with."""

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.layers.linear import Linear
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.ops import attention, rotary


class Attention(nnx.Module):
    """Owns the projections; the softmax itself is `ops.attention`."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int,
        key_width: int,
        value_width: int,
        rotary_kind: str,
        rotary_base: float,
        rotary_layout: str,
        sub_norm: bool,
        epsilon: float,
        value_scale: float,
        out_scale: float,
        rngs: nnx.Rngs,
        down_activation_bits: int | None = None,
        **linear,
    ):
        """Arguments as for `Retention`."""
        self.query = Linear(d_model, num_heads * key_width, letters="DH", rngs=rngs, **linear)
        self.key = Linear(d_model, num_heads * key_width, letters="DH", rngs=rngs, **linear)
        self.value = Linear(d_model, num_heads * value_width, letters="DH", rngs=rngs, init_scale=value_scale, **linear)
        linear["activation_bits"] = down_activation_bits or linear["activation_bits"]
        self.out = Linear(num_heads * value_width, d_model, letters="HD", rngs=rngs, init_scale=out_scale, **linear)
        self.num_heads, self.key_width, self.value_width = num_heads, key_width, value_width
        self.rotary_kind, self.rotary_base, self.rotary_layout = rotary_kind, rotary_base, rotary_layout
        self.sub_norm, self.epsilon = sub_norm, epsilon

    def __call__(self, x_BTD, cache, position_BT, segment_ids_BT=None, mask_BT=None):
        """
        Args:
            x_BTD: `[B, T, D]`.
            cache: (keys, values) as `attention.cached` takes them, or None to see these T positions only.
            position_BT: int, counted from the start of each document.
            segment_ids_BT: int, 0 only on padding, or None; documents do not see each other. Not together with a cache.
            mask_BT: None, or 0 at padding, which nothing sees and which is not kept.
        Returns: (`[B, T, D]`, the cache after these positions, or None).
        Raises: ValueError for a cache together with segment ids.
        """
        if cache is not None and segment_ids_BT is not None:
            raise ValueError("segment ids together with a cache: packed documents are seen without one")
        heads = (*x_BTD.shape[:2], self.num_heads, -1)
        frequency = rotary.frequencies(self.key_width, self.rotary_base, self.rotary_kind)
        q_BTHK = rotary.rotate(self.query(x_BTD).reshape(heads), position_BT, frequency, self.rotary_layout)
        k_BTHK = rotary.rotate(self.key(x_BTD).reshape(heads), position_BT, frequency, self.rotary_layout)
        v_BTHV = self.value(x_BTD).reshape(heads)
        if cache is None:
            if mask_BT is not None:
                segment_ids_BT = (mask_BT > 0).astype(jnp.int32)  # tokens see tokens, padding sees padding
            # Where devices hold one part of the sequence each, queries stay and keys and values come.
            k_BSHK, v_BSHV, segment_ids_BS = jax.tree.map(
                lambda a: sharding.all_gather(a, "context", dimension=1), (k_BTHK, v_BTHV, segment_ids_BT)
            )
            first = q_BTHK.shape[1] * sharding.index("context")
            y_BTHV = attention.causal(q_BTHK, k_BSHK, v_BSHV, segment_ids_BS, first)
        else:
            y_BTHV, cache = attention.cached(q_BTHK, k_BTHK, v_BTHV, cache, position_BT, mask_BT)
        y_BTF = y_BTHV.reshape(*x_BTD.shape[:2], -1)
        if self.sub_norm:
            y_BTF = rms_norm(y_BTF, self.epsilon)
        return self.out(y_BTF), cache
