"""The loss of each target; sums and counts of them make means over any split of the data agree."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, targets: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """Negative log likelihood of each target in nats.

    Args:
        logits: `[B, T, W]`; targets: int `[B, T]`; loss_mask: `[B, T]`, 0 leaves a target out.
    Returns: `[B, T]` float32. Divide its sum by that of the mask for nats per token.
    """
    logits = logits.astype(jnp.float32)
    target_logit_BT = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nats_BT = jax.nn.logsumexp(logits, axis=-1) - target_logit_BT
    return nats_BT * loss_mask
