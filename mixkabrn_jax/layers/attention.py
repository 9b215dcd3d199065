"""Multi-head softmax attention with rotary positions: what retention is compared with."""

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.heads import HeadsConfig, RotaryConfig
from mixkabrn_jax.layers.linear import Linear, project
from mixkabrn_jax.ops import attention


class Attention(nnx.Module):
    """The linear layers of an attention; the softmax itself is `ops.attention`."""

    def __init__(
        self,
        d_model: int,
        heads: HeadsConfig,
        rotary: RotaryConfig = RotaryConfig(),
        branch: BranchConfig = BranchConfig(),
        *,
        rngs: nnx.Rngs,
    ):
        keys, values = heads.num_heads * heads.key_width, heads.num_heads * heads.value_width
        self.query = Linear(d_model, keys, branch.input, "DH", rngs=rngs)
        self.key = Linear(d_model, keys, branch.input, "DH", rngs=rngs)
        self.value = Linear(d_model, values, branch.value, "DH", rngs=rngs)
        self.out = Linear(values, d_model, branch.out, "HD", rngs=rngs)
        self.query.kernel.set_metadata(columns=heads.key_width)
        self.key.kernel.set_metadata(columns=heads.key_width)
        self.value.kernel.set_metadata(columns=heads.value_width)
        self.out.kernel.set_metadata(rows=heads.value_width)
        self.heads, self.rotary = heads, rotary

    def __call__(self, x_BTD, cache=None, position_BT=None, segment_ids_BT=None, mask_BT=None):
        """
        Args:
            x_BTD: `[B, T, D]`.
            cache: (keys, values) as `attention.cached` takes them, or None to see these T positions only.
            position_BT: int, counted from the start of each document; None for 0, 1, 2, ...
            segment_ids_BT: int, 0 only on padding, or None; documents do not see each other. Not together with a cache.
            mask_BT: None, or 0 at padding, which nothing sees and which is not kept.
        Returns: (`[B, T, D]`, the cache after these positions, or None).
        Raises: ValueError for a cache together with segment ids.
        """
        if cache is not None and segment_ids_BT is not None:
            raise ValueError("segment ids together with a cache: packed documents are seen without one")
        if position_BT is None:
            position_BT = jnp.arange(x_BTD.shape[1], dtype=jnp.int32)[None]
        q_BTF, k_BTF, v_BTF = project(x_BTD, (self.query, self.key, self.value))
        q_BTHK = self.rotary.rotate(self.heads.split(q_BTF), position_BT)
        k_BTHK = self.rotary.rotate(self.heads.split(k_BTF), position_BT)
        v_BTHV = self.heads.split(v_BTF)
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
        return self.out(y_BTHV.reshape(*x_BTD.shape[:2], self.heads.num_heads * self.heads.value_width)), cache
