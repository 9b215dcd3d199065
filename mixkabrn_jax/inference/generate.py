"""Text from a trained model: a chunkwise pass over the prompt, then one recurrent step a token."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mixkabrn_jax.inference.sampling import Sampling, sample
from mixkabrn_jax.models.language import LanguageModel

STRIDE = 32  # tokens per trip to the device: enough to hide the trip, few enough to stream


def generate(
    model: LanguageModel,
    prompt: np.ndarray,
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    stop_token: int | None = None,
    mask: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Returns an iterator over the continuation, token by token.

    The same model, prompt, sampling and seed give the same tokens, however many are asked for.

    Args:
        prompt: int `[B, T]`, T >= 1.
        max_tokens: at most so many tokens a row.
        stop_token: a row that has drawn it goes on drawing it; when all rows have, generation ends. The stop tokens
            themselves are included. None never stops.
        mask: `[B, T]` or None; 0 at padding, left or right, where rows are shorter than T.
    Returns: int32 arrays `[B]`, the next token of each row.
    Raises: ValueError, at the call, for an empty prompt, a mask that leaves a row without a token or does not fit, or
        a negative number of tokens.
    """
    if prompt.ndim != 2 or not prompt.size:
        raise ValueError(f"prompt of shape {prompt.shape}: [B, T] with at least one token in each row is needed")
    if max_tokens < 0:
        raise ValueError(f"max_tokens={max_tokens}: 0 or more is needed")
    if mask is not None and (mask.shape != prompt.shape or not (mask > 0).any(axis=1).all()):
        raise ValueError(f"mask of shape {mask.shape}: {prompt.shape} with at least one token in each row is needed")
    return _stream(model, prompt, max_tokens, sampling, seed, stop_token, mask)


def _stream(model, prompt, max_tokens, sampling, seed, stop_token, mask):
    # In full strides: the last one may run past max_tokens.
    max_length = prompt.shape[1] + -(-max_tokens // STRIDE) * STRIDE
    carry = _prefill(model, jnp.asarray(prompt, jnp.int32), mask, max_length)
    key = jax.random.key(seed)
    for start in range(0, max_tokens, STRIDE):
        carry, tokens_TB = _decode(model, carry, key, start, sampling, stop_token)
        for token_B in np.asarray(tokens_TB)[: max_tokens - start]:
            yield token_B
            if stop_token is not None and (token_B == stop_token).all():
                return


@partial(jax.jit, static_argnums=3)
def _prefill(model, prompt_BT, mask_BT, max_length):
    """Returns (logits of the next token `[B, W]`, state, which rows have stopped `[B]`)."""
    batch_size, length = prompt_BT.shape
    output = model(prompt_BT, model.init_state(batch_size, max_length), mask_BT=mask_BT)
    last_B = jnp.full(batch_size, length - 1)
    if mask_BT is not None:
        last_B = last_B - jnp.argmax(mask_BT[:, ::-1] > 0, axis=1)
    logits_BW = output.logits_BTW[jnp.arange(batch_size), last_B]
    return logits_BW, output.state, jnp.zeros(batch_size, bool)


@partial(jax.jit, static_argnums=(4, 5))
def _decode(model, carry, key, start, sampling, stop_token):
    """A stride of steps. Returns (carry, tokens `[STRIDE, B]`)."""

    def one(carry, index):
        logits_BW, state, stopped_B = carry
        token_B = sample(jax.random.fold_in(key, index), logits_BW, sampling)
        if stop_token is not None:
            token_B = jnp.where(stopped_B, stop_token, token_B)
            stopped_B = stopped_B | (token_B == stop_token)
        logits_BW, state = model.step(token_B, state)
        return (logits_BW, state, stopped_B), token_B

    return jax.lax.scan(one, carry, start + jnp.arange(STRIDE))
