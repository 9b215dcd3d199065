"""Many prompts continued side by side, each until one of its stops."""

from collections.abc import Sequence

import numpy as np

from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.inference.generate import generate
from mixkabrn_jax.inference.sampling import Sampling
from mixkabrn_jax.models.language import LanguageModel

BATCH_SIZE = 16
"""Prompts side by side: a step costs about the same for one as for so many."""
_SHORTEST = 16


def complete(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[bytes],
    max_tokens: int,
    stop: Sequence[bytes] = (),
    temperature: float = 0.0,
    seed: int = 0,
) -> list[bytes]:
    """What the model writes behind each prompt, until a stop, the end of the document or `max_tokens` tokens.

    Prompts of about the same length go together, filled up in front, so that few programs are compiled. With a
    temperature above 0 equal prompts get different continuations, and the same call the same ones.

    Args:
        stop: of a continuation only what stands before the first of these is returned.
        temperature: 0 takes the most likely token each time.
    Raises: ValueError for an empty stop.
    """
    if b"" in stop:
        raise ValueError("stop: an empty text would stop everything; leave it out")
    encoded = [np.concatenate([[tokenizer.separator], tokenizer.encode(prompt)]) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    found = [b""] * len(prompts)
    sampling = Sampling(temperature)
    for start in range(0, len(order), BATCH_SIZE):
        group = order[start : start + BATCH_SIZE]
        tokens_BT, mask_BT = _filled([encoded[index] for index in group])
        own_seed = int(np.random.SeedSequence([seed, start]).generate_state(1)[0])
        options = {"max_tokens": max_tokens, "sampling": sampling, "seed": own_seed, "mask": mask_BT}
        steps = generate(model, tokens_BT, stop_token=tokenizer.separator, **options)
        for index, text in zip(group, _until(steps, len(group), tokenizer, stop), strict=True):
            found[index] = text
    return found


def _filled(encoded):
    """(tokens `[B, T]`, mask) of at most `BATCH_SIZE` prompts: T is a power of two, missing rows are copies."""
    longest = max(len(tokens) for tokens in encoded)
    length = max(1 << (longest - 1).bit_length(), _SHORTEST)
    tokens_BT = np.zeros((BATCH_SIZE, length), np.int32)
    mask_BT = np.zeros((BATCH_SIZE, length), np.int32)
    for row in range(BATCH_SIZE):
        tokens = encoded[min(row, len(encoded) - 1)]
        tokens_BT[row, length - len(tokens) :] = tokens
        mask_BT[row, length - len(tokens) :] = 1
    return tokens_BT, mask_BT


def _until(steps, num_rows, tokenizer, stop):
    """The texts of the first rows, each up to its first stop; no more steps are taken than are needed."""
    texts, is_done = [b""] * num_rows, [False] * num_rows
    for token_B in steps:
        for row in range(num_rows):
            if is_done[row]:
                continue
            token = int(token_B[row])
            texts[row] += tokenizer.piece(token)
            places = [place for text in stop if (place := texts[row].find(text)) >= 0]
            if places:
                texts[row] = texts[row][: min(places)]
            is_done[row] = bool(places) or token == tokenizer.separator
        if all(is_done):
            break
    return texts
