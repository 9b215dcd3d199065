"""One layer of the stack: a sequence mixer and a feed-forward, each behind a norm and beside a residual."""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers import feed_forward, refinement
from mixkabrn_jax.layers.attention import Attention
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
        has_mixer_norm = config.residual == "deepnorm" or not config.branch.normalize_input
        has_ffn_norm = has_mixer_norm or config.ffn == "kan"
        self.mixer_norm = RMSNorm(config.d_model, config.norm_epsilon) if has_mixer_norm else None
        self.mixer = _mixer(config, rngs)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_epsilon) if has_ffn_norm else None
        width = config.expert_width if routed else config.hidden_width
        make = partial(feed_forward.make, config.ffn, config.d_model, width, config.kan, config.branch)
        if routed:
            router_norm_epsilon = None if has_ffn_norm else config.norm_epsilon
            self.ffn = MixtureOfExperts(config.d_model, config.moe, make, router_norm_epsilon, rngs=rngs)
        else:
            self.ffn = make(rngs=rngs)
        self.routed = routed
        self.alpha = (2 * config.num_layers) ** 0.25 if config.residual == "deepnorm" else None

    def __call__(self, x_BTD, state, position_BT, segment_ids_BT=None, mask_BT=None):
        """
        Returns: (`[B, T, D]`, the mixer's state after these positions, `Balance` or None, `OutsideGrid` or None without
        splines).
        """
        x_BTD, state = self._mix(x_BTD, state, position_BT, segment_ids_BT, mask_BT)
        h_BTD = self._before(self.ffn_norm, x_BTD)
        row_mask_BT = _row_mask(segment_ids_BT, mask_BT)
        if self.routed:
            y_BTD, balance, outside = self.ffn(h_BTD, row_mask_BT)
        else:
            (y_BTD, outside), balance = self.ffn(h_BTD, row_mask=row_mask_BT), None
        return self._add(self.ffn_norm, x_BTD, y_BTD), state, balance, outside

    def inputs(self, x_BTD, state, position_BT):
        """What the mixer and what the feed-forward read, to look at: (`[B, T, D]`, `[B, T, D]`)."""
        mixed_BTD, _ = self._mix(x_BTD, state, position_BT, None, None)
        return self._before(self.mixer_norm, x_BTD), self._before(self.ffn_norm, mixed_BTD)

    def compute_grid_update(self, x_BTD, state, position_BT, segment_ids_BT, mask_BT, uniform_fraction):
        """
        Returns: (`[B, T, D]` of the block whose feed-forward is on updated grids, that update for `refinement`).
        """
        x_BTD, _ = self._mix(x_BTD, state, position_BT, segment_ids_BT, mask_BT)
        h_BTD = self._before(self.ffn_norm, x_BTD)
        row_mask_BT = _row_mask(segment_ids_BT, mask_BT)
        if self.routed:
            update = refinement.compute_mixture_grid_update(self.ffn, h_BTD, uniform_fraction, row_mask_BT)
            y_BTD = refinement.apply_grid_update(self.ffn, update)(h_BTD, row_mask_BT)[0]
        else:
            mask_BT = jnp.ones(h_BTD.shape[:-1]) if row_mask_BT is None else row_mask_BT
            h_RD = h_BTD.reshape(-1, h_BTD.shape[-1])
            update = refinement.compute_kan_grid_update(self.ffn, h_RD, uniform_fraction, mask_BT.reshape(-1))
            y_BTD = refinement.apply_grid_update(self.ffn, update)(h_BTD)[0]
        return self._add(self.ffn_norm, x_BTD, y_BTD), update

    def _mix(self, x_BTD, state, position_BT, segment_ids_BT, mask_BT):
        h_BTD = self._before(self.mixer_norm, x_BTD)
        y_BTD, state = self.mixer(h_BTD, state, position_BT, segment_ids_BT, mask_BT)
        return self._add(self.mixer_norm, x_BTD, y_BTD), state

    def _before(self, norm, x_BTD):
        return x_BTD if norm is None or self.alpha is not None else norm(x_BTD)

    def _add(self, norm, x_BTD, y_BTD):
        return x_BTD + y_BTD if self.alpha is None else norm(self.alpha * x_BTD + y_BTD)


def _row_mask(segment_ids_BT, mask_BT):
    """1 where a position counts in the experts' balance and in shares, 0 at padding; None when there is none."""
    return mask_BT if segment_ids_BT is None else (segment_ids_BT > 0).astype(jnp.float32)


def _mixer(config, rngs):
    if config.mixer == "attention":
        return Attention(config.d_model, config.heads, config.rotary, config.branch, rngs=rngs)
    return Retention(config.d_model, config.heads, config.retention, config.rotary, config.branch, rngs=rngs)
