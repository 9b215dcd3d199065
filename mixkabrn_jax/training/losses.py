"""Losses as sums and counts, so that means over any split of the data agree."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, targets: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """Total negative log likelihood in nats.

    Args:
        logits: `[B, T, W]`; targets: int `[B, T]`; loss_mask: `[B, T]`, 0 leaves a target out.
    Returns: `[]` float32. Divide by the sum of the mask for nats per token.
    """
    return jnp.sum(token_nats(logits, targets) * loss_mask)


def token_nats(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Negative log likelihood of each target in nats: float32 `[B, T]`, of logits `[B, T, W]`."""
    logits = logits.astype(jnp.float32)
    target_logit_BT = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - target_logit_BT
