"""Text from a trained model: a chunkwise pass over the prompt, then one recurrent step a token."""

from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mixkabrn_jax.inference.sampling import Sampling, sample
from mixkabrn_jax.models.language import LanguageModel

STRIDE = 32  # tokens per trip to the device: enough to hide the trip, few enough to stream
NUM_SEEDS = 1 << 32  # as many as jax.random.key tells apart


def generate(
    model: LanguageModel,
    prompt: np.ndarray,
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int | Sequence[int],
    stop_token: int | None = None,
    mask: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Returns an iterator over the continuation, token by token.

    The same model, prompt, sampling and seed give the same tokens, however many are asked for. A row is written as it
    would be alone with its seed, to rounding, unless the model's experts have a capacity, for which rows compete.

    Args:
        prompt: int `[B, T]`, T >= 1.
        max_tokens: at most so many tokens a row.
        seed: one for each row; or a number, and row i has the seed `seed + i`, so that equal prompts are drawn apart.
        stop_token: a row that has drawn it goes on drawing it; when all rows have, generation ends. The stop tokens
            themselves are included, and are never penalized as repeated. None never stops.
        mask: `[B, T]` or None; 0 at padding, left or right, where rows are shorter than T.
    Returns: int32 arrays `[B]`, the next token of each row.
    Raises: ValueError, at the call, for an empty prompt, a mask that leaves a row without a token or does not fit, a
        negative number of tokens, or seeds that are too many, too few, or not 0 to 2^32 - 1.
    """
    check_prompt(prompt, mask)
    if max_tokens < 0:
        raise ValueError(f"max_tokens={max_tokens}: 0 or more is needed")
    return _stream(model, prompt, max_tokens, sampling, _seeds(seed, len(prompt)), stop_token, mask)


def check_prompt(prompt: np.ndarray, mask: np.ndarray | None) -> None:
    """Raises: ValueError for a prompt or a mask that `generate` does not take."""
    if prompt.ndim != 2 or not prompt.size:
        raise ValueError(f"prompt of shape {prompt.shape}: [B, T] with at least one token in each row is needed")
    if mask is not None and (mask.shape != prompt.shape or not (mask > 0).any(axis=1).all()):
        raise ValueError(f"mask of shape {mask.shape}: {prompt.shape} with at least one token in each row is needed")


def _seeds(seed, batch_size):
    """One of each row, uint32 `[B]`."""
    given = [seed] if np.ndim(seed) == 0 else list(seed)
    for each in given:
        if not 0 <= each < NUM_SEEDS:
            raise ValueError(f"seed={each}: 0 to {NUM_SEEDS - 1} is needed")
    if np.ndim(seed) == 0:
        given = [(seed + row) % NUM_SEEDS for row in range(batch_size)]
    if len(given) != batch_size:
        raise ValueError(f"seed={given}: one number, or one for each of the {batch_size} rows, is needed")
    return np.array(given, np.uint32)


def _stream(model, prompt, max_tokens, sampling, seeds_B, stop_token, mask):
    max_length = prompt.shape[1] + in_strides(max_tokens)
    logits_BW, state = prefill(model, jnp.asarray(prompt, jnp.int32), mask, max_length)
    seen_BW = None if sampling.repetition_penalty == 1 else _seen(prompt, mask, model.vocab_size, stop_token)
    carry = logits_BW, state, jnp.zeros(len(prompt), bool), seen_BW
    keys_B = jax.vmap(jax.random.key)(seeds_B)
    for start in range(0, max_tokens, STRIDE):
        carry, tokens_TB = _decode(model, carry, keys_B, start, sampling, stop_token)
        for token_B in np.asarray(tokens_TB)[: max_tokens - start]:
            yield token_B
            if stop_token is not None and (token_B == stop_token).all():
                return


def in_strides(max_tokens: int) -> int:
    """The steps that are made for so many tokens: the last stride may run past them."""
    return -(-max_tokens // STRIDE) * STRIDE


def _seen(prompt, mask, vocab_size, stop_token):
    """Which tokens each row's prompt holds, the stop token not among them: bool `[B, W]`."""
    rows, times = np.nonzero(np.ones_like(prompt) if mask is None else mask > 0)
    seen_BW = np.zeros((len(prompt), vocab_size), bool)
    seen_BW[rows, prompt[rows, times]] = True
    if stop_token is not None:
        seen_BW[:, stop_token] = False
    return seen_BW


@partial(jax.jit, static_argnums=3)
def prefill(model: LanguageModel, prompt_BT, mask_BT, max_length: int):
    """Reads prompts of the shape that `generate` takes. Returns (logits of the next token `[B, W]`, state)."""
    batch_size, length = prompt_BT.shape
    output = model(prompt_BT, model.init_state(batch_size, max_length), mask_BT=mask_BT)
    last_B = jnp.full(batch_size, length - 1)
    if mask_BT is not None:
        last_B = last_B - jnp.argmax(mask_BT[:, ::-1] > 0, axis=1)
    return output.logits_BTW[jnp.arange(batch_size), last_B], output.state


@partial(jax.jit, static_argnums=(4, 5))
def _decode(model, carry, keys_B, start, sampling, stop_token):
    """A stride of steps. Returns (carry, tokens `[STRIDE, B]`)."""
    row_B = jnp.arange(len(keys_B))

    def one(carry, index):
        logits_BW, state, stopped_B, seen_BW = carry
        drawn_B = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys_B)
        token_B = sample(drawn_B, logits_BW, sampling, seen_BW)
        if stop_token is not None:
            token_B = jnp.where(stopped_B, stop_token, token_B)
            stopped_B = stopped_B | (token_B == stop_token)
        if seen_BW is not None:
            seen_BW = seen_BW.at[row_B, token_B].set(~stopped_B)
        logits_BW, state = model.step(token_B, state)
        return (logits_BW, state, stopped_B, seen_BW), token_B

    return jax.lax.scan(one, carry, start + jnp.arange(STRIDE))
