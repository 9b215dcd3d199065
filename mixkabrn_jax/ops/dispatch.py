"""Tokens brought into the order of their experts and back: the sort, a capacity, dispatch and combine.

Sources: Dai et al., DeepSeekMoE (2024), eq. 3; Lepikhin et al., GShard (2021), for the capacity. Letters: T token,
E expert, N choice of a token (top-k slot) or, alone, of all tokens in turn, R row of the order by expert: one for each
choice, or experts * capacity.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Assignment(NamedTuple):
    """Which choice each row of the order by expert computes: row r choice order_R[r] of all tokens'.

    Choice i is number i % experts_per_token of token i // experts_per_token. An index one past the end stands for
    nothing: a row that no choice fills, or a choice that got no row.
    """

    order_R: jax.Array
    """For each row, which of all choices it computes."""
    inverse_N: jax.Array
    """For each of all choices, its row."""
    group_sizes_E: jax.Array
    """Rows of each expert."""


def assign(indices: jax.Array, num_experts: int) -> Assignment:
    """Sorts choices `[T, N]` by expert, stably: a row for every choice.

    An index of num_experts stands for an expert elsewhere: its rows come last and belong to no group.
    """
    flat_N = indices.reshape(-1)
    order_R = jnp.argsort(flat_N, stable=True)
    rows_R = jnp.arange(flat_N.shape[0], dtype=order_R.dtype)
    inverse_N = jnp.zeros_like(order_R).at[order_R].set(rows_R)
    group_sizes_E = jnp.sum(flat_N[:, None] == jnp.arange(num_experts)[None], axis=0, dtype=jnp.int32)
    return Assignment(order_R, inverse_N, group_sizes_E)


def capacity(num_tokens: int, num_experts: int, experts_per_token: int, capacity_factor: float) -> int:
    """Rows that every expert has: its even part times the factor, rounded up, at least 1 and at most one a token."""
    return min(max(math.ceil(capacity_factor * num_tokens * experts_per_token / num_experts), 1), num_tokens)


def assign_with_capacity(
    indices: jax.Array, num_experts: int, capacity: int, mask: jax.Array | None = None
) -> Assignment:
    """Gives each expert `capacity` rows, whatever the load; choices that find no row are dropped.

    Rows go to tokens in order, a token's choices all before those of the next one: what happens to a token then does
    not depend on later ones. (First choices of all tokens before any second one, as in GShard, would show a model its
    future.) Rows that no choice fills are 0.

    Args:
        indices: `[T, N]`; mask: `[T]` or None, a token with 0 (padding) takes no row.
    """
    flat_N = indices.reshape(-1)
    num_choices, num_rows = flat_N.shape[0], num_experts * capacity
    mine_NE = (flat_N[:, None] == jnp.arange(num_experts)[None]).astype(jnp.int32)
    if mask is not None:
        mine_NE = mine_NE * jnp.repeat(mask > 0, indices.shape[-1]).astype(jnp.int32)[:, None]
    # The number of choices of the same expert up to and with this one; 0 for padding.
    turn_N = jnp.sum(jnp.cumsum(mine_NE, axis=0) * mine_NE, axis=1)
    inverse_N = jnp.where((turn_N > 0) & (turn_N <= capacity), flat_N * capacity + turn_N - 1, num_rows)
    order_R = jnp.full(num_rows, num_choices).at[inverse_N].set(jnp.arange(num_choices), mode="drop")
    return Assignment(order_R, inverse_N, jnp.full(num_experts, capacity, jnp.int32))


def has_row(assignment: Assignment) -> jax.Array:
    """For each of all choices whether it has a row: `[N]` bool."""
    return assignment.inverse_N < assignment.order_R.shape[0]


def has_choice(assignment: Assignment) -> jax.Array:
    """For each row whether a choice fills it: `[R]` bool."""
    return assignment.order_R < assignment.inverse_N.shape[0]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def dispatch(x: jax.Array, assignment: Assignment, experts_per_token: int) -> jax.Array:
    """Tokens `[T, D]` to rows `[R, D]` in expert order. Its gradient is a gather and a sum, not a scatter-add."""
    return _take(x, assignment.order_R // experts_per_token)


def _dispatch_forward(x, assignment, experts_per_token):
    return dispatch(x, assignment, experts_per_token), assignment


def _dispatch_backward(experts_per_token, assignment, grad_RD):
    return jnp.sum(_take(grad_RD, assignment.inverse_N).reshape(-1, experts_per_token, grad_RD.shape[-1]), axis=1), None


dispatch.defvjp(_dispatch_forward, _dispatch_backward)


def combine(y: jax.Array, gates: jax.Array, assignment: Assignment) -> jax.Array:
    """Rows `[R, D]` in expert order back to tokens `[T, D]`, summed over choices, weighted by the gates `[T, N]`."""
    y_TND = _unsort(y, assignment).reshape(*gates.shape, y.shape[-1])
    return jnp.einsum("tnd,tn->td", y_TND, gates.astype(y.dtype))


@jax.custom_vjp
def _unsort(y_RD, assignment):
    return _take(y_RD, assignment.inverse_N)


_unsort.defvjp(
    lambda y, assignment: (_unsort(y, assignment), assignment),
    lambda assignment, grad: (_take(grad, assignment.order_R), None),
)


def _take(rows, index):
    """An index past the end reads as 0."""
    return rows.at[index].get(mode="fill", fill_value=0)
