"""Fine-grained mixture of experts with shared experts (Dai et al., DeepSeekMoE, 2024, eq. 3-5)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.linear import normal_init
from mixkabrn_jax.layers.variables import Buffer
from mixkabrn_jax.ops import routing

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
    """What routing did, for losses and logs."""

    load_E: jax.Array
    """Choices that fell on each expert, padding left out."""
    loss: jax.Array
    """Expert-level balance loss, 1 when balanced, before any coefficient."""


class MixtureOfExperts(nnx.Module):
    """y = sum of the chosen experts times their gates + the shared experts. Dropless: every choice is computed."""

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
    ):
        """
        Args:
            num_shared_experts: always on; together they are one feed-forward of that many times the width.
            expert_width: hidden units of one expert.
            dispatch: "sorted" brings each token to its experts, so that work grows with experts_per_token; "dense" runs
                every expert on every token and drops what was not chosen: for a few narrow experts it is faster,
                since all of them are one wide product and KAN features are computed once. The results are the same.
            feed_forward: makes the experts, called as feed_forward(width, num_experts=..., rngs=...).
        """
        self.router = normal_init(rngs, (d_model, router.num_experts), 1.0)
        self.bias_E = Buffer(jnp.zeros(router.num_experts))
        self.experts = feed_forward(expert_width, num_experts=router.num_experts, rngs=rngs)
        shared_width = num_shared_experts * expert_width
        self.shared = feed_forward(shared_width, num_experts=0, rngs=rngs) if shared_width else None
        self.config, self.dispatch = router, dispatch

    def __call__(self, x_BTD, mask_BT=None):
        """
        Args:
            x_BTD: `[B, T, D]`.
            mask_BT: 0 leaves a position (padding) out of the balance.
        Returns: (`[B, T, D]`, `Balance`, the share of KAN inputs outside their grids or None without splines: the mean
        of the routed and the shared experts').
        """
        config = self.config
        # The router is float32 whatever the compute dtype: near-ties decide which expert learns.
        logits_BTE = x_BTD.astype(jnp.float32) @ self.router[...]
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
        score_BTE = routing.scores(logits_BTE, config.score)
        balance = Balance(
            load_E=routing.load(indices_BTN, config.num_experts, mask_BT),
            loss=routing.balance_loss(score_BTE, indices_BTN, mask_BT),
        )
        run = self._run_all if self.dispatch == "dense" else self._run_sorted
        num_choices = config.experts_per_token
        y_TD, outside = run(
            x_BTD.reshape(-1, x_BTD.shape[-1]),
            weights_BTN.reshape(-1, num_choices),
            indices_BTN.reshape(-1, num_choices),
        )
        y_BTD = y_TD.reshape(x_BTD.shape)
        if self.shared is not None:
            shared_BTD, shared_outside = self.shared(x_BTD)
            y_BTD = y_BTD + shared_BTD
            outside = None if outside is None else (outside + shared_outside) / 2
        return y_BTD, balance, outside

    def _run_sorted(self, x_TD, weights_TN, indices_TN):
        plan = routing.plan(indices_TN, self.config.num_experts)
        rows_RD, outside = self.experts(routing.dispatch(x_TD, plan, indices_TN.shape[-1]), plan.group_sizes_E)
        return routing.combine(rows_RD, weights_TN, plan), outside

    def _run_all(self, x_TD, weights_TN, indices_TN):
        y_ETD, outside_E = jax.vmap(lambda expert, x_TD: expert(x_TD), in_axes=(0, None))(self.experts, x_TD)
        expert_E11 = jnp.arange(self.config.num_experts).reshape(-1, 1, 1)
        gate_ET = jnp.sum(jnp.where(indices_TN[None] == expert_E11, weights_TN[None], 0), axis=-1)
        y_TD = jnp.sum(gate_ET[..., None].astype(x_TD.dtype) * y_ETD, axis=0)
        return y_TD, None if outside_E is None else jnp.mean(outside_E)
