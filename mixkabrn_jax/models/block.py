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
    """x + mixer(norm(x)), then x + feed-forward(norm(x)).

    Where quantised matrices normalise their own input there is no norm before a branch, except before a KAN: splines
    need theirs on the grid.
    """

    def __init__(self, config: ModelConfig, *, routed: bool, rngs: nnx.Rngs):
        has_ffn_norm = config.ffn == "kan" or not config.norms_inside
        self.mixer_norm = None if config.norms_inside else RMSNorm(config.d_model, epsilon=config.norm_epsilon)
        self.mixer = _mixer(config, rngs)
        self.ffn_norm = RMSNorm(config.d_model, epsilon=config.norm_epsilon) if has_ffn_norm else None
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
                capacity_factor=config.capacity_factor,
                device_groups=config.router_device_groups,
                router_norm_epsilon=None if has_ffn_norm else config.norm_epsilon,
            )
        else:
            self.ffn = feed_forward(config.hidden_width, num_experts=0, rngs=rngs)
        self.routed = routed

    def __call__(self, x_BTD, state, position_BT, segment_ids_BT):
        """Returns: (`[B, T, D]`, the mixer's state after these positions, `Balance` or None)."""
        h_BTD = x_BTD if self.mixer_norm is None else self.mixer_norm(x_BTD)
        y_BTD, state = self.mixer(h_BTD, state, position_BT, segment_ids_BT)
        x_BTD = x_BTD + y_BTD
        h_BTD = x_BTD if self.ffn_norm is None else self.ffn_norm(x_BTD)
        if not self.routed:
            return x_BTD + self.ffn(h_BTD), state, None
        mask_BT = None if segment_ids_BT is None else (segment_ids_BT > 0).astype(jnp.float32)
        y_BTD, balance = self.ffn(h_BTD, mask_BT)
        return x_BTD + y_BTD, state, balance


def _mixer(config, rngs):
    shared = {
        "num_heads": config.num_heads,
        "key_width": config.key_width,
        "value_width": config.value_width,
        "rotary_kind": config.rotary_kind,
        "rotary_base": config.rotary_base,
        "rotary_layout": config.rotary_layout,
        "epsilon": config.norm_epsilon,
        "out_scale": _residual_scale(config),
        "rngs": rngs,
        **_linear(config),
        **_norms(config),
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
        "num_experts": num_experts,
        "rngs": rngs,
        **_linear(config),
    }
    if config.ffn == "kan":
        spline = {"spline_share": config.spline_share, "spline_kind": config.spline_linear}
        return Kan(config.d_model, width, grid=config.grid, **spline, **shared)
    kind = {"mlp": Mlp, "swiglu": SwiGlu}[config.ffn]
    return kind(config.d_model, width, **shared, **_norms(config))


def _linear(config):
    return {
        "kind": config.linear,
        "activation_bits": config.activation_bits,
        "down_activation_bits": config.down_activation_bits,
    }


def _norms(config):
    """Where inputs of matrices are normalised; where the matrix does it itself there is no sub-norm before it."""
    return {
        "sub_norm": config.sub_norm and not config.norms_inside,
        "norm_epsilon": config.norm_epsilon if config.norms_inside else None,
    }


def _residual_scale(config):
    """Each of the 2 L branches adds to the residual stream; together they start as large as the embedding."""
    return (2 * config.num_layers) ** -0.5
