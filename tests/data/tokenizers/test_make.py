"""Which tokenizer a config asks for."""

import re

import pytest

from configs import lm
from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.tokenizers import bpe
from mixkabrn_jax.runs import workdir
from tests import toy

DOCUMENTS = [Document(b"abba cab cab cab abba", "", "1")]


def config(**changes):
    return DataConfig(**{**lm.get_config().data.to_dict(), **changes})


def unread():
    raise AssertionError("these documents are not needed")


def test_each_name_makes_its_tokenizer_from_the_documents_if_it_needs_them(tmp_path):
    assert tokenizers.make(config(tokenizer="bytes"), unread).to_json() == {"name": "bytes"}
    characters = tokenizers.make(config(tokenizer="characters"), lambda: iter(DOCUMENTS))
    assert characters.to_json() == {"name": "characters", "characters": " abc"}
    trained = tokenizers.make(config(tokenizer="bpe", vocab_size=259), lambda: iter(DOCUMENTS))
    assert trained.fingerprint() == bpe.train(DOCUMENTS, 259).fingerprint()
    path = tmp_path / "mine.json"
    path.write_text(trained._library.to_str())
    read = tokenizers.make(config(tokenizer=str(path)), unread)
    assert read.vocab_size == 259
    assert read.encode(b"cab abba").tolist() == trained.encode(b"cab abba").tolist()


def test_a_tokenizer_that_there_is_not_is_named(tmp_path):
    for name in ("words", "", "gpt2", "BPE"):
        with pytest.raises(ValueError, match=re.escape(f"config.data.tokenizer={name!r} must be one of")):
            config(tokenizer=name)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        tokenizers.make(config(tokenizer=str(tmp_path / "none.json")), unread)
    with pytest.raises(ValueError, match=re.escape("config.data.vocab_size=257")):
        config(tokenizer="bpe", vocab_size=257)


def test_a_tokenizer_of_another_kind_than_the_config_s_is_refused():
    made = {"bytes": tokenizers.Bytes(), "characters": tokenizers.Characters("a"), "bpe": bpe.train(DOCUMENTS, 258)}
    for name in made:
        for other, tokenizer in made.items():
            if other == name:
                tokenizers.check(tokenizer, config(tokenizer=name))
            else:
                with pytest.raises(ValueError, match=f"config.data.tokenizer='{name}', but"):
                    tokenizers.check(tokenizer, config(tokenizer=name))
    tokenizers.check(made["bpe"], config(tokenizer="my/tokenizer.json"))


def test_a_run_that_was_moved_opens_with_the_tokenizer_it_was_trained_with(tmp_path):
    trained = bpe.train(DOCUMENTS, 260)
    workdir.create(tmp_path / "run", toy.experiment("text.txt"), trained, {})
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    again = workdir.load_tokenizer(tmp_path / "elsewhere")
    assert again.fingerprint() == trained.fingerprint()
    assert again.encode(b"abba cab").tolist() == trained.encode(b"abba cab").tolist()


@pytest.mark.parametrize("vocab_size", [257, 1_000_000_000])
def test_a_vocabulary_that_cannot_be_trained_is_refused_with_the_bounds(vocab_size):
    with pytest.raises(ValueError, match=rf"config\.data\.vocab_size={vocab_size} must be 258 to 1000000"):
        config(tokenizer="bpe", vocab_size=vocab_size)
