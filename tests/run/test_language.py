"""Text in, text out: tokenizers as JAX's side has them, and drawing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.tokenizers import bpe
from mixkabrn_jax.inference.sampling import Sampling as JaxSampling
from mixkabrn_jax.inference.sampling import sample
from mixkabrn_run import arithmetic, tokenizer
from mixkabrn_run.sampling import Sampling, draw, uniform

TEXT = "The people's 12 hopes, don't they?  Café “naïve” 日本語 🎭\n\tand 3.5% of\u00a0it\r\n" * 40
PAIRS = bpe.train([Document(TEXT.encode(), "", "a text")], 300)
LETTERS = "ab'sdmt reL 12.,é日\u00a0\u2003🎭\x1c\x85²-\n\t\r"


@given(text=st.text(LETTERS, max_size=60))
def test_pairs_are_joined_as_the_library_joins_them(text):
    mine = _own()
    assert mine.encode(text) == PAIRS.encode(text.encode(), "a text").tolist()
    assert mine.decode(mine.encode(text)) == text.encode()


def _own():
    return tokenizer.from_record(PAIRS.to_json())


def test_bytes_and_characters():
    for theirs, text in ((tokenizers.Bytes(), "é\0x"), (tokenizers.Characters("abé"), "éab")):
        mine = tokenizer.from_record(theirs.to_json())
        assert (mine.vocab_size, mine.separator) == (theirs.vocab_size, theirs.separator)
        assert mine.encode(text) == theirs.encode(text.encode(), "a text").tolist()
        assert mine.decode(mine.encode(text)) == text.encode()
    with pytest.raises(ValueError, match="no token for 'xz'"):
        mine.encode("zax")


def test_a_tokenizer_of_another_kind_is_refused():
    record = PAIRS.to_json()
    record["tokenizer"] = record["tokenizer"] | {"normalizer": {"type": "NFC"}}
    with pytest.raises(ValueError, match="needs the library"):
        tokenizer.from_record(record)


def test_a_character_of_several_tokens_comes_whole():
    tokens = _own().encode("🎭")
    assert list(_own().texts(tokens)) == ["🎭"]
    assert list(_own().texts(tokens[:-1])) == ["�"]


def test_functions_are_what_they_are_called():
    x = np.linspace(-87, 88, 20001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(arithmetic.exp(x) / exact - 1)) < 2 * 2.0**-23
    np.testing.assert_array_equal(arithmetic.exp(np.float32([-1e9, 1e9])), arithmetic.exp(np.float32([-87, 88])))
    for value in (1e4, 2.0, 1 / 512, 0.3):
        assert abs(arithmetic.log64(value) - np.log(value)) < 1e-14 * max(1, abs(np.log(value)))
        assert abs(arithmetic.exp64(np.log(value)) / value - 1) < 1e-14
    turns = np.random.default_rng(0).uniform(0, 1e6, 1000)
    cos, sin = arithmetic.cos_and_sin(turns)
    np.testing.assert_allclose(cos, np.cos(2 * np.pi * (turns % 1)), atol=6e-8)
    np.testing.assert_allclose(sin, np.sin(2 * np.pi * (turns % 1)), atol=6e-8)


def test_draws_have_the_shares_of_the_softmax_and_filters_leave_out_the_rest():
    logits = np.float32([0.0, 1.0, -1.0, 2.0])
    share = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum()

    def counts(**changes):
        sampling = Sampling(**{"temperature": 1.0} | changes)
        return np.bincount([draw(logits, sampling, 7, i) for i in range(4000)], minlength=4) / 4000

    np.testing.assert_allclose(counts(), share, atol=0.03)
    kept = np.where(np.isin(np.arange(4), [1, 3]), share, 0)
    for changes in ({"top_k": 2}, {"top_p": 0.8}, {"min_p": 0.2}):
        np.testing.assert_allclose(counts(**changes), kept / kept.sum(), atol=0.03)
    assert draw(logits, Sampling(temperature=0), 0, 0) == 3


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_uniform_numbers_are_those_of_jax(seed):
    key = jax.random.key(seed)
    want = [jax.random.uniform(jax.random.fold_in(key, index), (1, 1))[0, 0] for index in (0, 1, 77)]
    np.testing.assert_array_equal([uniform(seed, index) for index in (0, 1, 77)], want)


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 1.5}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.3}, {"temperature": 0.0}]
)
def test_draws_are_those_of_jax(changes):
    logits = np.random.default_rng(0).normal(size=50).astype(np.float32) * 3
    theirs = JaxSampling(**{"temperature": 0.7} | changes)
    keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(5), index))(jnp.arange(200))
    want = jax.vmap(lambda key: sample(key[None], logits[None], theirs)[0])(keys)
    assert [draw(logits, Sampling(**{"temperature": 0.7} | changes), 5, index) for index in range(200)] == want.tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_penalized_draws_are_those_of_jax(temperature):
    logits = np.random.default_rng(0).normal(size=(200, 50)).astype(np.float32) * 3
    seen = np.random.default_rng(1).random((200, 50)) < 0.5
    keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(5), index))(jnp.arange(200))
    want = sample(keys, logits, JaxSampling(temperature, repetition_penalty=1.7), seen).tolist()
    mine = Sampling(temperature, repetition_penalty=1.7)
    assert [draw(logits[i], mine, 5, i, seen[i]) for i in range(200)] == want
    assert [draw(logits[i], Sampling(temperature), 5, i, seen[i]) for i in range(200)] != want


@pytest.mark.parametrize(
    "changes",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"min_p": 2.0}, {"repetition_penalty": 0.0}],
)
def test_impossible_sampling_is_refused(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))}=.*is needed"):
        Sampling(**changes)
