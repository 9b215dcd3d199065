"""Many prompts continued side by side, each until one of its stops."""

from collections.abc import Iterator, Sequence

import numpy as np

from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.inference import beam
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
    *,
    max_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    stop: Sequence[bytes] = (),
) -> list[bytes]:
    """What the model writes behind each prompt, until a stop, the end of the document or `max_tokens` tokens.

    Prompts of about the same length go together, filled up in front, so that few programs are compiled.

    Args:
        seeds: one of each prompt: it is continued as it would be alone, see `generate`.
        stop: of a continuation only what stands before the first of these is returned.
    Raises: ValueError for an empty stop, and as `generate`.
    """
    if b"" in stop:
        raise ValueError("stop: an empty text would stop everything; leave it out")
    found = [b""] * len(prompts)
    for group, rows, tokens_BT, mask_BT in _batches(tokenizer, prompts):
        options = {"max_tokens": max_tokens, "sampling": sampling, "seed": [seeds[index] for index in rows]}
        steps = generate(model, tokens_BT, stop_token=tokenizer.separator, mask=mask_BT, **options)
        for index, text in zip(group, _until(steps, len(group), tokenizer, stop), strict=True):
            found[index] = text
    return found


def search(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[bytes], *, num_beams: int, max_tokens: int
) -> list[bytes]:
    """The best of what a beam search finds behind each prompt, until the end of the document.

    Raises: as `beam.search`.
    """
    found = [b""] * len(prompts)
    for group, _, tokens_BT, mask_BT in _batches(tokenizer, prompts):
        options = {"num_beams": num_beams, "max_tokens": max_tokens, "stop_token": tokenizer.separator}
        # Of a row that is a copy, nothing is kept.
        for index, hypotheses in zip(group, beam.search(model, tokens_BT, mask=mask_BT, **options), strict=False):
            found[index] = b"".join(tokenizer.piece(int(token)) for token in hypotheses[0].tokens)
    return found


def _batches(tokenizer, prompts) -> Iterator[tuple[list[int], list[int], np.ndarray, np.ndarray]]:
    """(prompts by their place, those of all rows, tokens `[B, T]`, mask): those of about one length go together."""
    encoded = [encode(tokenizer, prompt, f"prompt {number}") for number, prompt in enumerate(prompts, 1)]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    for start in range(0, len(order), BATCH_SIZE):
        group = order[start : start + BATCH_SIZE]
        rows = [*group, *[group[-1]] * (BATCH_SIZE - len(group))]  # missing ones are copies
        yield group, rows, *pad([encoded[index] for index in rows])


def encode(tokenizer: Tokenizer, prompt: bytes, name: str) -> np.ndarray:
    """A prompt as the beginning of a document, int32 `[T]`; `name` says in messages which one it is."""
    return np.concatenate([[tokenizer.separator], tokenizer.encode(prompt, name)]).astype(np.int32)


def pad(encoded: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(tokens `[B, T]`, mask) of prompts, filled up in front to a power of two, so that few shapes are compiled."""
    longest = max(len(tokens) for tokens in encoded)
    length = max(1 << (longest - 1).bit_length(), _SHORTEST)
    tokens_BT = np.zeros((len(encoded), length), np.int32)
    mask_BT = np.zeros((len(encoded), length), np.int32)
    for row, tokens in enumerate(encoded):
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
            # The stop that is whole first, as if the text had come byte by byte; of two, the longer one.
            places = [(place + len(text), place) for text in stop if (place := texts[row].find(text)) >= 0]
            if places:
                texts[row] = texts[row][: min(places)[1]]
            is_done[row] = bool(places) or token == tokenizer.separator
        if all(is_done):
            break
    return texts
