"""Tokens brought into the order of their experts and back: the sort, a capacity, dispatch and combine.

Sources: Dai et al., DeepSeekMoE (2024), eq. 3; Lepikhin et al., GShard (2021), for the capacity. Letters: T token,
E expert, N choice of a token (top-k slot), R row of the order by expert (tokens * N of them, or experts * capacity), or
a choice among the tokens * N.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Assignment(NamedTuple):
    """Which choice each row of the order by expert computes: row r is choice order_R[r] % N of token order_R[r] // N.

    An index one past the end stands for nothing: a row that no choice fills, or a choice that got no row.
    """

    order_R: jax.Array
    """For each row, its choice among the tokens * N."""
    inverse_R: jax.Array
    """For each of the tokens * N choices, its row."""
    group_sizes_E: jax.Array
    """Rows of each expert."""


def assign(indices: jax.Array, num_experts: int) -> Assignment:
    """Sorts choices `[T, N]` by expert, stably: a row for every choice.

    An index of num_experts stands for an expert elsewhere: its rows come last and belong to no group.
    """
    flat_R = indices.reshape(-1)
    order_R = jnp.argsort(flat_R, stable=True)
    rows_R = jnp.arange(flat_R.shape[0], dtype=order_R.dtype)
    inverse_R = jnp.zeros_like(order_R).at[order_R].set(rows_R)
    group_sizes_E = jnp.sum(flat_R[:, None] == jnp.arange(num_experts)[None], axis=0, dtype=jnp.int32)
    return Assignment(order_R, inverse_R, group_sizes_E)


def capacity(num_tokens: int, num_experts: int, k: int, factor: float) -> int:
    """Rows that every expert has: ceil(factor * num_tokens * k / num_experts), at least 1 and at most one a token."""
    return min(max(math.ceil(factor * num_tokens * k / num_experts), 1), num_tokens)


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
    flat_R = indices.reshape(-1)
    num_choices, num_rows = flat_R.shape[0], num_experts * capacity
    mine_RE = (flat_R[:, None] == jnp.arange(num_experts)[None]).astype(jnp.int32)
    if mask is not None:
        mine_RE = mine_RE * jnp.repeat(mask > 0, indices.shape[-1]).astype(jnp.int32)[:, None]
    # The number of choices of the same expert up to and with this one; 0 for padding.
    turn_R = jnp.sum(jnp.cumsum(mine_RE, axis=0) * mine_RE, axis=1)
    inverse_R = jnp.where((turn_R > 0) & (turn_R <= capacity), flat_R * capacity + turn_R - 1, num_rows)
    order_R = jnp.full(num_rows, num_choices).at[inverse_R].set(jnp.arange(num_choices), mode="drop")
    return Assignment(order_R, inverse_R, jnp.full(num_experts, capacity, jnp.int32))


def has_row(assignment: Assignment) -> jax.Array:
    """For each of the tokens * N choices whether it has a row: `[R]` bool."""
    return assignment.inverse_R < assignment.order_R.shape[0]


def has_choice(assignment: Assignment) -> jax.Array:
    """For each row whether a choice fills it: `[R]` bool."""
    return assignment.order_R < assignment.inverse_R.shape[0]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def dispatch(x: jax.Array, assignment: Assignment, num_choices: int) -> jax.Array:
    """Tokens `[T, D]` to rows `[R, D]` in expert order. Its gradient is a gather and a sum, not a scatter-add."""
    return _take(x, assignment.order_R // num_choices)


def _dispatch_forward(x, assignment, num_choices):
    return dispatch(x, assignment, num_choices), assignment


def _dispatch_backward(num_choices, assignment, grad_RD):
    return jnp.sum(_take(grad_RD, assignment.inverse_R).reshape(-1, num_choices, grad_RD.shape[-1]), axis=1), None


dispatch.defvjp(_dispatch_forward, _dispatch_backward)


def combine(y: jax.Array, gates: jax.Array, assignment: Assignment) -> jax.Array:
    """Rows `[R, D]` in expert order back to tokens `[T, D]`, summed over choices, weighted by the gates `[T, N]`."""
    y_TND = _unsort(y, assignment).reshape(*gates.shape, y.shape[-1])
    return jnp.einsum("tnd,tn->td", y_TND, gates.astype(y.dtype))


@jax.custom_vjp
def _unsort(y_RD, assignment):
    return _take(y_RD, assignment.inverse_R)


_unsort.defvjp(
    lambda y, assignment: (_unsort(y, assignment), assignment),
    lambda assignment, grad: (_take(grad, assignment.order_R), None),
)


def _take(rows, index):
    """An index past the end reads as 0."""
    return rows.at[index].get(mode="fill", fill_value=0)
