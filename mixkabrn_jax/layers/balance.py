"""How evenly a mixture's tokens fell on its experts: for losses and for the log."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixkabrn_jax import sharding
from mixkabrn_jax.ops import dispatch, routing


class Balance(NamedTuple):
    """What routing did, over all devices. Padding is left out; the losses come before any coefficient."""

    load_E: jax.Array
    """Choices that fell on each expert, dropped ones too; of this device's tokens."""
    loss: jax.Array
    """Expert-level balance loss over all tokens, 1 when balanced."""
    sequence_loss: jax.Array
    """The same within each row of the batch, as a mean over rows."""
    device_loss: jax.Array
    """Device-level balance loss over all tokens, 1 when balanced."""
    z_loss: jax.Array
    """Mean square of the logits' logsumexp."""
    dropped: jax.Array
    """Share of choices beyond their expert's capacity; exactly 0 when dropless."""


def balance_of(config, logits_BTE, indices_BTN, mask_BT, assigned: dispatch.Assignment | None) -> Balance:
    """The `Balance` of one mixture of experts.

    Args:
        config: `MoeConfig`.
        logits_BTE, indices_BTN: of the router, before anything is dropped.
        mask_BT: 0 leaves a position out, or None.
        assigned: which row each choice got where experts have a capacity, else None.
    """
    score_BTE = routing.scores(logits_BTE, config.router.score)
    load_E = routing.load(indices_BTN, config.num_experts, mask_BT)
    best_BTN = jax.lax.top_k(jax.lax.stop_gradient(score_BTE), config.experts_per_token)[1]
    return Balance(
        load_E=load_E,
        loss=routing.balance_loss(score_BTE, indices_BTN, mask_BT, sharding.psum),
        sequence_loss=routing.sequence_balance_loss(
            score_BTE, best_BTN, mask_BT, partial(sharding.psum, axes=("context",))
        ),
        device_loss=routing.device_balance_loss(
            score_BTE, indices_BTN, config.router.device_groups, mask_BT, sharding.psum
        ),
        z_loss=routing.z_loss(logits_BTE, mask_BT),
        dropped=_dropped(load_E, assigned),
    )


def _dropped(load_E, assigned):
    if assigned is None:
        return jnp.zeros(())
    num_kept = jnp.sum(dispatch.has_row(assigned).astype(jnp.float32))
    dropped = 1 - num_kept / jnp.maximum(jnp.sum(load_E), 1)
    return jnp.where(jnp.sum(load_E) > 0, dropped, 0)
