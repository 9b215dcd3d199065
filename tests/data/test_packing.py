"""The stream of documents and its windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.data import blocks, packing, tokenizers
from mixkabrn_jax.data.documents import Document, task
from mixkabrn_jax.data.stream import TokenStream

BYTES = tokenizers.Bytes()
SEP = BYTES.separator
KEYS = {
    "tokens": np.int32,
    "targets": np.int32,
    "segment_ids": np.int32,
    "loss_mask": np.float32,
    "num_bytes": np.int32,
}

contents = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6)
lengths = st.integers(1, 25)


def _windows(contents, sequence_length, tokenizer=BYTES):
    documents = [Document(content, "", str(i)) for i, content in enumerate(contents)]
    return packing.pack(documents, tokenizer, sequence_length)


def _oracle(contents, sequence_length):
    """The windows position by position, from (input, target, document) triples."""
    triples = []
    for number, content in enumerate(contents):
        inputs = [SEP, *content]
        triples += [(token, target, number) for token, target in zip(inputs, [*content, SEP], strict=True)]
    windows = []
    for start in range(0, len(triples), sequence_length):
        here = triples[start : start + sequence_length]
        padding = sequence_length - len(here)
        first = here[0][2]
        windows.append(
            {
                "tokens": [token for token, _, _ in here] + [SEP] * padding,
                "targets": [target for _, target, _ in here] + [SEP] * padding,
                "segment_ids": [number - first + 1 for _, _, number in here] + [0] * padding,
                "loss_mask": [1.0] * len(here) + [0.0] * padding,
                "num_bytes": [int(target != SEP) for _, target, _ in here] + [0] * padding,
            }
        )
    return windows


@given(contents, lengths)
@settings(max_examples=200)
def test_windows_are_those_of_the_slow_oracle(contents, sequence_length):
    windows = _windows(contents, sequence_length)
    expected = _oracle(contents, sequence_length)
    assert len(windows) == len(expected)
    for window, slow in zip(windows, expected, strict=True):
        assert {key: window[key].tolist() for key in window} == slow
        assert {key: window[key].dtype for key in window} == KEYS
        assert {window[key].shape for key in window} == {(sequence_length,)}


@given(contents, lengths)
@settings(max_examples=200)
def test_every_target_of_the_stream_is_in_exactly_one_window(contents, sequence_length):
    windows = _windows(contents, sequence_length)
    counted = [(window, window["loss_mask"] == 1) for window in windows]
    stream = [token for content in contents for token in (SEP, *content)] + [SEP]
    assert np.concatenate([window["targets"][is_target] for window, is_target in counted]).tolist() == stream[1:]
    assert np.concatenate([window["tokens"][is_target] for window, is_target in counted]).tolist() == stream[:-1]
    assert sum(window["loss_mask"].sum() for window in windows) == windows.num_targets
    assert sum(window["num_bytes"].sum() for window in windows) == sum(map(len, contents))


def test_a_document_of_one_byte_has_two_targets_itself_and_the_separator():
    window = _windows([b"a"], 4)[0]
    assert window["tokens"].tolist() == [SEP, 97, SEP, SEP]
    assert window["targets"].tolist() == [97, SEP, SEP, SEP]
    assert window["segment_ids"].tolist() == [1, 1, 0, 0]
    assert window["loss_mask"].tolist() == [1, 1, 0, 0]
    assert window["num_bytes"].tolist() == [1, 0, 0, 0]


def test_fingerprints_are_equal_for_equal_streams_only():
    others = ([b"a", b"bc"], [b"ab", b"d"], [b"ab"])
    prints = [_windows(texts, 4).fingerprint() for texts in ([b"ab", b"c"], *others)]
    assert len(set(prints)) == 4
    assert prints[0] == _windows([b"ab", b"c"], 9).fingerprint()
    assert prints[0].startswith("5 targets, SHA-256 ")


def test_data_shorter_than_a_window_is_one_window():
    assert len(_windows([b"abc"], 1000)) == 1
    assert _windows([b"abc"], 1000)[0]["loss_mask"].sum() == 4


def test_a_target_of_several_bytes_counts_them_all():
    tokenizer = tokenizers.Characters("aé你")
    window = _windows(["aé你a".encode()], 8, tokenizer)[0]
    assert window["num_bytes"].tolist() == [1, 2, 3, 1, 0, 0, 0, 0]


def test_a_window_of_padding_has_no_target():
    padding = _windows([b"abcdef"], 3).padding()
    assert padding["tokens"].tolist() == padding["targets"].tolist() == [SEP] * 3
    for key in ("segment_ids", "loss_mask", "num_bytes"):
        assert padding[key].tolist() == [0, 0, 0]
        assert padding[key].dtype == KEYS[key]


def test_windows_end_where_their_number_says():
    windows = _windows([b"abcdef"], 3)
    assert len(windows) == len(list(windows)) == 3
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"window {index} is not among the 3 windows"):
            windows[index]


def test_a_window_is_the_callers_own():
    windows = _windows([b"abcdef"], 3)
    windows[0]["tokens"][:] = 0
    assert windows[0]["tokens"].tolist() == [SEP, 97, 98]


def test_a_vocabulary_beyond_sixteen_bits_is_kept_whole():
    characters = "".join(map(chr, range(0x10000, 0x20002)))
    windows = _windows([characters[-3:].encode()], 4, tokenizers.Characters(characters))
    assert windows[0]["tokens"].tolist() == [65538, 65535, 65536, 65537]


def test_a_length_below_one_and_no_documents_are_errors():
    with pytest.raises(ValueError, match=r"config\.data\.sequence_length=0"):
        _windows([b"abc"], 0)
    with pytest.raises(ValueError, match="no documents"):
        _windows([], 4)


records = st.lists(st.tuples(st.text("abc", max_size=9), st.text("xyz", max_size=9)), min_size=1, max_size=6)


@given(records, lengths)
@settings(max_examples=200)
def test_prompts_are_read_and_not_learnt_and_their_bytes_do_not_count(pairs, sequence_length):
    documents = [task(prompt, target, "", str(i)) for i, (prompt, target) in enumerate(pairs)]
    windows = packing.pack(documents, BYTES, sequence_length, "targets")
    all_of = packing.pack(documents, BYTES, sequence_length)
    targets = []
    for window, whole in zip(windows, all_of, strict=True):
        for key in ("tokens", "targets", "segment_ids"):
            assert window[key].tolist() == whole[key].tolist()
        targets += window["targets"][window["loss_mask"] == 1].tolist()
        assert window["num_bytes"].tolist() == (whole["num_bytes"] * window["loss_mask"]).tolist()
    assert targets == [token for _, target in pairs for token in (*target.encode(), SEP)]
    assert windows.num_targets == all_of.num_targets


def test_a_prompt_and_its_target_are_encoded_apart():
    class Pairs(tokenizers.Bytes):
        """Two bytes a token where there are two: what it makes depends on where it begins."""

        def encode(self, content, name=""):
            del name
            return np.array([content[i] for i in range(0, len(content), 2)], np.int32)

    window = packing.pack([task("abc", "def", "", "")], Pairs(), 6)[0]
    assert window["tokens"].tolist() == [SEP, *b"ac", *b"df", SEP]


@given(contents, lengths, st.integers(1, 4), st.data())
@settings(max_examples=200)
def test_windows_do_not_depend_on_how_documents_lie_in_blocks(contents, sequence_length, num_blocks, data):
    """Documents come in parts, and blocks begin anywhere between two parts."""
    documents = []
    for number, content in enumerate(contents):
        cut = data.draw(st.integers(0, len(content)))
        for part, continues in ((content[:cut], True), (content[cut:], False)):
            documents.append(Document(part, "ab"[number % 2], str(number), continues=continues))
    edges = sorted(data.draw(st.lists(st.integers(0, len(documents)), min_size=num_blocks, max_size=num_blocks)))
    pieces, continues = [], False
    for first, last in zip([0, *edges], [*edges, len(documents)], strict=True):
        pieces.append(blocks.encode(documents[first:last], BYTES, is_continued=continues))
        continues = documents[last - 1].continues if last else False
    stream = TokenStream(pieces, BYTES)
    windows, whole = packing.Windows(stream, sequence_length), _windows(contents, sequence_length)
    assert windows.fingerprint() == whole.fingerprint()
    assert [{key: window[key].tolist() for key in window} for window in windows] == [
        {key: window[key].tolist() for key in window} for window in whole
    ]
    position = 0
    for number, content in enumerate(contents):
        for place in (position, position + len(content)):
            assert stream.document(place) == (number, "ab"[number % 2])
        position += 1 + len(content)
    assert stream.domains == {
        domain: [len(contents[i::2]), len(b"".join(contents[i::2])), len(b"".join(contents[i::2]))]
        for i, domain in enumerate("ab"[: len(contents)])
    }


def test_a_text_that_a_tokenizer_refuses_is_named():
    with pytest.raises(ValueError, match="character 'z' at position 1 of b"):
        packing.pack([Document(b"aa", "", "a"), Document(b"az", "", "b")], tokenizers.Characters("a"), 4)
