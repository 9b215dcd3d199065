"""Fine-grained mixture of experts with shared experts (Dai et al., DeepSeekMoE, 2024, eq. 3-5)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.layers.linear import normal_init
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.layers.variables import Buffer, stacked
from mixkabrn_jax.ops import dispatch, routing

DISPATCHES = ("sorted", "dense")


@dataclass(frozen=True)
class RouterConfig:
    """How tokens choose experts; the fields are those of `routing.top_k_gates`."""

    num_experts: int
    experts_per_token: int
    score: str
    num_groups: int
    groups_per_token: int
    normalize: bool
    scale: float

    def __post_init__(self):
        routing.check_routing(self.num_experts, self.experts_per_token, self.num_groups, self.groups_per_token)


class Balance(NamedTuple):
    """What routing did, for losses and logs. Padding is left out; the losses come before any coefficient."""

    load_E: jax.Array
    """Choices that fell on each expert, dropped ones too."""
    loss: jax.Array
    """Expert-level balance loss over all tokens, 1 when balanced."""
    sequence_loss: jax.Array
    """The same within each row of the batch, as a mean over rows."""
    device_loss: jax.Array
    """Device-level balance loss over all tokens, 1 when balanced."""
    z_loss: jax.Array
    """Mean square of the logits' logsumexp."""
    dropped: jax.Array
    """Share of choices that found no room; exactly 0 when dropless."""


