"""One layer of the stack: a sequence mixer and a feed-forward, each behind a norm and beside a residual."""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers import refinement
from mixkabrn_jax.layers.attention import Attention
from mixkabrn_jax.layers.kan import Kan
from mixkabrn_jax.layers.mlp import Glu, Mlp
from mixkabrn_jax.layers.moe import MixtureOfExperts
from mixkabrn_jax.layers.norm import RMSNorm
from mixkabrn_jax.layers.retention import Retention
from mixkabrn_jax.models.config import ModelConfig


class Block(nnx.Module):
    """A mixer and a feed-forward f, each as x + f(norm(x)), or as norm(alpha x + f(x)) with alpha = (2 L)^(1/4).

    The second is DeepNorm (Wang et al. 2022, table 1, decoder-only): normalised after each sum, never before. Where
    quantised matrices normalise their own input the first has no norm before a branch, except before a KAN: splines
    need theirs on the grid.
    """

    def __init__(self, config: ModelConfig, *, routed: bool, rngs: nnx.Rngs):
        has_mixer_norm = config.residual == "deepnorm" or not config.norms_inside
        has_ffn_norm = has_mixer_norm or config.ffn == "kan"
        self.mixer_norm = RMSNorm(config.d_model, epsilon=config.norm_epsilon) if has_mixer_norm else None
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
        self.alpha = (2 * config.num_layers) ** 0.25 if config.residual == "deepnorm" else None

    def __call__(self, x_BTD, state, position_BT, segment_ids_BT=None, mask_BT=None):
        """
        Returns: (`[B, T, D]`, the mixer's state after these positions, `Balance` or None, `Outside` or None without
        splines).
        """
        x_BTD, state = self._mix(x_BTD, state, position_BT, segment_ids_BT, mask_BT)
        h_BTD = self._before(self.ffn_norm, x_BTD)
        counts_BT = _counts(segment_ids_BT, mask_BT)
        if self.routed:
            y_BTD, balance, outside = self.ffn(h_BTD, counts_BT)
        else:
            (y_BTD, outside), balance = self.ffn(h_BTD, weights=counts_BT), None
        return self._add(self.ffn_norm, x_BTD, y_BTD), state, balance, outside

    def grid_change(self, x_BTD, state, position_BT, segment_ids_BT, mask_BT, uniform_fraction):
        """
        Returns: (`[B, T, D]` of the block whose feed-forward has changed its grids, that change for `refinement`).
        """
        x_BTD, _ = self._mix(x_BTD, state, position_BT, segment_ids_BT, mask_BT)
        h_BTD = self._before(self.ffn_norm, x_BTD)
        counts_BT = _counts(segment_ids_BT, mask_BT)
        if self.routed:
            change = refinement.mixture_change(self.ffn, h_BTD, uniform_fraction, counts_BT)
            y_BTD = refinement.change_grid(self.ffn, change)(h_BTD, counts_BT)[0]
        else:
            weights = jnp.ones(h_BTD.shape[:-1]) if counts_BT is None else counts_BT
            h_ND = h_BTD.reshape(-1, h_BTD.shape[-1])
            change = refinement.kan_change(self.ffn, h_ND, uniform_fraction, weights.reshape(-1))
            y_BTD = refinement.change_grid(self.ffn, change)(h_BTD)[0]
        return self._add(self.ffn_norm, x_BTD, y_BTD), change

    def _mix(self, x_BTD, state, position_BT, segment_ids_BT, mask_BT):
        h_BTD = self._before(self.mixer_norm, x_BTD)
        y_BTD, state = self.mixer(h_BTD, state, position_BT, segment_ids_BT, mask_BT)
        return self._add(self.mixer_norm, x_BTD, y_BTD), state

    def _before(self, norm, x_BTD):
        return x_BTD if norm is None or self.alpha is not None else norm(x_BTD)

    def _add(self, norm, x_BTD, y_BTD):
        return x_BTD + y_BTD if self.alpha is None else norm(self.alpha * x_BTD + y_BTD)


def _counts(segment_ids_BT, mask_BT):
    """1 where a position counts in the experts' balance and in shares, 0 at padding; None when there is none."""
    return mask_BT if segment_ids_BT is None else (segment_ids_BT > 0).astype(jnp.float32)


def _mixer(config, rngs):
    shared = {
        "num_heads": config.num_heads,
        "key_width": config.key_width,
        "value_width": config.value_width,
        "rotary_kind": config.rotary_kind,
        "rotary_base": config.rotary_base,
        "rotary_layout": config.rotary_layout,
        "epsilon": config.norm_epsilon,
        "value_scale": _branch_scale(config),
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
        decay=config.decay,
        first_decay_exponent=config.first_decay_exponent,
        normalization=config.retention_norm,
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
        return Kan(config.d_model, width, kan=config.kan, **shared)
    shared |= {"in_scale": _branch_scale(config), **_norms(config)}
    if config.ffn == "mlp":
        return Mlp(config.d_model, width, **shared)
    return Glu(config.d_model, width, gate=config.ffn, **shared)


def _linear(config):
    return {
        "kind": config.linear,
        "activation_bits": config.activation_bits,
        "down_activation_bits": config.down_activation_bits,
        "kernels": config.kernels,
    }


def _norms(config):
    """Where inputs of matrices are normalised; where the matrix does it itself there is no sub-norm before it."""
    return {
        "sub_norm": config.sub_norm and not config.norms_inside,
        "norm_epsilon": config.norm_epsilon if config.norms_inside else None,
    }


def _branch_scale(config):
    """Of the matrices inside a branch: DeepNorm's beta = (8 L)^(-1/4), which bounds what one update changes."""
    return (8 * config.num_layers) ** -0.25 if config.residual == "deepnorm" else 1.0


def _residual_scale(config):
    """Each of the 2 L branches adds to the residual stream; together they start as large as the embedding."""
    return _branch_scale(config) if config.residual == "deepnorm" else (2 * config.num_layers) ** -0.5
