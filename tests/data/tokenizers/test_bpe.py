"""Tokenizers that are trained on the documents, and how they encode."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.sources import sotu
from mixkabrn_jax.data.tokenizers import bpe, subwords

ROOT = Path(__file__).parents[3]
SPEECH = next(iter(sotu.documents())).content
WHITE = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u180e\u2003\u2028\u202f\u3000"
# Little else than what words could be cut wrongly at.
SIGNS = WHITE + " \n" * 6 + "aaaThe1९Ⅷ'.<|你é\u0301🎭\0"
TANGLED = st.text(st.sampled_from(SIGNS), max_size=60)


def documents(*contents):
    return [Document(content, "", str(i)) for i, content in enumerate(contents)]


@pytest.fixture(scope="module")
def trained():
    return bpe.train(documents(SPEECH), 500)


@pytest.fixture(scope="module")
def tangled():
    """Whose tokens join whatever ever may be joined."""
    signs = np.random.default_rng(0).choice(list(SIGNS), 20_000)
    return bpe.train(documents("".join(signs).encode()), 3000)


def alone(tokenizer):
    """The library by itself, without anything that we put before it."""
    plain = library.Tokenizer.from_str(json.dumps(tokenizer.to_json()["tokenizer"]))
    plain.encode_special_tokens = True
    return lambda text: plain.encode(text, add_special_tokens=False).ids


@given(st.text() | TANGLED)
@settings(max_examples=100)
def test_any_text_comes_back_and_the_bytes_of_its_tokens_add_up_to_its_own(trained, text):
    content = text.encode()
    tokens = trained.encode(content)
    assert tokens.dtype == np.int32
    assert trained.decode(tokens) == text
    assert trained.num_bytes_W[tokens].sum() == len(content)
    assert b"".join(map(trained.piece, tokens)) == content


@given(TANGLED | st.text())
@settings(max_examples=150)
def test_words_are_encoded_as_the_library_encodes_the_whole_text(tangled, text):
    """Both when a word is met for the first time and when its tokens are remembered."""
    want = alone(tangled)(text)
    fresh = subwords.Subwords(tangled.to_json()["tokenizer"])
    for tokenizer in (fresh, fresh, tangled):
        assert tokenizer.encode(text.encode()).tolist() == want


@pytest.mark.parametrize("white", WHITE)
def test_white_space_of_any_kind_is_encoded_as_the_library_does(tangled, white):
    for text in (
        f"a{white} b",
        f"a{white} ",
        f"a {white}b",
        f"{white} a{white}",
        f"a{white}\n{white} b c",
        f"a. {white}",
    ):
        assert tangled.encode(f"x {text} y".encode()).tolist() == alone(tangled)(f"x {text} y")
        assert tangled.encode(text.encode()).tolist() == alone(tangled)(text)


def test_a_speech_is_encoded_as_the_library_does_and_words_that_are_forgotten_change_nothing(trained, monkeypatch):
    want = alone(trained)(SPEECH.decode())
    assert trained.encode(SPEECH).tolist() == want
    monkeypatch.setattr(subwords, "_MAX_REMEMBERED", 50)
    monkeypatch.setattr(subwords, "_LEARNT_AT_ONCE", 7)
    forgetful = pickle.loads(pickle.dumps(trained))
    for _ in range(2):
        assert forgetful.encode(SPEECH).tolist() == want
    few = len(set(subwords._WORDS.findall(b" a b c")))
    forgetful.encode(b" a b c")
    assert len(forgetful._words) <= few


def test_a_batch_is_encoded_as_its_texts_are(trained):
    texts = [SPEECH, b"", "é\0 <|endoftext|>".encode(), SPEECH[:100]]
    for tokenizer in (trained, tokenizers.Bytes()):
        found = tokenizer.encode_batch(texts)
        assert [tokens.tolist() for tokens in found] == [tokenizer.encode(text).tolist() for text in texts]
        assert {tokens.dtype for tokens in found} == {np.dtype(np.int32)}
    assert trained.encode_batch([]) == []


def test_the_separator_is_the_last_token_is_counted_and_comes_of_no_text(trained):
    assert trained.vocab_size == 500
    assert trained.separator == 499
    assert trained.num_bytes_W[499] == 0
    assert (trained.num_bytes_W[:499] > 0).all()
    names = b"<|endoftext|></s><s>[SEP]<|separator|>"
    assert trained.separator not in trained.encode(names)
    assert trained.decode([499, *trained.encode(names), 499]) == names.decode()


def test_training_learns_the_most_frequent_pairs_and_no_words_across_a_space():
    tokenizer = bpe.train(documents(b"ab ab ab ab xy xy"), 260)
    assert [tokenizer.piece(token) for token in range(256, 259)] == [b"ab", b" ab", b"xy"]
    assert not [piece for piece in map(tokenizer.piece, range(259)) if b" " in piece[1:]]


def test_documents_may_be_read_once_and_parts_and_cuts_change_nothing(monkeypatch):
    text = SPEECH[: len(SPEECH) // 2].decode()
    middle = text.index(" the ", len(text) // 2)
    whole = bpe.train(documents(text.encode()), 400).fingerprint()
    halves = [Document(text[:middle].encode(), "", "s", continues=True), Document(text[middle:].encode(), "", "s")]
    assert bpe.train(iter(halves), 400).fingerprint() == whole
    monkeypatch.setattr(subwords, "CUT_BYTES", 300)
    assert len(subwords.cuts(text.encode())) > 5
    assert bpe.train(documents(text.encode()), 400).fingerprint() == whole
    assert bpe.train(documents(text.encode() + b" other other"), 400).fingerprint() != whole


@given(st.text(st.sampled_from("ab \n你🎭"), max_size=400))
def test_cuts_join_to_the_text_are_whole_characters_and_of_bounded_length(text):
    content = text.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subwords, "CUT_BYTES", 40)
        found = subwords.cuts(content)
    assert b"".join(found) == content
    assert all(cut and cut.decode() and len(cut) <= 80 for cut in found)


PROGRAM = """
import sys
from mixkabrn_jax.data.sources import sotu
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.tokenizers import bpe
content = open(sys.argv[1], "rb").read()
mirrored = content[::-1].decode("latin-1").encode()
print(bpe.train([Document(content, "", "a"), Document(mirrored, "", "b")], 700).fingerprint())
"""


def test_training_is_the_same_in_every_process_for_any_number_of_threads(tmp_path):
    (tmp_path / "speech.txt").write_bytes(SPEECH)
    found = set()
    for environment in (
        {"RAYON_NUM_THREADS": "1"},
        {"RAYON_NUM_THREADS": "2", "PYTHONHASHSEED": "5"},
        {"TOKENIZERS_PARALLELISM": "false"},
    ):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "speech.txt")],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(run.stdout)
    mirrored = SPEECH[::-1].decode("latin-1").encode()
    assert found == {bpe.train(documents(SPEECH, mirrored), 700).fingerprint() + "\n"}


def test_a_text_with_too_few_pairs_gives_fewer_tokens_and_a_warning(caplog):
    tokenizer = bpe.train(documents(b"ab ab c"), 300)
    assert tokenizer.vocab_size == 256 + 1 + 1  # "ab"; " " before it occurs once
    assert tokenizer.separator == 257
    assert "vocab_size=300, but 7 bytes of text have pairs that occur twice for 258 tokens only" in caplog.text


def test_nothing_to_train_on_and_too_small_a_vocabulary_are_named():
    for nothing in ([], documents(b"")):
        with pytest.raises(ValueError, match="no text among the training documents"):
            bpe.train(nothing, 300)
    with pytest.raises(ValueError, match=re.escape("config.data.vocab_size=257 must be at least 258")):
        bpe.train(documents(SPEECH), 257)


def test_a_trained_tokenizer_survives_its_json_file_and_other_processes(trained):
    content = "Fellow citizens é🎭".encode()
    copies = [tokenizers.from_json(json.loads(json.dumps(trained.to_json()))), pickle.loads(pickle.dumps(trained))]
    for again in copies:
        assert again.vocab_size == trained.vocab_size
        assert again.fingerprint() == trained.fingerprint()
        assert again.to_json() == trained.to_json()
        assert again.encode(content).tolist() == trained.encode(content).tolist()


def test_the_fingerprints_of_tokenizers_differ_where_they_do(trained):
    every = [trained, tokenizers.Bytes(), tokenizers.Characters("ab"), tokenizers.Characters("abc")]
    every.append(bpe.train(documents(SPEECH), 501))
    assert len({tokenizer.fingerprint() for tokenizer in every}) == len(every)


@given(TANGLED)
def test_a_stream_of_subwords_is_printed_in_whole_characters(trained, text):
    decoder = trained.stream_decoder()
    tokens = trained.encode(text.encode())
    printed = ""
    for i, token in enumerate(tokens):
        printed += decoder.decode(token)
        done = b"".join(map(trained.piece, tokens[: i + 1]))
        assert printed == done.decode(errors="ignore")
    assert decoder.finish() == ""


def test_bytes_that_are_no_utf8_are_replaced_with_a_warning(trained, caplog):
    assert trained.decode(trained.encode(b"a\xffb", "old.txt")) == "a\ufffdb"
    assert "'old.txt' is not UTF-8: 1 places replaced" in caplog.text
