"""One layer of the stack: a sequence mixer and a feed-forward, each behind a norm and beside a residual."""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.attention import Attention
from mixkabrn_jax.layers.kan import Kan
from mixkabrn_jax.layers.mlp import Mlp, SwiGlu
from mixkabrn_jax.layers.moe import MixtureOfExperts
from mixkabrn_jax.layers.norm import RMSNorm
from mixkabrn_jax.layers.retention import Retention
from mixkabrn_jax.models.config import ModelConfig


class Block(nnx.Module):
    """x + mixer(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig, *, routed: bool, rngs: nnx.Rngs):
        self.mixer_norm = RMSNorm(config.d_model, epsilon=config.norm_epsilon)
        self.mixer = _mixer(config, rngs)
        self.ffn_norm = RMSNorm(config.d_model, epsilon=config.norm_epsilon)
        feed_forward = partial(_feed_forward, config)
        if routed:
            self.ffn = MixtureOfExperts(
                config.d_model,
                router=config.router,
                num_shared_experts=config.num_shared_experts,
                expert_width=config.expert_width,
                dispatch=config.expert_dispatch,
                feed_forward=feed_forward,
                rngs=rngs,
            )
        else:
            self.ffn = feed_forward(config.hidden_width, num_experts=0, rngs=rngs)
        self.routed = routed

    def __call__(self, x_BTD, state, position_BT, segment_ids_BT):
        """
        Returns: (`[B, T, D]`, the mixer's state after these positions, `Balance` or None, the share of KAN inputs
        outside their grids or None).
        """
        y_BTD, state = self.mixer(self.mixer_norm(x_BTD), state, position_BT, segment_ids_BT)
        x_BTD = x_BTD + y_BTD
        h_BTD = self.ffn_norm(x_BTD)
        if not self.routed:
            y_BTD, outside = self.ffn(h_BTD)
            return x_BTD + y_BTD, state, None, outside
        mask_BT = None if segment_ids_BT is None else (segment_ids_BT > 0).astype(jnp.float32)
        y_BTD, balance, outside = self.ffn(h_BTD, mask_BT)
        return x_BTD + y_BTD, state, balance, outside


def _mixer(config, rngs):
    shared = {
        "num_heads": config.num_heads,
        "key_width": config.key_width,
        "value_width": config.value_width,
        "rotary_kind": config.rotary_kind,
        "rotary_base": config.rotary_base,
        "rotary_layout": config.rotary_layout,
        "sub_norm": config.sub_norm,
        "epsilon": config.norm_epsilon,
        "out_scale": _residual_scale(config),
        "kind": config.linear,
        "activation_bits": config.activation_bits,
        "rngs": rngs,
    }
    if config.mixer == "attention":
        return Attention(config.d_model, **shared)
    return Retention(
        config.d_model,
        chunk_size=config.chunk_size,
        first_decay_exponent=config.first_decay_exponent,
        **shared,
    )


def _feed_forward(config, width, *, num_experts, rngs):
    shared = {
        "epsilon": config.norm_epsilon,
        "out_scale": _residual_scale(config),
        "kind": config.linear,
        "activation_bits": config.activation_bits,
        "num_experts": num_experts,
        "rngs": rngs,
    }
    if config.ffn == "kan":
        return Kan(config.d_model, width, kan=config.kan, **shared)
    kind = {"mlp": Mlp, "swiglu": SwiGlu}[config.ffn]
    return kind(config.d_model, width, sub_norm=config.sub_norm, **shared)


def _residual_scale(config):
    """Each of the 2 L branches adds to the residual stream; together they start as large as the embedding."""
    return (2 * config.num_layers) ** -0.5
