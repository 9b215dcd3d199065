"""The stream of documents and its windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.data import packing, tokenizers
from mixkabrn_jax.data.sources import Document

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
    return packing.Windows(documents, tokenizer, sequence_length)


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
