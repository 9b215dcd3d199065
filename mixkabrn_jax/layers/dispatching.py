"""Ways to run a mixture's experts on the tokens that chose them, on one device or on several along `expert`.

Experts are stacked: every leaf has a leading dimension E, and each device along `expert` holds its own part of it.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.ops import dispatch


def assign_by_capacity(indices_TN, num_experts, capacity_factor, mask_T) -> dispatch.Assignment | None:
    """Which row of its expert each choice of this device's tokens is computed in; None where none is dropped.

    Args:
        capacity_factor: as in `RouterConfig`; 0 gives None.
        mask_T: 0 at padding, which takes no row; or None.
    """
    if not capacity_factor:
        return None
    rows = dispatch.capacity(len(indices_TN), num_experts, indices_TN.shape[-1], capacity_factor)
    return dispatch.assign_with_capacity(indices_TN, num_experts, rows, mask_T)


def without_dropped(indices_TN, num_experts, assigned: dispatch.Assignment | None):
    """The choices; num_experts, one past the last expert, stands for those that were dropped."""
    if assigned is None:
        return indices_TN
    return jnp.where(dispatch.has_row(assigned).reshape(indices_TN.shape), indices_TN, num_experts)


def local_indices(indices, num_experts):
    """Experts as this device counts its own; one past its last stands for an expert of another device."""
    here = num_local(num_experts)
    indices = indices - here * sharding.index("expert")
    return jnp.where((indices >= 0) & (indices < here), indices, here)


def num_local(num_experts) -> int:
    """Experts of this device."""
    return num_experts // sharding.size("expert")


def chosen(indices_TN, num_experts, mask_T):
    """Whether an expert's output of a token counts: chosen, not dropped, no padding. `[E, T]` bool, E of this device.

    Args:
        indices_TN: `local_indices`.
    """
    is_mine_ET = jnp.any(indices_TN[None] == jnp.arange(num_local(num_experts)).reshape(-1, 1, 1), axis=-1)
    return is_mine_ET if mask_T is None else is_mine_ET & (mask_T > 0)[None]


def run_assigned(experts, x_TD, gates_TN, assigned: dispatch.Assignment):
    """As many rows for each expert: one batched product. Each device sends every other the rows of its experts.

    Returns: (`[T, D]`, `OutsideGrid` or None).
    """
    rows_RD = dispatch.dispatch(x_TD, assigned, gates_TN.shape[-1])
    num_experts = assigned.group_sizes_E.shape[0]
    is_filled_ER, rows_ERD = (
        sharding.all_to_all(rows.reshape(num_experts, rows.shape[0] // num_experts, *rows.shape[1:]), "expert")
        for rows in (dispatch.has_choice(assigned), rows_RD)
    )
    rows_ERD, outside_E = jax.vmap(_run_one)(experts, rows_ERD, is_filled_ER)
    rows_RD = sharding.all_to_all_back(rows_ERD, "expert").reshape(rows_RD.shape)
    return dispatch.combine(rows_RD, gates_TN, assigned), jax.tree.map(jnp.sum, outside_E)


def run_on_all_devices(strategy, experts, num_experts, x_TD, gates_TN, indices_TN, mask_T):
    """All devices along `expert` see the same tokens, and each runs its own experts on them.

    Args:
        strategy: one of `moe.DISPATCHES`.
    Returns: (`[T, D]` of this device's tokens, `OutsideGrid` or None).
    """
    x_TD, gates_TN, indices_TN, mask_T = jax.tree.map(
        lambda a: sharding.all_gather(a, "expert"), (x_TD, gates_TN, indices_TN, mask_T)
    )
    run = {"sorted": _run_sorted, "dense": _run_dense}[strategy]
    y_TD, outside = run(experts, num_experts, x_TD, gates_TN, local_indices(indices_TN, num_experts), mask_T)
    return sharding.reduce_scatter(y_TD, "expert"), outside


def _run_sorted(experts, num_experts, x_TD, gates_TN, indices_TN, mask_T):
    assigned = dispatch.assign(indices_TN, num_local(num_experts))
    rows_RD = dispatch.dispatch(x_TD, assigned, indices_TN.shape[-1])
    mask_R = None if mask_T is None else jnp.take(mask_T, assigned.order_R // indices_TN.shape[-1])
    if sharding.is_per_device():  # rows of experts elsewhere
        is_mine_R = jnp.arange(len(rows_RD)) < assigned.group_sizes_E.sum()
        mask_R = (1 if mask_R is None else mask_R) * is_mine_R
    rows_RD, outside = experts(rows_RD, assigned.group_sizes_E, mask_R)
    return dispatch.combine(rows_RD, gates_TN, assigned), outside


def fit_one_stack(experts, shared) -> bool:
    """Whether routed and shared experts, if any, are all on this device, and alike but for their numbers."""
    if sharding.size("expert") > 1:
        return False
    return shared is None or _static_parts(experts) == _static_parts(shared)


def _static_parts(module):
    """Each module's type and what it holds besides modules and variables, in the order of their paths."""

    def of_one(part):
        held = {name: value for name, value in vars(part).items() if not name.startswith("_")}
        return type(part), {k: v for k, v in held.items() if not isinstance(v, nnx.Module | nnx.Variable)}

    return [of_one(part) for _, part in nnx.iter_graph(module) if isinstance(part, nnx.Module)]


def run_dense(experts, shared, num_experts, x_TD, gates_TN, indices_TN, mask_T):
    """Every expert of this device on all tokens that it is given, and the shared ones, which all tokens choose.

    Args:
        shared: None, one feed-forward, or several stacked ones.
    Returns: (`[T, D]`, `OutsideGrid` or None).
    """
    gates_TE = _by_expert(gates_TN, indices_TN, num_local(num_experts))
    chosen_TE = chosen(indices_TN, num_experts, mask_T).T
    if shared is not None:
        experts = _beside(experts, shared)
        extra = jax.tree.leaves(experts)[0].shape[0] - gates_TE.shape[1]
        gates_TE, chosen_TE = (jnp.pad(a, ((0, 0), (0, extra)), constant_values=1) for a in (gates_TE, chosen_TE))
        if mask_T is not None:
            chosen_TE = chosen_TE & (mask_T > 0)[:, None]
    return experts.weighted_sum(x_TD, gates_TE, chosen_TE)


def _beside(experts, shared):
    """One stack of both."""
    leaves, structure = jax.tree.flatten(experts)
    pairs = zip(leaves, jax.tree.leaves(shared), strict=True)
    # A single one has no leading dimension.
    return jax.tree.unflatten(structure, [jnp.concatenate([a, b.reshape(-1, *a.shape[1:])]) for a, b in pairs])


def _run_dense(experts, num_experts, x_TD, gates_TN, indices_TN, mask_T):
    return run_dense(experts, None, num_experts, x_TD, gates_TN, indices_TN, mask_T)


def _by_expert(gates_TN, indices_TN, num_experts):
    """The gate that each token has for each expert, 0 where it did not choose it: `[T, E]`."""
    is_choice_TNE = indices_TN[..., None] == jnp.arange(num_experts).reshape(1, 1, -1)
    return jnp.sum(jnp.where(is_choice_TNE, gates_TN[..., None], 0), axis=1)


def _run_one(expert, x_RD, row_mask_R):
    return expert(x_RD, row_mask=row_mask_R)
