"""Which experts a token goes to: scores, top-k gates, groups, and the losses that keep the experts' load even.

Sources: Dai et al., DeepSeekMoE (2024), eq. 3-5 and 12-17; DeepSeek-V2 (2024), sec. 2.2; DeepSeek-V3 (2024),
eq. 12-20; Zoph et al., ST-MoE (2022), eq. 5. Letters: B sequence, T token, E expert, N choice of a token (top-k slot).
"""

from collections.abc import Callable
from functools import partial

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
    """The k experts of each token and their gates: what the experts' outputs are weighted by.

    Args:
        logits: `[..., E]`.
        k: experts per token, N.
        score: "softmax" or "sigmoid".
        bias: `[E]` or None, added for the selection only; gates come from the bare scores (V3 eq. 16).
        num_groups: experts form this many equal groups, of which each token may use `groups_per_token`. A group's
            score is its best expert (softmax, V2) or the sum of its best two (sigmoid, V3).
        normalize: divide the gates by their sum.
        scale: factor on the gates.
    Returns: (gates `[..., N]`, indices `[..., N]` int32, best first).
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
        gates_N = jax.nn.softmax(jnp.take_along_axis(log_score_E, indices_N, axis=-1), axis=-1)
    else:
        gates_N = jnp.take_along_axis(score_E, indices_N, axis=-1)
    return gates_N * scale, indices_N


def check_routing(num_experts: int, k: int, num_groups: int, groups_per_token: int) -> None:
    """Raises ValueError when k experts cannot be chosen from these groups."""
    if num_groups < 1 or num_experts % num_groups:
        raise ValueError(f"num_groups={num_groups} does not divide num_experts={num_experts}")
    if not 1 <= groups_per_token <= num_groups:
        raise ValueError(f"groups_per_token={groups_per_token}: 1 to num_groups={num_groups} is needed")
    reachable = num_experts // num_groups * groups_per_token
    if not 1 <= k <= reachable:
        raise ValueError(f"experts_per_token={k}: 1 to {reachable} is needed (num_experts={num_experts} in reach)")


def load(indices: jax.Array, num_experts: int, mask: jax.Array | None = None) -> jax.Array:
    """How many choices fell on each expert, over all leading dimensions.

    Args:
        indices: `[..., N]` int.
        mask: `[...]` or None; 0 leaves a token (padding) out.
    Returns: `[E]` float32.
    """
    chosen_E = (indices[..., None] == jnp.arange(num_experts).reshape((1,) * indices.ndim + (-1,))).astype(jnp.float32)
    if mask is not None:
        chosen_E = chosen_E * mask[..., None, None]
    return jnp.sum(chosen_E, axis=tuple(range(indices.ndim)))


def balance_loss(
    scores: jax.Array, indices: jax.Array, mask: jax.Array | None = None, psum: Callable = _all_here
) -> jax.Array:
    """Expert-level balance sum_i f_i P_i (DeepSeekMoE eq. 12-14, without its factor alpha): 1 when balanced.

    f_i = E / (N T) * number of choices of expert i (no gradient), P_i = mean score of expert i; with sigmoid scores
    each token's scores are first divided by their sum (V3 eq. 19), which leaves softmax scores as they are.

    Args:
        scores: `[..., E]`; indices: `[..., N]`; mask: `[...]` or None, 0 leaves a token out.
        psum: sums a tree of arrays over the devices that share the tokens out among them.
    Returns: `[]` float32; 0 when no token counts.
    """
    frequency_E, mean_share_E = _frequency_and_share(scores, indices, mask, psum)
    return jnp.sum(frequency_E * mean_share_E)


def device_balance_loss(
    scores: jax.Array,
    indices: jax.Array,
    num_groups: int,
    mask: jax.Array | None = None,
    psum: Callable = _all_here,
) -> jax.Array:
    """Device-level balance sum_d f'_d P'_d (DeepSeekMoE eq. 15-17, without its factor alpha): 1 when balanced.

    The experts lie on `num_groups` devices, neighbours together; f'_d is the mean of f_i over the experts of device d,
    P'_d the sum of their P_i. Experts of one device may differ as they like: with one device it is always 1, with a
    device for each expert it is `balance_loss`.

    Args:
        scores, indices, mask, psum: as for `balance_loss`.
    Returns: `[]` float32; 0 when no token counts.
    Raises: ValueError when the experts cannot be shared out evenly.
    """
    num_experts = scores.shape[-1]
    if num_groups < 1 or num_experts % num_groups:
        raise ValueError(f"num_groups={num_groups} does not divide num_experts={num_experts}")
    frequency_E, mean_share_E = _frequency_and_share(scores, indices, mask, psum)
    frequency_of_device = jnp.mean(frequency_E.reshape(num_groups, -1), axis=1)
    share_of_device = jnp.sum(mean_share_E.reshape(num_groups, -1), axis=1)
    return jnp.sum(frequency_of_device * share_of_device)


def sequence_balance_loss(
    scores: jax.Array, indices: jax.Array, mask: jax.Array | None = None, psum: Callable = _all_here
) -> jax.Array:
    """The balance within each sequence, as a mean over sequences (DeepSeek-V3 eq. 17-20, without its factor alpha).

    Args:
        scores: `[..., T, E]`.
        indices: `[..., T, N]`, the best by these scores alone, whatever a bias or groups have chosen (eq. 18).
        mask: `[..., T]` or None, 0 leaves a token out, and a sequence without any token is left out of the mean.
        psum: sums a tree of arrays over the devices that share out the tokens of a sequence.
    Returns: `[]` float32; 1 when every sequence is balanced, 0 when no token counts.
    """
    mask = jnp.ones(scores.shape[:-1]) if mask is None else mask.astype(jnp.float32)
    loss_B = jax.vmap(partial(balance_loss, psum=psum))(
        scores.reshape(-1, *scores.shape[-2:]),
        indices.reshape(-1, *indices.shape[-2:]),
        mask.reshape(-1, mask.shape[-1]),
    )
    has_tokens_B = psum(jnp.sum(mask.reshape(-1, mask.shape[-1]), axis=1)) > 0
    return jnp.sum(loss_B) / jnp.maximum(jnp.sum(has_tokens_B), 1)  # a sequence without tokens has a loss of 0


def z_loss(logits: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean over tokens of logsumexp(logits)^2, which keeps the router's logits small (ST-MoE eq. 5).

    Args:
        logits: `[..., E]`; mask: `[...]` or None, 0 leaves a token out.
    Returns: `[]` float32; 0 when no token counts.
    """
    square = jax.nn.logsumexp(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1) ** 2
    mask = jnp.ones(square.shape) if mask is None else mask.astype(jnp.float32)
    return jnp.sum(square * mask) / jnp.maximum(jnp.sum(mask), 1)


