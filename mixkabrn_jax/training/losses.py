"""The loss of each target; sums and counts of them make means over any split of the data agree."""

import jax
import jax.numpy as jnp


def token_nats(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross entropy: the negative log likelihood of each target in nats.

    Args:
        logits: `[B, T, W]`; targets: int `[B, T]`.
    Returns: `[B, T]` float32. Multiply it by the loss mask, and divide the sum by the mask's for nats per token.
    """
    logits = logits.astype(jnp.float32)
    target_logit_BT = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - target_logit_BT