class MixtureOfExperts(nnx.Module):
    """y = sum of the chosen experts times their gates + the shared experts.

    Dropless unless it has a capacity. Gates of dropped choices are lost: what remains is not scaled up.
    """

    def __init__(
        self,
        d_model: int,
        *,
        router: RouterConfig,
        num_shared_experts: int,
        expert_width: int,
        dispatch: str,
        feed_forward: Callable[..., nnx.Module],
        rngs: nnx.Rngs,
        capacity_factor: float = 0.0,
        device_groups: int = 1,
        router_norm_epsilon: float | None = None,
    ):
        """
        Args:
            num_shared_experts: always on. Each is a feed-forward of its own, with its own scales where it is quantised.
            expert_width: hidden units of one expert.
            dispatch: "sorted" brings each token to its experts, so that work grows with experts_per_token; "dense" runs
                every expert on every token and drops what was not chosen: for a few narrow experts it is faster,
                since all of them are one wide product and KAN features are computed once. The results are the same.
            feed_forward: makes the experts, called as feed_forward(width, num_experts=..., rngs=...).
            capacity_factor: 0 computes every choice. Above 0 every expert has room for this many times its even part
                of the choices, and choices beyond it are dropped (`dispatch.assign_with_capacity` says which): shapes
                and work do not depend on the load then, but outputs depend on the other rows of the batch. Devices
                with tokens of their own count them by themselves (groups of GShard, Lepikhin et al. 2021).
            device_groups: devices that the experts are shared out to, as far as the device balance loss goes.
            router_norm_epsilon: RMS-normalise what the router reads; None where inputs arrive normalised.
        """
        self.router = normal_init(rngs, (d_model, router.num_experts), 1.0, "D_")
        self.bias_E = Buffer(jnp.zeros(router.num_experts))
        self.experts = stacked(feed_forward(expert_width, num_experts=router.num_experts, rngs=rngs), "E")
        self.num_shared_experts = num_shared_experts
        several = num_shared_experts if num_shared_experts > 1 else 0
        self.shared = feed_forward(expert_width, num_experts=several, rngs=rngs) if num_shared_experts else None
        self.config, self.dispatch = router, dispatch
        self.capacity_factor, self.device_groups = capacity_factor, device_groups
        self.router_norm_epsilon = router_norm_epsilon

    def __call__(self, x_BTD, mask_BT=None):
        """
        Args:
            x_BTD: `[B, T, D]`.
            mask_BT: 0 leaves a position (padding) out of the balance, of the counts, and of what takes up capacity.
        Returns: (`[B, T, D]`, `Balance`, `Outside` of the inputs that experts were chosen for, routed and shared ones
        together, or None without splines).
        """
        logits_BTE, weights_BTN, indices_BTN = self._route(x_BTD)
        x_TD, weights_TN, indices_TN, mask_T = jax.tree.map(
            lambda a: a.reshape(-1, *a.shape[2:]), (x_BTD, weights_BTN, indices_BTN, mask_BT)
        )
        room = self._room(indices_TN, mask_T)
        if room is not None and self.dispatch == "sorted":
            y_TD, outside = self._run_with_room(x_TD, weights_TN, room)
        else:
            y_TD, outside = self._run_on_all_devices(x_TD, weights_TN, self._kept(indices_TN, room), mask_T)
        y_BTD = y_TD.reshape(x_BTD.shape)
        if self.shared is not None:
            shared_BTD, shared_outside = self._run_shared(x_BTD, mask_BT)
            y_BTD = y_BTD + shared_BTD
            outside = jax.tree.map(jnp.add, outside, shared_outside)
        return y_BTD, self._balance(logits_BTE, indices_BTN, mask_BT, room), outside

    def chosen(self, x_BTD, mask_BT=None):
        """Whether a token is among an expert's: it chose it, found room, and is no padding. `[E, B * T]` bool."""
        indices_TN = self._route(x_BTD)[2].reshape(-1, self.config.experts_per_token)
        mask_T = None if mask_BT is None else mask_BT.reshape(-1)
        return self._chosen(self._here(self._kept(indices_TN, self._room(indices_TN, mask_T))), mask_T)

    def _route(self, x_BTD):
        """(logits `[B, T, E]`, gates `[B, T, N]`, experts `[B, T, N]`)."""
        config = self.config
        # The router is float32 whatever the compute dtype: near-ties decide which expert learns.
        router_in_BTD = x_BTD.astype(jnp.float32)
        if self.router_norm_epsilon is not None:
            router_in_BTD = rms_norm(router_in_BTD, self.router_norm_epsilon)
        logits_BTE = jnp.einsum("btd,de->bte", router_in_BTD, self.router[...], precision="highest")
        weights_BTN, indices_BTN = routing.top_k_gates(
            logits_BTE,
            config.experts_per_token,
            score=config.score,
            bias=self.bias_E[...],
            num_groups=config.num_groups,
            groups_per_token=config.groups_per_token,
            normalize=config.normalize,
            scale=config.scale,
        )
        return logits_BTE, weights_BTN, indices_BTN

    @property
    def _num_here(self):
        """Experts of this device."""
        return self.config.num_experts // sharding.size("expert")

    def _here(self, indices):
        """Experts as this device counts its own; `_num_here` stands for one elsewhere."""
        indices = indices - self._num_here * sharding.index("expert")
        return jnp.where((indices >= 0) & (indices < self._num_here), indices, self._num_here)

    def _run_shared(self, x_BTD, mask_BT):
        if self.num_shared_experts == 1:
            return self.shared(x_BTD, weights=mask_BT)
        y_EBTD, outside_E = jax.vmap(lambda expert: expert(x_BTD, weights=mask_BT))(self.shared)
        return jnp.sum(y_EBTD, axis=0), jax.tree.map(jnp.sum, outside_E)

    def _room(self, indices_TN, mask_T):
        """Which row of its expert each choice of this device's tokens is computed in; None where all have room."""
        if not self.capacity_factor:
            return None
        num_experts = self.config.num_experts
        rows = dispatch.capacity(len(indices_TN), num_experts, indices_TN.shape[-1], self.capacity_factor)
        return dispatch.assign_with_capacity(indices_TN, num_experts, rows, mask_T)

    def _kept(self, indices_TN, room):
        """The choices; one past the last expert stands for those that found no room."""
        if room is None:
            return indices_TN
        return jnp.where(dispatch.has_row(room).reshape(indices_TN.shape), indices_TN, self.config.num_experts)

    def _balance(self, logits_BTE, indices_BTN, mask_BT, room):
        score_BTE = routing.scores(logits_BTE, self.config.score)
        load_E = routing.load(indices_BTN, self.config.num_experts, mask_BT)
        best_BTN = jax.lax.top_k(jax.lax.stop_gradient(score_BTE), self.config.experts_per_token)[1]
        dropped = jnp.zeros(())
        if room is not None:
            num_kept = jnp.sum(dispatch.has_row(room).astype(jnp.float32))
            dropped = 1 - num_kept / jnp.maximum(jnp.sum(load_E), 1)
            dropped = jnp.where(jnp.sum(load_E) > 0, dropped, 0)
        return Balance(
            load_E=load_E,
            loss=routing.balance_loss(score_BTE, indices_BTN, mask_BT, sharding.psum),
            sequence_loss=routing.sequence_balance_loss(
                score_BTE, best_BTN, mask_BT, partial(sharding.psum, axes=("context",))
            ),
            device_loss=routing.device_balance_loss(score_BTE, indices_BTN, self.device_groups, mask_BT, sharding.psum),
            z_loss=routing.z_loss(logits_BTE, mask_BT),
            dropped=dropped,
        )

    def _run_with_room(self, x_TD, weights_TN, room):
        """As many rows for each expert: one batched product. Each device sends every other the rows of its experts."""
        rows_RD = dispatch.dispatch(x_TD, room, weights_TN.shape[-1])
        is_filled_ER, rows_ERD = (
            sharding.all_to_all(rows.reshape(self.config.num_experts, -1, *rows.shape[1:]), "expert")
            for rows in (dispatch.has_choice(room), rows_RD)
        )
        rows_ERD, outside_E = jax.vmap(_run_one)(self.experts, rows_ERD, is_filled_ER)
        rows_RD = sharding.all_to_all_back(rows_ERD, "expert").reshape(rows_RD.shape)
        return dispatch.combine(rows_RD, weights_TN, room), jax.tree.map(jnp.sum, outside_E)

    def _run_on_all_devices(self, x_TD, weights_TN, indices_TN, mask_T):
        """All devices that have experts of this layer see the same tokens, and each runs its own experts on them."""
        x_TD, weights_TN, indices_TN, mask_T = jax.tree.map(
            lambda a: sharding.all_gather(a, "expert"), (x_TD, weights_TN, indices_TN, mask_T)
        )
        run = self._run_all if self.dispatch == "dense" else self._run_sorted
        y_TD, outside = run(x_TD, weights_TN, self._here(indices_TN), mask_T)
        return sharding.reduce_scatter(y_TD, "expert"), outside

    def _run_sorted(self, x_TD, weights_TN, indices_TN, mask_T):
        assignment = dispatch.assign(indices_TN, self._num_here)
        rows_RD = dispatch.dispatch(x_TD, assignment, indices_TN.shape[-1])
        counts_R = None if mask_T is None else jnp.take(mask_T, assignment.order_R // indices_TN.shape[-1])
        if sharding.is_per_device():  # rows of experts elsewhere
            counts_R = (1 if counts_R is None else counts_R) * (
                jnp.arange(len(rows_RD)) < assignment.group_sizes_E.sum()
            )
        rows_RD, outside = self.experts(rows_RD, assignment.group_sizes_E, counts_R)
        return dispatch.combine(rows_RD, weights_TN, assignment), outside

    def _run_all(self, x_TD, weights_TN, indices_TN, mask_T):
        y_ETD, outside_E = jax.vmap(_run_one, in_axes=(0, None, 0))(
            self.experts, x_TD, self._chosen(indices_TN, mask_T)
        )
        expert_E11 = jnp.arange(self._num_here).reshape(-1, 1, 1)
        gate_ET = jnp.sum(jnp.where(indices_TN[None] == expert_E11, weights_TN[None], 0), axis=-1)
        # As a product: XLA sums over a leading dimension one number after the other, on a CPU four times as slow.
        y_TD = jnp.einsum("et,etd->td", gate_ET.astype(x_TD.dtype), y_ETD)
        return y_TD, jax.tree.map(jnp.sum, outside_E)

    def _chosen(self, indices_TN, mask_T):
        """Whether an expert's output of a token counts: chosen, with room, and no padding."""
        is_mine_ET = jnp.any(indices_TN[None] == jnp.arange(self._num_here).reshape(-1, 1, 1), axis=-1)
        return is_mine_ET if mask_T is None else is_mine_ET & (mask_T > 0)[None]


def _run_one(expert, x_RD, weights_R):
    return expert(x_RD, weights=weights_R)
