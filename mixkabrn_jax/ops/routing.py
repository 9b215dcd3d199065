"""Which experts a token goes to: scores, top-k gates, groups, balance, and the sort into expert order and back.

Sources: Dai et al., DeepSeekMoE (2024), eq. 3-5 and 12-17; DeepSeek-V2 (2024), sec. 2.2; DeepSeek-V3 (2024),
eq. 12-20; Zoph et al., ST-MoE (2022), eq. 5. Letters: E expert, N choice (top-k slot), R row of the order by expert
(R = tokens * N, or experts * capacity).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

SCORES = ("softmax", "sigmoid")


def _all_here(values):
    return values


def scores(logits: jax.Array, score: str) -> jax.Array:
    """Affinities in (0, 1) in float32 or better: softmax over all experts (V1, V2) or a sigmoid for each (V3).

    Raises: ValueError for an unknown kind.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if score == "softmax":
        return jax.nn.softmax(logits, axis=-1)
    if score == "sigmoid":
        return jax.nn.sigmoid(logits)
    raise ValueError(f"score={score!r}: one of {SCORES} is needed")


def top_k_gates(
    logits: jax.Array,
    k: int,
    *,
    score: str,
    bias: jax.Array | None = None,
    num_groups: int = 1,
    groups_per_token: int = 1,
    normalize: bool = False,
    scale: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """The k experts of each token and their weights.

    Args:
        logits: `[..., E]`.
        k: experts per token, N.
        score: "softmax" or "sigmoid".
        bias: `[E]` or None, added for the selection only; weights come from the bare scores (V3 eq. 16).
        num_groups: experts form this many equal groups, of which each token may use `groups_per_token`. A group's
            score is its best expert (softmax, V2) or the sum of its best two (sigmoid, V3).
        normalize: divide the weights by their sum.
        scale: factor on the weights.
    Returns: (weights `[..., N]`, indices `[..., N]` int32, best first).
    Raises: ValueError when k, the groups and E do not fit together.
    """
    num_experts = logits.shape[-1]
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    check_routing(num_experts, k, num_groups, groups_per_token)
    score_E = scores(logits, score)
    choice_E = jax.lax.stop_gradient(score_E)
    if bias is not None:
        choice_E = choice_E + bias.reshape((1,) * (choice_E.ndim - 1) + (-1,))
    if num_groups > 1:
        choice_E = _keep_best_groups(choice_E, num_groups, groups_per_token, best=1 if score == "softmax" else 2)
    indices_N = jax.lax.top_k(choice_E, k)[1]
    if normalize:
        # Scores over their sum, by logarithms: sigmoids of -50 would be 0/0 in the gradient.
        log_score_E = jax.nn.log_sigmoid(logits) if score == "sigmoid" else logits
        weights_N = jax.nn.softmax(jnp.take_along_axis(log_score_E, indices_N, axis=-1), axis=-1)
    else:
        weights_N = jnp.take_along_axis(score_E, indices_N, axis=-1)
    return weights_N * scale, indices_N


def check_routing(num_experts: int, k: int, num_groups: int, groups_per_token: int) -> None:
    """Raises ValueError when k experts cannot be chosen from these groups."""
    if num_groups < 1 or num_experts % num_groups:
        raise ValueError(f"num_groups={num_groups} does not divide num_experts={num_experts}")
    if not 1 <= groups_per_token <= num_groups:
        raise ValueError(f"groups_per_token={groups_per_token}: 1 to num_groups={num_groups} is needed")
    reachable = num_experts // num_groups * groups_per_token
    if not 1 <= k <= reachable:
        raise ValueError(f"experts_per_token={k}: 1 to {reachable} is needed (num_experts={num_experts} in reach)")


def load(indices: jax.Array, num_experts: int, weights: jax.Array | None = None) -> jax.Array:
    """How many choices fell on each expert, over all leading dimensions.

    Args:
        indices: `[..., N]` int.
        weights: `[...]` or None; 0 leaves a token (padding) out.
    Returns: `[E]` float32.
    """
    chosen_E = (indices[..., None] == jnp.arange(num_experts).reshape((1,) * indices.ndim + (-1,))).astype(jnp.float32)
    if weights is not None:
        chosen_E = chosen_E * weights[..., None, None]
    return jnp.sum(chosen_E, axis=tuple(range(indices.ndim)))


def balance_loss(
    scores: jax.Array, indices: jax.Array, mask: jax.Array | None = None, total: Callable = _all_here
) -> jax.Array:
    """Expert-level balance sum_i f_i P_i (DeepSeekMoE eq. 12-14, without its factor alpha): 1 when balanced.

    f_i = E / (N T) * number of choices of expert i (no gradient), P_i = mean score of expert i; with sigmoid scores
    each token's scores are first divided by their sum (V3 eq. 19), which leaves softmax scores as they are.

    Args:
        scores: `[..., E]`; indices: `[..., N]`; mask: `[...]` or None, 0 leaves a token out.
        total: sums a tree of arrays over the devices that share the tokens out among them.
    Returns: `[]` float32; 0 when no token counts.
    """
    frequency_E, mean_share_E = _frequency_and_share(scores, indices, mask, total)
    return jnp.sum(frequency_E * mean_share_E)


def device_balance_loss(
    scores: jax.Array,
    indices: jax.Array,
    num_groups: int,
    mask: jax.Array | None = None,
    total: Callable = _all_here,
) -> jax.Array:
    """Device-level balance sum_d f'_d P'_d (DeepSeekMoE eq. 15-17, without its factor alpha): 1 when balanced.

    The experts lie on `num_groups` devices, neighbours together; f'_d is the mean of f_i over the experts of device d,
    P'_d the sum of their P_i. Experts of one device may differ as they like: with one device it is always 1, with a
    device for each expert it is `balance_loss`.

    Args:
        scores, indices, mask, total: as for `balance_loss`.
    Returns: `[]` float32; 0 when no token counts.
    Raises: ValueError when the experts cannot be shared out evenly.
    """
    num_experts = scores.shape[-1]
    if num_groups < 1 or num_experts % num_groups:
        raise ValueError(f"num_groups={num_groups} does not divide num_experts={num_experts}")
    frequency_E, mean_share_E = _frequency_and_share(scores, indices, mask, total)
    frequency_of_device = jnp.mean(frequency_E.reshape(num_groups, -1), axis=1)
    share_of_device = jnp.sum(mean_share_E.reshape(num_groups, -1), axis=1)
    return jnp.sum(frequency_of_device * share_of_device)


def sequence_balance_loss(
    scores: jax.Array, indices: jax.Array, mask: jax.Array | None = None, total: Callable = _all_here
) -> jax.Array:
    """The balance within each sequence, as a mean over sequences (DeepSeek-V3 eq. 17-20, without its factor alpha).

    Args:
        scores: `[..., T, E]`.
        indices: `[..., T, N]`, the best by these scores alone, whatever a bias or groups have chosen (eq. 18).
        mask: `[..., T]` or None, 0 leaves a token out, and a sequence without any token is left out of the mean.
        total: sums a tree of arrays over the devices that share out the tokens of a sequence.
    Returns: `[]` float32; 1 when every sequence is balanced, 0 when no token counts.
    """
    mask = jnp.ones(scores.shape[:-1]) if mask is None else mask.astype(jnp.float32)
    loss_B = jax.vmap(partial(balance_loss, total=total))(
        scores.reshape(-1, *scores.shape[-2:]),
        indices.reshape(-1, *indices.shape[-2:]),
        mask.reshape(-1, mask.shape[-1]),
    )
    counts_B = total(jnp.sum(mask.reshape(-1, mask.shape[-1]), axis=1)) > 0
    return jnp.sum(loss_B) / jnp.maximum(jnp.sum(counts_B), 1)  # a sequence without tokens has a loss of 0


def z_loss(logits: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean over tokens of logsumexp(logits)^2, which keeps the router's logits small (ST-MoE eq. 5).

    Args:
        logits: `[..., E]`; mask: `[...]` or None, 0 leaves a token out.
    Returns: `[]` float32; 0 when no token counts.
    """
    square = jax.nn.logsumexp(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1) ** 2
    weights = jnp.ones(square.shape) if mask is None else mask.astype(jnp.float32)
    return jnp.sum(square * weights) / jnp.maximum(jnp.sum(weights), 1)


def _frequency_and_share(scores, indices, mask, total):
    """f_i, 1 for an expert with its even part of the choices, and P_i, which sum to 1 (DeepSeekMoE eq. 13, 14)."""
    num_experts, num_choices = scores.shape[-1], indices.shape[-1]
    weights = jnp.ones(scores.shape[:-1]) if mask is None else mask.astype(jnp.float32)
    sum_of_scores = jnp.sum(scores, axis=-1, keepdims=True)
    share = scores / jnp.where(sum_of_scores > 0, sum_of_scores, 1)
    share_E = jnp.sum(share * weights[..., None], axis=tuple(range(scores.ndim - 1)))
    share_E, load_E, num_tokens = total((share_E, load(indices, num_experts, weights), jnp.sum(weights)))
    num_tokens = jnp.maximum(num_tokens, 1)
    return load_E * num_experts / (num_choices * num_tokens), share_E / num_tokens


def update_bias(bias: jax.Array, load: jax.Array, rate: float) -> jax.Array:
    """Balancing without a loss: b_i += rate * sign(mean load - load_i) (V3 sec. 2.1.2).

    Args:
        bias, load: `[..., E]`, the load counted over the whole global batch.
    """
    return bias + rate * jnp.sign(jnp.mean(load, axis=-1, keepdims=True) - load)


class Plan(NamedTuple):
    """The order of choices by expert: row r is choice order_R[r] % N of token order_R[r] // N.

    An index one past the end stands for nothing: a row that no choice fills, or a choice that got no row.
    """

    order_R: jax.Array
    """For each row, its choice among the tokens * N."""
    inverse_R: jax.Array
    """For each of the tokens * N choices, its row."""
    group_sizes_E: jax.Array
    """Rows of each expert."""


def plan(indices: jax.Array, num_experts: int) -> Plan:
    """Sorts choices `[T, N]` by expert, stably: a row for every choice.

    An index of num_experts stands for an expert elsewhere: its rows come last and belong to no group.
    """
    flat_R = indices.reshape(-1)
    order_R = jnp.argsort(flat_R, stable=True)
    rows_R = jnp.arange(flat_R.shape[0], dtype=order_R.dtype)
    inverse_R = jnp.zeros_like(order_R).at[order_R].set(rows_R)
    group_sizes_E = jnp.sum(flat_R[:, None] == jnp.arange(num_experts)[None], axis=0, dtype=jnp.int32)
    return Plan(order_R, inverse_R, group_sizes_E)


def capacity(num_tokens: int, num_experts: int, k: int, factor: float) -> int:
    """Rows that every expert has: ceil(factor * num_tokens * k / num_experts), at least 1 and at most one a token."""
    return min(max(math.ceil(factor * num_tokens * k / num_experts), 1), num_tokens)


def plan_with_capacity(indices: jax.Array, num_experts: int, capacity: int, mask: jax.Array | None = None) -> Plan:
    """Gives each expert `capacity` rows, whatever the load; choices that find no row are dropped.

    Rows go to tokens in order, a token's choices all before those of the next one: what happens to a token then does
    not depend on later ones. (First choices of all tokens before any second one, as in GShard, would show a model its
    future.) Rows that no choice fills are 0.

    Args:
        indices: `[T, N]`; mask: `[T]` or None, a token with 0 (padding) takes no row.
    """
    flat_R = indices.reshape(-1)
    num_choices, num_rows = flat_R.shape[0], num_experts * capacity
    mine_RE = (flat_R[:, None] == jnp.arange(num_experts)[None]).astype(jnp.int32)
    if mask is not None:
        mine_RE = mine_RE * jnp.repeat(mask > 0, indices.shape[-1]).astype(jnp.int32)[:, None]
    # The number of choices of the same expert up to and with this one; 0 for padding.
    turn_R = jnp.sum(jnp.cumsum(mine_RE, axis=0) * mine_RE, axis=1)
    inverse_R = jnp.where((turn_R > 0) & (turn_R <= capacity), flat_R * capacity + turn_R - 1, num_rows)
    order_R = jnp.full(num_rows, num_choices).at[inverse_R].set(jnp.arange(num_choices), mode="drop")
    return Plan(order_R, inverse_R, jnp.full(num_experts, capacity, jnp.int32))


def has_row(plan: Plan) -> jax.Array:
    """For each of the tokens * N choices whether the plan computes it: `[R]` bool."""
    return plan.inverse_R < plan.order_R.shape[0]


def has_choice(plan: Plan) -> jax.Array:
    """For each row whether a choice fills it: `[R]` bool."""
    return plan.order_R < plan.inverse_R.shape[0]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def dispatch(x: jax.Array, plan: Plan, num_choices: int) -> jax.Array:
    """Tokens `[T, D]` to rows `[R, D]` in expert order. Its gradient is a gather and a sum, not a scatter-add."""
    return _take(x, plan.order_R // num_choices)


def _dispatch_forward(x, plan, num_choices):
    return dispatch(x, plan, num_choices), plan


def _dispatch_backward(num_choices, plan, grad_RD):
    return jnp.sum(_take(grad_RD, plan.inverse_R).reshape(-1, num_choices, grad_RD.shape[-1]), axis=1), None


dispatch.defvjp(_dispatch_forward, _dispatch_backward)


def combine(y: jax.Array, weights: jax.Array, plan: Plan) -> jax.Array:
    """Rows `[R, D]` in expert order back to tokens `[T, D]`, summed over choices with the weights `[T, N]`."""
    y_TND = _unsort(y, plan).reshape(*weights.shape, y.shape[-1])
    return jnp.einsum("tnd,tn->td", y_TND, weights.astype(y.dtype))


@jax.custom_vjp
def _unsort(y_RD, plan):
    return _take(y_RD, plan.inverse_R)


_unsort.defvjp(lambda y, plan: (_unsort(y, plan), plan), lambda plan, grad: (_take(grad, plan.order_R), None))


def _take(rows, index):
    """An index past the end reads as 0."""
    return rows.at[index].get(mode="fill", fill_value=0)


def _keep_best_groups(choice_E, num_groups, groups_per_token, best):
    """Experts outside the best groups can no longer be chosen."""
    group_size = choice_E.shape[-1] // num_groups
    by_group = choice_E.reshape(*choice_E.shape[:-1], num_groups, group_size)
    group_score = jnp.sum(jax.lax.top_k(by_group, min(best, group_size))[0], axis=-1)
    kept = jax.lax.top_k(group_score, groups_per_token)[1]
    is_kept = jnp.any(kept[..., None] == jnp.arange(num_groups).reshape((1,) * kept.ndim + (-1,)), axis=-2)
    return jnp.where(is_kept[..., None], by_group, -jnp.inf).reshape(choice_E.shape)