def _frequency_and_share(scores, indices, mask, psum):
    """f_i, 1 for an expert with its even part of the choices, and P_i, which sum to 1 (DeepSeekMoE eq. 13, 14)."""
    num_experts, num_choices = scores.shape[-1], indices.shape[-1]
    mask = jnp.ones(scores.shape[:-1]) if mask is None else mask.astype(jnp.float32)
    sum_of_scores = jnp.sum(scores, axis=-1, keepdims=True)
    share = scores / jnp.where(sum_of_scores > 0, sum_of_scores, 1)
    share_E = jnp.sum(share * mask[..., None], axis=tuple(range(scores.ndim - 1)))
    share_E, load_E, num_tokens = psum((share_E, load(indices, num_experts, mask), jnp.sum(mask)))
    num_tokens = jnp.maximum(num_tokens, 1)
    return load_E * num_experts / (num_choices * num_tokens), share_E / num_tokens


def update_bias(bias: jax.Array, load: jax.Array, rate: float) -> jax.Array:
    """Balancing without a loss: b_i += rate * sign(mean load - load_i) (V3 sec. 2.1.2).

    Args:
        bias, load: `[..., E]`, the load counted over the whole global batch.
    """
    return bias + rate * jnp.sign(jnp.mean(load, axis=-1, keepdims=True) - load)


def _keep_best_groups(choice_E, num_groups, groups_per_token, best):
    """Experts outside the best groups can no longer be chosen."""
    group_size = choice_E.shape[-1] // num_groups
    by_group = choice_E.reshape(*choice_E.shape[:-1], num_groups, group_size)
    group_score = jnp.sum(jax.lax.top_k(by_group, min(best, group_size))[0], axis=-1)
    kept = jax.lax.top_k(group_score, groups_per_token)[1]
    is_kept = jnp.any(kept[..., None] == jnp.arange(num_groups).reshape((1,) * kept.ndim + (-1,)), axis=-2)
    return jnp.where(is_kept[..., None], by_group, -jnp.inf).reshape(choice_E.shape)
