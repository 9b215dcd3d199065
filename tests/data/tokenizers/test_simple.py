"""Tokens to text and back."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.documents import Document

TEXT = "Naïve — “quoted” 🎭, 你好\r\n"
CONTENT = TEXT.encode("utf-8")


def _characters(content):
    return tokenizers.Characters.from_documents([Document(content, "", "t")])


@given(st.text())
@settings(max_examples=200)
def test_any_text_survives_bytes_and_characters(text):
    content = text.encode("utf-8")
    assert tokenizers.Bytes().decode(tokenizers.Bytes().encode(content)) == text
    if text:
        tokenizer = _characters(content)
        assert tokenizer.decode(tokenizer.encode(content)) == text


@given(st.binary())
def test_bytes_are_their_own_tokens_whatever_they_are(content):
    tokens = tokenizers.Bytes().encode(content)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == list(content)
    assert tokenizers.Bytes().decode(tokens) == content.decode("utf-8", "replace")


def test_the_separator_is_the_last_token_and_has_no_text():
    for tokenizer in (tokenizers.Bytes(), _characters(CONTENT)):
        assert tokenizer.separator == tokenizer.vocab_size - 1
        tokens = [tokenizer.separator, *tokenizer.encode(CONTENT), tokenizer.separator]
        assert tokenizer.decode(tokens) == TEXT
    assert tokenizers.Bytes().vocab_size == 257
    assert _characters(CONTENT).vocab_size == len(set(TEXT)) + 1


def test_characters_are_numbered_in_sorted_order_over_all_documents():
    tokenizer = tokenizers.Characters.from_documents([Document(b"cab", "", "1"), Document("é\n".encode(), "", "2")])
    assert tokenizer.encode("\nabcé".encode()).tolist() == [0, 1, 2, 3, 4]
    assert tokenizer.encode(b"a").dtype == np.int32


@given(st.text(min_size=1))
def test_the_bytes_of_the_tokens_add_up_to_the_bytes_of_the_text(text):
    content = text.encode("utf-8")
    for tokenizer in (tokenizers.Bytes(), _characters(content)):
        assert tokenizer.num_bytes_W.dtype == np.int32
        assert tokenizer.num_bytes_W.shape == (tokenizer.vocab_size,)
        assert tokenizer.num_bytes_W[tokenizer.encode(content)].sum() == len(content)
        assert tokenizer.num_bytes_W[tokenizer.separator] == 0


def test_bytes_that_are_no_utf8_are_replaced_and_counted_with_the_document_named(caplog):
    content = b"\xffab\xc3(\xef\xbf\xbd)"  # two places that are not UTF-8, and one honest U+FFFD
    tokenizer = _characters(content)
    assert not caplog.records
    assert tokenizer.decode(tokenizer.encode(content, "old.txt")) == "�ab�(�)"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == "'old.txt' is not UTF-8: 2 places replaced by U+FFFD"


def test_valid_text_is_encoded_without_a_word(caplog):
    tokenizer = _characters("�é".encode())
    tokenizer.encode("�é".encode(), "fine.txt")
    assert not caplog.records


def test_an_unknown_character_is_named_with_its_position():
    tokenizer = _characters("abcé".encode())
    for text, character in (("aéx", "x"), ("aéA", "A"), ("aé你", "你"), ("aé\0", "\0")):
        with pytest.raises(ValueError, match=re.escape(f"character {character!r} at position 2 of new.txt")):
            tokenizer.encode(text.encode(), "new.txt")


def test_a_token_outside_the_vocabulary_is_named():
    for tokenizer in (tokenizers.Bytes(), _characters(b"ab")):
        for token in (-1, tokenizer.vocab_size):
            with pytest.raises(ValueError, match=f"token {token} is not one of the {tokenizer.vocab_size} tokens"):
                tokenizer.decode([token])


@given(st.text(min_size=1))
def test_a_tokenizer_survives_its_json_file(text):
    content = text.encode("utf-8")
    for tokenizer in (tokenizers.Bytes(), _characters(content)):
        again = tokenizers.from_json(json.loads(json.dumps(tokenizer.to_json())))
        assert type(again) is type(tokenizer)
        assert again.vocab_size == tokenizer.vocab_size
        assert again.encode(content).tolist() == tokenizer.encode(content).tolist()


def test_a_json_record_of_another_form_is_refused():
    for record in (
        {},
        {"name": "bpe"},
        {"name": "characters"},
        {"name": "characters", "characters": ["a"]},
        {"name": "bytes", "characters": "ab"},
        {"name": "characters", "characters": "ab", "size": 2},
    ):
        with pytest.raises(ValueError, match="describes no tokenizer"):
            tokenizers.from_json(record)
    for characters in ("", "ba", "aa"):
        with pytest.raises(ValueError, match="distinct characters in sorted order"):
            tokenizers.from_json({"name": "characters", "characters": characters})


@given(st.text(min_size=1))
@settings(max_examples=200)
def test_a_stream_is_decoded_to_whole_characters_as_soon_as_they_are_complete(text):
    content = text.encode("utf-8")
    for tokenizer in (tokenizers.Bytes(), _characters(content)):
        decoder = tokenizer.stream_decoder()
        tokens = tokenizer.encode(content)
        pieces = [decoder.decode(token) for token in tokens]
        assert "".join(pieces) == text
        assert decoder.finish() == ""
        ends = np.cumsum([len(character.encode()) for character in text])
        complete = np.searchsorted(ends, np.cumsum(tokenizer.num_bytes_W[tokens]), side="right")
        assert np.cumsum([len(piece) for piece in pieces]).tolist() == complete.tolist()


@given(st.lists(st.integers(0, 256)))
@settings(max_examples=200)
def test_a_stream_of_any_tokens_reads_as_the_whole_does(tokens):
    tokenizer = tokenizers.Bytes()
    decoder = tokenizer.stream_decoder()
    assert "".join([*(decoder.decode(token) for token in tokens), decoder.finish()]) == tokenizer.decode(tokens)


def test_a_character_cut_short_is_replaced_at_the_end_of_the_stream():
    decoder = tokenizers.Bytes().stream_decoder()
    assert [decoder.decode(token) for token in "你".encode()[:2]] == ["", ""]
    assert decoder.finish() == "�"
