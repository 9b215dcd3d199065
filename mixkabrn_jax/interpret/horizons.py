"""How far back the heads of a retention see, in tokens."""

import jax
import jax.numpy as jnp

from mixkabrn_jax.interpret.inputs import Inputs, blocks
from mixkabrn_jax.models.language import LanguageModel


def horizons(model: LanguageModel, read: Inputs) -> jax.Array:
    """Tokens until a head holds 1/e of what it held, were each token's decay to go on: `[L, B, T, H]`.

    Constant decays have the same at every token. Logarithms of decays add up along a text, so over a stretch of it a
    head's horizon is the harmonic mean of these.

    Raises: ValueError for attention, which forgets nothing.
    """
    if model.config.mixer != "retention":
        raise ValueError(f"mixer={model.config.mixer!r} has no decay: 'retention' is needed")
    shape = *read.mixer_LBTD.shape[1:3], model.config.num_heads
    pairs = zip(blocks(model), read.mixer_LBTD, strict=True)
    decays = [block.mixer.log_decay(x_BTD) for block, x_BTD in pairs]
    decays = [decay if decay.ndim == 3 else decay.reshape(1, 1, -1) for decay in decays]
    return -1 / jnp.stack([jnp.broadcast_to(decay, shape) for decay in decays])
