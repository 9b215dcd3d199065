"""Beam search: of all continuations a likely one, found by keeping the best few at every token."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixkabrn_jax.inference import generate
from mixkabrn_jax.models import language
from mixkabrn_jax.models.language import LanguageModel


class Hypothesis(NamedTuple):
    """A continuation that the search ends with."""

    tokens: np.ndarray
    """int32 `[T]`, without the stop token."""
    score: float
    """Its log probability over the length penalty."""


def search(
    model: LanguageModel,
    prompt: np.ndarray,
    *,
    num_beams: int,
    max_tokens: int,
    length_penalty: float = 0.6,
    stop_token: int | None = None,
    mask: np.ndarray | None = None,
) -> list[list[Hypothesis]]:
    """The best continuations of each row that the search finds, the best one first.

    At every token the best `num_beams` hypotheses go on by log P / ((5 + length) / 6)^length_penalty (Wu et al. 2016,
    eq. 14, without its coverage), where the stop token counts. One that has ended keeps its place among them for as
    long as it is one of the best; when all have ended so has the search. One beam is greedy decoding.

    Args:
        prompt, mask: as for `generate.generate`.
        max_tokens: at most so many tokens a hypothesis, 1 or more.
        length_penalty: 0 prefers short texts, as probabilities do; 1 compares nearly by the mean of a token.
        stop_token: ends a hypothesis; None never does.
    Returns: for each row at most `num_beams`.
    Raises: ValueError for numbers out of range, and as `generate.generate` for prompt and mask.
    """
    generate.check_prompt(prompt, mask)
    for name, value in (("num_beams", num_beams), ("max_tokens", max_tokens)):
        if value < 1:
            raise ValueError(f"{name}={value}: 1 or more is needed")
    if not 0 <= length_penalty < float("inf"):
        raise ValueError(f"length_penalty={length_penalty}: 0 or more is needed")
    strides = []
    max_length = prompt.shape[1] + generate.in_strides(max_tokens)
    carry = _start(model, jnp.asarray(prompt, jnp.int32), mask, max_length, num_beams)
    for _ in range(0, max_tokens, generate.STRIDE):
        carry, kept = _extend(model, carry, length_penalty, stop_token)
        strides.append(jax.device_get(kept))
        if strides[-1].has_ended_BN[-1].all():
            break
    steps = _Kept(*(np.concatenate(parts)[:max_tokens] for parts in zip(*strides, strict=True)))
    return [_hypotheses(steps, row, stop_token) for row in range(len(prompt))]


class _Kept(NamedTuple):
    """What a step keeps: of each row the best hypotheses, each with the one before that it goes on from."""

    token_BN: jax.Array
    parent_BN: jax.Array
    score_BN: jax.Array
    has_ended_BN: jax.Array


@partial(jax.jit, static_argnums=(3, 4))
def _start(model, prompt_BT, mask_BT, max_length, num_beams):
    """(logits `[R, W]`, state, log P, length, whether ended `[B, N]`), R = B N: the first beam alone is there yet."""
    logits_BW, state = generate.prefill(model, prompt_BT, mask_BT, max_length)
    batch_size = len(prompt_BT)
    row_R = jnp.repeat(jnp.arange(batch_size), num_beams)
    log_p_BN = jnp.full((batch_size, num_beams), -jnp.inf).at[:, 0].set(0.0)
    length_BN, has_ended_BN = jnp.zeros(log_p_BN.shape, jnp.int32), jnp.zeros(log_p_BN.shape, bool)
    return logits_BW[row_R], language.reorder(state, row_R), log_p_BN, length_BN, has_ended_BN


@partial(jax.jit, static_argnums=3)
def _extend(model, carry, length_penalty, stop_token):
    """A stride of steps. Returns (carry, what each kept, with a leading dimension of time)."""

    def one(carry, _):
        logits_RW, state, log_p_BN, length_BN, has_ended_BN = carry
        batch_size, num_beams = log_p_BN.shape
        vocab_size = logits_RW.shape[-1]
        log_p_BNW = jax.nn.log_softmax(logits_RW).reshape(batch_size, num_beams, vocab_size)
        if stop_token is not None:
            ended_W = jnp.where(jnp.arange(vocab_size) == stop_token, 0.0, -jnp.inf)
            log_p_BNW = jnp.where(has_ended_BN[:, :, None], ended_W, log_p_BNW)
        log_p_BNW += log_p_BN[:, :, None]
        length_BN += ~has_ended_BN
        penalty_BN = ((5 + length_BN) / 6) ** length_penalty
        score_BN, choice_BN = jax.lax.top_k((log_p_BNW / penalty_BN[:, :, None]).reshape(batch_size, -1), num_beams)
        parent_BN, token_BN = choice_BN // vocab_size, choice_BN % vocab_size
        log_p_BN = jnp.take_along_axis(log_p_BNW.reshape(batch_size, -1), choice_BN, axis=1)
        length_BN, has_ended_BN = (jnp.take_along_axis(a, parent_BN, axis=1) for a in (length_BN, has_ended_BN))
        if stop_token is not None:
            has_ended_BN |= token_BN == stop_token
        row_R = (jnp.arange(batch_size)[:, None] * num_beams + parent_BN).reshape(-1)
        logits_RW, state = model.step(token_BN.reshape(-1), language.reorder(state, row_R))
        kept = _Kept(token_BN, parent_BN, score_BN, has_ended_BN)
        return (logits_RW, state, log_p_BN, length_BN, has_ended_BN), kept

    return jax.lax.scan(one, carry, length=generate.STRIDE)


def _hypotheses(steps, row, stop_token):
    """Those of a row, read from their last tokens to their first."""
    beams = np.arange(steps.token_BN.shape[-1])
    tokens = []
    for token_BN, parent_BN in zip(steps.token_BN[::-1], steps.parent_BN[::-1], strict=True):
        tokens.append(token_BN[row, beams])
        beams = parent_BN[row, beams]
    found = []
    for sequence, score in zip(np.stack(tokens[::-1], axis=1), steps.score_BN[-1, row], strict=True):
        ends = np.flatnonzero(sequence == stop_token) if stop_token is not None else ()
        if np.isfinite(score):  # else there were fewer continuations than beams
            found.append(Hypothesis(sequence[: ends[0]] if len(ends) else sequence, float(score)))
    return found
