"""Fine-grained mixture of experts with shared experts (Dai et al., DeepSeekMoE, 2024, eq. 3-5)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers import dispatching
from mixkabrn_jax.layers.balance import balance_of
from mixkabrn_jax.layers.frozen import for_each_expert
from mixkabrn_jax.layers.linear import normal_init
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.layers.variables import Buffer, stacked
from mixkabrn_jax.ops import routing

DISPATCHES = ("sorted", "dense")


@dataclass(frozen=True)
class RouterConfig:
    """How tokens choose experts and reach them."""

    score: str = "softmax"
    """What makes scores of logits: "softmax" over all experts (DeepSeek V1, V2) or a "sigmoid" for each (V3)."""
    num_groups: int = 1
    """Experts form so many equal groups, of which a token may use `groups_per_token` (V2, V3)."""
    groups_per_token: int = 1
    """Groups with the highest scores, in which a token's experts are looked for."""
    normalize: bool = False
    """Divide a token's gates by their sum."""
    scale: float = 1.0
    """Factor on the gates."""
    device_groups: int = 1
    """Devices that the experts are shared out to, as far as the device balance loss goes."""
    dispatch: str = "sorted"
    """"sorted" brings each token to its experts, so that work grows with experts_per_token. "dense" runs every expert
    on every token and drops what was not chosen: for a few narrow experts it is faster, since all of them are one wide
    product. The results are the same."""
    capacity_factor: float = 0.0
    """0 computes every choice (dropless). Above 0 every expert's capacity is this many times its even part of the
    choices, and choices beyond it are dropped: shapes and work do not depend on the load then, but outputs depend on
    the other rows of the batch. Devices with tokens of their own count them by themselves (groups of GShard, Lepikhin
    et al. 2021)."""

    def __post_init__(self):
        for field, known in (("score", routing.SCORES), ("dispatch", DISPATCHES)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r}: one of {known} is needed")
        for field in ("num_groups", "device_groups"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: at least 1 is needed")
        if not 1 <= self.groups_per_token <= self.num_groups:
            raise ValueError(f"groups_per_token={self.groups_per_token}: 1 to num_groups={self.num_groups} is needed")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale={self.scale}: more than 0 and finite is needed")
        if not 0 <= self.capacity_factor < math.inf:
            raise ValueError(f"capacity_factor={self.capacity_factor}: 0 (dropless) or more, and finite, is needed")


@dataclass(frozen=True)
class MoeConfig:
    """How many experts there are, how many of them a token uses, and how it gets to them."""

    num_experts: int
    """Routed ones."""
    experts_per_token: int
    num_shared_experts: int = 0
    """Always on. Each is a feed-forward of its own, with its own scales where it is quantised."""
    router: RouterConfig = RouterConfig()

    def __post_init__(self):
        router = self.router
        if self.num_experts < 1:
            raise ValueError(f"num_experts={self.num_experts}: at least 1 is needed")
        if self.num_shared_experts < 0:
            raise ValueError(f"num_shared_experts={self.num_shared_experts}: 0 or more is needed")
        for field in ("num_groups", "device_groups"):
            if self.num_experts % getattr(router, field):
                raise ValueError(
                    f"router.{field}={getattr(router, field)} does not divide num_experts={self.num_experts}"
                )
        reachable = self.num_experts // router.num_groups * router.groups_per_token
        if not 1 <= self.experts_per_token <= reachable:
            raise ValueError(
                f"experts_per_token={self.experts_per_token}: 1 to {reachable} is needed, the experts in "
                f"{router.groups_per_token} of {router.num_groups} groups of num_experts={self.num_experts}"
            )


class MixtureOfExperts(nnx.Module):
    """y = sum of the chosen experts times their gates + the shared experts.

    Dropless unless the router has a capacity. Gates of dropped choices are lost: what remains is not scaled up.
    """

    def __init__(
        self,
        d_model: int,
        config: MoeConfig,
        make_experts: Callable[..., nnx.Module],
        norm_epsilon: float | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            make_experts: called as make_experts(num_experts=..., rngs=...), for the routed experts and for the shared
                ones; 0 asks for a single feed-forward.
            norm_epsilon: RMS-normalise what the router reads; None where inputs arrive normalised.
        """
        self.router = normal_init(rngs, (d_model, config.num_experts), 1.0, "D_")
        self.bias_E = Buffer(jnp.zeros(config.num_experts))
        self.experts = stacked(make_experts(num_experts=config.num_experts, rngs=rngs), "E")
        shared = config.num_shared_experts
        self.shared = make_experts(num_experts=shared if shared > 1 else 0, rngs=rngs) if shared else None
        self.config, self.norm_epsilon = config, norm_epsilon

    def __call__(self, x_BTD, mask_BT=None):
        """
        Args:
            x_BTD: `[B, T, D]`.
            mask_BT: 0 leaves a position (padding) out of the balance, of the counts, and of what takes up capacity.
        Returns: (`[B, T, D]`, `Balance`, `OutsideGrid` of the inputs that experts were chosen for, routed and shared
            ones together, or None without splines).
        """
        x_BTD = jnp.asarray(x_BTD)  # outside of jit a NumPy array would reach the gathers, which only JAX's have
        logits_BTE, gates_BTN, indices_BTN = self._route(x_BTD)
        x_TD, gates_TN, indices_TN, mask_T = jax.tree.map(
            lambda a: a.reshape(-1, *a.shape[2:]), (x_BTD, gates_BTN, indices_BTN, mask_BT)
        )
        router, num_experts = self.config.router, self.config.num_experts
        assigned = dispatching.assign_by_capacity(indices_TN, num_experts, router.capacity_factor, mask_T)
        kept_TN = dispatching.without_dropped(indices_TN, num_experts, assigned)
        experts, shared = for_each_expert(self.experts, dispatching.num_local(num_experts)), self.shared
        if assigned is not None and router.dispatch == "sorted":
            y_TD, outside = dispatching.run_assigned(experts, x_TD, gates_TN, assigned)
        elif router.dispatch == "dense" and dispatching.fit_one_stack(experts, shared):
            # All of them run on all tokens, and shared experts are those that every token chooses.
            y_TD, outside = dispatching.run_dense(experts, shared, num_experts, x_TD, gates_TN, kept_TN, mask_T)
            shared = None
        else:
            y_TD, outside = dispatching.run_on_all_devices(
                router.dispatch, experts, num_experts, x_TD, gates_TN, kept_TN, mask_T
            )
        y_BTD = y_TD.reshape(x_BTD.shape)
        if shared is not None:
            shared_BTD, shared_outside = self._run_shared(x_BTD, mask_BT)
            y_BTD = y_BTD + shared_BTD
            outside = jax.tree.map(jnp.add, outside, shared_outside)
        return y_BTD, balance_of(self.config, logits_BTE, indices_BTN, mask_BT, assigned), outside

    def chosen(self, x_BTD, mask_BT=None):
        """Whether a token is among an expert's: it chose it, was not dropped, and is no padding. `[E, B * T]` bool."""
        indices_TN = self.route(x_BTD)[1].reshape(-1, self.config.experts_per_token)
        mask_T = None if mask_BT is None else mask_BT.reshape(-1)
        num_experts, capacity_factor = self.config.num_experts, self.config.router.capacity_factor
        assigned = dispatching.assign_by_capacity(indices_TN, num_experts, capacity_factor, mask_T)
        indices_TN = dispatching.without_dropped(indices_TN, num_experts, assigned)
        return dispatching.chosen(dispatching.local_indices(indices_TN, num_experts), num_experts, mask_T)

    def route(self, x_BTD):
        """Which experts each token chooses: (gates `[B, T, N]`, indices of experts `[B, T, N]` int32, best first)."""
        return self._route(x_BTD)[1:]

    def _route(self, x_BTD):
        """(logits `[B, T, E]`, gates `[B, T, N]`, experts `[B, T, N]`)."""
        router = self.config.router
        # The router is float32 whatever the compute dtype: near-ties decide which expert learns.
        router_in_BTD = x_BTD.astype(jnp.float32)
        if self.norm_epsilon is not None:
            router_in_BTD = rms_norm(router_in_BTD, self.norm_epsilon)
        logits_BTE = jnp.einsum("btd,de->bte", router_in_BTD, self.router[...], precision="highest")
        gates_BTN, indices_BTN = routing.top_k_gates(
            logits_BTE,
            self.config.experts_per_token,
            score=router.score,
            bias=self.bias_E[...],
            num_groups=router.num_groups,
            groups_per_token=router.groups_per_token,
            normalize=router.normalize,
            scale=router.scale,
        )
        return logits_BTE, gates_BTN, indices_BTN

    def _run_shared(self, x_BTD, mask_BT):
        if self.config.num_shared_experts == 1:
            return self.shared(x_BTD, row_mask=mask_BT)
        y_EBTD, outside_E = jax.vmap(lambda expert: expert(x_BTD, row_mask=mask_BT))(self.shared)
        return jnp.sum(y_EBTD, axis=0), jax.tree.map(jnp.sum, outside_E)
