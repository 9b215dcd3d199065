"""From logits to the next token."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    First the repetition penalty changes the logits, then the temperature divides them; filters apply in the order of
    the fields, each to what the ones before left.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest most likely tokens whose probabilities reach p together (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Keep tokens at least min_p times as likely as the most likely one (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """Of tokens that the row has seen, positive logits are divided by it and others multiplied (Keskar et al. 2019,
    sec. 4.1): above 1 makes them rarer, 1 changes nothing."""

    def __post_init__(self):
        if self.temperature != 0 and not 1e-3 <= self.temperature < float("inf"):  # logits over it stay finite
            raise ValueError(f"temperature={self.temperature}: 0, or 0.001 and more, is needed")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: 0 (all) or more is needed")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: more than 0 and at most 1 is needed")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p}: 0 to 1 is needed")
        if not 0.01 <= self.repetition_penalty <= 100:  # logits stay far from float32's largest number
            raise ValueError(f"repetition_penalty={self.repetition_penalty}: 0.01 to 100 is needed")


def sample(keys_B: jax.Array, logits: jax.Array, sampling: Sampling, seen_BW: jax.Array | None = None) -> jax.Array:
    """Draws a token for each row: the one in whose share, of all shares side by side, a uniform number falls.

    One number a row, not one a token as `jax.random.categorical` draws: `mixkabrn_run` draws the same.

    Args:
        keys_B: one for each row, so that what is drawn for it does not depend on the other rows.
        logits: `[B, W]`.
        seen_BW: bool, the tokens that the repetition penalty is for; None for no token.
    Returns: int32 `[B]`. The most likely token is never filtered out.
    """
    if seen_BW is not None:
        logits = penalized(logits, seen_BW, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    weights_BW = jax.nn.softmax(filtered(logits, sampling), axis=-1)
    reach_BW = jnp.cumsum(weights_BW, axis=-1)
    place_B1 = jax.vmap(lambda key: jax.random.uniform(key, (1,)))(keys_B) * reach_BW[:, -1:]
    last_B = logits.shape[-1] - 1 - jnp.argmax(weights_BW[:, ::-1] > 0, axis=-1)  # rounding may reach beyond
    return jnp.minimum(jnp.sum(reach_BW <= place_B1, axis=-1), last_B).astype(jnp.int32)


def penalized(logits: jax.Array, seen_BW: jax.Array, penalty: float) -> jax.Array:
    """Logits `[B, W]`, those of seen tokens lowered by a penalty above 1 (Keskar et al. 2019, sec. 4.1)."""
    logits = logits.astype(jnp.float32)
    return jnp.where(seen_BW, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def filtered(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits `[B, W]` over the temperature, with -inf for the tokens that the filters leave out."""
    logits = logits.astype(jnp.float32) / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        threshold = jax.lax.top_k(logits, sampling.top_k)[0][..., -1:]
        logits = jnp.where(logits >= threshold, logits, -jnp.inf)
    if sampling.top_p < 1:
        order = jnp.argsort(-logits, axis=-1)
        probability = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        rank = jnp.argsort(order, axis=-1)
        logits = jnp.where(jnp.take_along_axis(before, rank, axis=-1) < sampling.top_p, logits, -jnp.inf)
    if sampling.min_p > 0:
        floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(sampling.min_p)
        logits = jnp.where(logits >= floor, logits, -jnp.inf)
    return logits
