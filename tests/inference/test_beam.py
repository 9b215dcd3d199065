import functools
import itertools

import jax
import numpy as np
import pytest

from mixkabrn_jax.inference import beam
from mixkabrn_jax.inference import generate as generation
from mixkabrn_jax.inference.sampling import Sampling
from tests import reference, toy

W, STOP, LENGTH = 4, 3, 3
MIXERS = ("retention", "attention")
PROMPT = toy.tokens(1, 2, 5, vocab_size=STOP)


@functools.cache
def model(mixer):
    return toy.make(toy.model_config(mixer=mixer, ffn="mlp", num_experts=0), seed=1, vocab_size=W)


forward = jax.jit(lambda model, tokens: model(tokens).logits_BTW)


@functools.cache
def log_p(mixer, row):
    """Log probabilities of the next token behind each continuation of the prompt, float64, of whole passes."""
    whole = list(itertools.product(range(W), repeat=LENGTH))
    logits = forward(model(mixer), np.array([[*PROMPT[row], *continuation] for continuation in whole]))
    shares = np.log(reference.softmax(np.asarray(logits, np.float64)))
    last = PROMPT.shape[1] - 1
    return {each[:t]: shares[i, last + t] for i, each in enumerate(whole) for t in range(LENGTH)}


def score(mixer, row, sequence, length_penalty):
    """Wu et al. 2016, eq. 14: log P(Y) / lp(Y)."""
    total = sum(log_p(mixer, row)[sequence[:t]][token] for t, token in enumerate(sequence))
    return total / ((5 + len(sequence)) ** length_penalty / (5 + 1) ** length_penalty)


def extensions(sequence, stop_token):
    if sequence and sequence[-1] == stop_token:
        return [sequence]
    return [(*sequence, token) for token in range(W)]


def slow_search(mixer, row, num_beams, length_penalty, stop_token):
    """(sequence, score), best first: lists in place of arrays, whole passes in place of states."""
    kept = [()]
    for _ in range(LENGTH):
        kept = [longer for sequence in kept for longer in extensions(sequence, stop_token)]
        kept = sorted(kept, key=lambda sequence: -score(mixer, row, sequence, length_penalty))[:num_beams]
    return [(sequence, score(mixer, row, sequence, length_penalty)) for sequence in kept]


def assert_same(found, want, stop_token):
    for (tokens, got), (sequence, exact) in zip(found, want, strict=True):
        assert tokens.tolist() == [token for token in sequence if token != stop_token]
        assert got == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("mixer", "length_penalty", "stop_token"),
    [("retention", 0.6, STOP), ("retention", 0.0, STOP), ("retention", 1.0, None), ("attention", 0.6, STOP)],
)
def test_as_many_beams_as_there_are_continuations_find_the_best_of_all(mixer, length_penalty, stop_token):
    options = {"max_tokens": LENGTH, "length_penalty": length_penalty, "stop_token": stop_token}
    found = beam.search(model(mixer), PROMPT, num_beams=W**LENGTH, **options)
    for row in range(2):
        every = {()}
        for _ in range(LENGTH):
            every = {longer for sequence in every for longer in extensions(sequence, stop_token)}
        scored = [(sequence, score(mixer, row, sequence, length_penalty)) for sequence in every]
        assert_same(found[row], sorted(scored, key=lambda pair: -pair[1]), stop_token)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_narrow_search_keeps_what_the_definition_keeps(mixer):
    found = beam.search(model(mixer), PROMPT, num_beams=3, max_tokens=LENGTH, stop_token=STOP)
    for row in range(2):
        assert_same(found[row], slow_search(mixer, row, 3, 0.6, STOP), STOP)


@pytest.mark.parametrize("mixer", MIXERS)
def test_one_beam_is_greedy_decoding_and_prompts_of_other_lengths_change_nothing(mixer):
    tiny = toy.make(toy.model_config(mixer=mixer, ffn="mlp", num_experts=0))
    prompt, mask, number = toy.tokens(1, 3, 9), np.ones((3, 9), np.int32), generation.STRIDE + 3
    mask[0, :4], mask[1, 5:] = 0, 0
    options = {"max_tokens": number, "sampling": Sampling(temperature=0.0), "seed": 0, "mask": mask}
    greedy = np.array(list(generation.generate(tiny, prompt, **options))).T
    stop = int(greedy[0, 12])
    for stop_token in (None, stop):
        found = beam.search(tiny, prompt, num_beams=1, max_tokens=number, stop_token=stop_token, mask=mask)
        for row, (best,) in enumerate(found):
            ends = np.flatnonzero(greedy[row] == stop_token)
            np.testing.assert_array_equal(best.tokens, greedy[row, : ends[0]] if len(ends) else greedy[row])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_beams": 0}, "num_beams=0: 1 or more"),
        ({"max_tokens": 0}, "max_tokens=0: 1 or more"),
        ({"length_penalty": -1.0}, r"length_penalty=-1.0: 0 or more"),
        ({"mask": np.zeros((2, 5))}, "at least one token in each row"),
    ],
)
def test_what_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        beam.search(model("retention"), PROMPT, **{"num_beams": 2, "max_tokens": 2} | changes)
