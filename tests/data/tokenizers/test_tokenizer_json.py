"""A tokenizer.json from elsewhere: those that give back their text are used, the others refused with the reason."""

import json
import re

import pytest
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.sources import sotu
from mixkabrn_jax.data.tokenizers import subwords, tokenizer_json

SPEECH = next(iter(sotu.documents())).content.decode()
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
TEXTS = st.text() | st.lists(st.sampled_from([*"a The▁é\u0301🎭\r\n\0 \xa0<>|", "<0x41>", "</s>"]), max_size=50).map(
    "".join
)


def byte_level(pre_tokenizer=None, **changes):
    tokenizer = library.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for field, value in changes.items():
        setattr(tokenizer, field, value)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([SPEECH], trainer)
    return tokenizer


def gpt2():
    tokenizer = byte_level(post_processor=processors.ByteLevel(trim_offsets=False))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def with_phrases():
    """With a token that goes across words."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["of the United States"])
    return tokenizer


def roberta():
    """With a space before the text."""
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))


def llama3():
    words = pre_tokenizers.Split(library.Regex(LLAMA_3), "isolated")
    tokenizer = byte_level(
        pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    )
    tokenizer.add_special_tokens(["<|begin_of_text|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 400)]
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=7)
    return tokenizer


def llama2():
    """As SentencePiece's come: spaces as "▁", one of them before the text, and tokens for bytes."""
    found = [f"<0x{byte:02X}>" for byte in range(256)]
    pairs = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "▁")]
    letters = sorted({*SPEECH, "▁"} - {" "})
    vocabulary = {token: i for i, token in enumerate(["<unk>", *found, *letters, *map("".join, pairs)])}
    tokenizer = library.Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def unigram():
    found = [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    letters = [(letter, -5.0) for letter in sorted({*SPEECH, "▁"} - {" "})]
    scored = [("<unk>", -30.0), *found, *letters, ("▁the", -3.0), ("▁of", -3.0)]
    tokenizer = library.Tokenizer(models.Unigram(scored, 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def saved(tokenizer, directory):
    path = directory / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    return path


@pytest.fixture(
    scope="module", params=[gpt2, with_phrases, roberta, llama3, llama2, unigram], ids=lambda make: make.__name__
)
def read(request, tmp_path_factory):
    return tokenizer_json.read(saved(request.param(), tmp_path_factory.mktemp(request.param.__name__)))


@given(TEXTS)
@settings(max_examples=100)
def test_any_text_comes_back_byte_for_byte(read, text):
    tokens = read.encode(text.encode())
    assert b"".join(map(read.piece, tokens)) == text.encode()
    assert read.num_bytes_W[tokens].sum() == len(text.encode())


@pytest.mark.parametrize("make", [gpt2, with_phrases, llama3], ids=lambda make: make.__name__)
def test_text_has_the_tokens_that_the_file_gives_it(tmp_path, make):
    tokenizer = make()
    path = saved(tokenizer, tmp_path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ours, text = tokenizer_json.read(path), f"{SPEECH}  He's 12345 é\n\n🎭 "
    assert ours.encode(text.encode()).tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    assert ours.encode_batch([text.encode(), b"", b"a"])[0].tolist() == ours.encode(text.encode()).tolist()


def test_long_texts_are_encoded_in_cuts_with_the_tokens_of_the_whole(tmp_path, monkeypatch):
    ours = tokenizer_json.read(saved(llama3(), tmp_path))
    whole = ours.encode(SPEECH.encode()).tolist()
    monkeypatch.setattr(subwords, "CUT_BYTES", 100)
    assert ours.encode(SPEECH.encode()).tolist() == whole
    assert [tokens.tolist() for tokens in ours.encode_batch([SPEECH.encode()] * 2)] == [whole, whole]


def test_the_separator_stands_behind_the_tokens_of_the_file_and_names_of_tokens_are_text(read):
    assert read.separator == read.vocab_size - 1
    special = {read.separator, *(i for i, piece in enumerate(read._pieces) if piece.startswith(b"<|"))}
    tokens = read.encode(b"<|endoftext|> and <|begin_of_text|> and </s>")
    assert not special & set(tokens.tolist())


def test_nothing_is_put_before_a_text_or_behind_it(read):
    assert b"".join(map(read.piece, read.encode(b"the"))) == b"the"
    assert read.encode(b"").size == 0


@pytest.mark.parametrize("make", [llama2, unigram], ids=lambda make: make.__name__)
def test_signs_for_spaces_and_bytes_are_kept_apart_from_them_in_text(tmp_path, make):
    tokenizer = tokenizer_json.read(saved(make(), tmp_path))
    assert b"A" not in map(tokenizer.piece, tokenizer.encode(b"x<0x41>"))
    assert [tokenizer.piece(token) for token in tokenizer.encode("▁ the▁".encode())] == [
        *(b"\xe2", b"\x96", b"\x81"),
        b" the",
        *(b"\xe2", b"\x96", b"\x81"),
    ]


def word_piece():
    vocabulary = {token: i for i, token in enumerate(["[UNK]", "a", "b", "##a", "##b"])}
    tokenizer = library.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def without_bytes():
    tokenizer = library.Tokenizer(models.BPE({"a": 0, "b": 1, "?": 2}, [], unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: byte_level(normalizer=normalizers.Lowercase()), "its normalizer (Lowercase) changes text"),
        (lambda: byte_level(normalizer=normalizers.NFC()), "its normalizer (NFC) changes text"),
        (lambda: byte_level(normalizer=normalizers.NFKC()), "its normalizer (NFKC) changes text"),
        (lambda: byte_level(normalizer=normalizers.Strip()), "its normalizer (Strip) changes text"),
        (word_piece, "its normalizer (BertNormalizer) changes text"),
        (without_bytes, "its model BPE has no tokens for some characters"),
    ],
)
def test_one_that_loses_text_is_refused_and_told_why(tmp_path, make, reason):
    path = saved(make(), tmp_path)
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        tokenizer_json.read(path)
    assert f"config.data.tokenizer='{path}'" in str(raised.value)
    assert "bits per byte would be wrong" in str(raised.value)


def test_a_byte_without_a_token_is_found(tmp_path):
    record = json.loads(byte_level().to_str())
    vocabulary = record["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[last + "unheard"] = vocabulary.pop("ð")  # the first byte of 🎭 and all others beyond U+FFFF
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="does not give back"):
        tokenizer_json.read(path)


def test_text_that_a_rule_of_the_file_changes_later_is_an_error_and_names_the_document(tmp_path):
    ours = tokenizer_json.read(saved(byte_level(normalizer=normalizers.Replace("colour", "color")), tmp_path))
    assert ours.encode(b"color").size
    with pytest.raises(ValueError, match="letter 7: the tokenizer gives back other text"):
        ours.encode(b"a colour", "letter 7")


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.data\.tokenizer='.*none\.json': there is no such file"):
        tokenizer_json.read(tmp_path / "none.json")
    path = tmp_path / "tokenizer.json"
    for text, message in (
        ("{", "is not JSON"),
        ("[1]", "is no tokenizer.json"),
        ('{"model": "bpe"}', "is no tokenizer.json"),
        ('{"model": {"type": "None such"}}', "cannot be read by the library tokenizers"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            tokenizer_json.read(path)


def test_a_run_keeps_all_of_it(tmp_path):
    path = saved(llama3(), tmp_path)
    ours = tokenizer_json.read(path)
    path.unlink()
    again = tokenizers.from_json(json.loads(json.dumps(ours.to_json())))
    assert again.encode(SPEECH.encode()).tolist() == ours.encode(SPEECH.encode()).tolist()
    assert again.fingerprint() == ours.fingerprint()
