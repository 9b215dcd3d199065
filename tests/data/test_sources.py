"""Reading text files, and which documents are held out."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.data import sources
from mixkabrn_jax.data.sources import Document


def _ids(documents):
    return [document.id for document in documents]


def test_a_lone_file_is_split_where_nanogpt_splits_tiny_shakespeare():
    content = (b"First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 18000)[:1_115_394]
    [train], [validation] = sources.hold_out([Document(content, "", "input.txt")], 0.1)
    assert len(train.content) == 1_003_854
    assert len(validation.content) == 111_540
    assert train.content + validation.content == content
    assert train.id == validation.id == "input.txt"


def test_the_end_of_every_domain_is_held_out_in_order():
    domains = ["a", "b", "a", "c", "b"] * 10 + ["d", "e", "d"]
    documents = [Document(b"ten bytes!", domain, str(i)) for i, domain in enumerate(domains)]
    train, validation = sources.hold_out(documents, 0.2)
    held = {"a": 4, "b": 4, "c": 2, "d": 1}  # of 20, 20, 10 and 2
    for domain, count in held.items():
        ids = [document.id for document in documents if document.domain == domain]
        assert _ids(document for document in train if document.domain == domain) == ids[:-count]
        assert _ids(document for document in validation if document.domain == domain) == ids[-count:]
    [head], [tail] = ([document for document in part if document.domain == "e"] for part in (train, validation))
    assert (head.content, tail.content) == (b"ten byte", b"s!")
    for part in (train, validation):
        assert _ids(part) == sorted(_ids(part), key=int)


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=40), st.floats(0.01, 0.99))
@settings(max_examples=200)
def test_each_document_is_in_one_part_and_both_parts_have_some_of_each_domain(domains, fraction):
    documents = [Document(b"x" * 200, domain, str(i)) for i, domain in enumerate(domains)]
    train, validation = sources.hold_out(documents, fraction)
    for domain in set(domains):
        whole, head, tail = ([d for d in part if d.domain == domain] for part in (documents, train, validation))
        if len(whole) > 1:
            assert head + tail == whole
            assert len(tail) == max(1, int(len(whole) * fraction))
        else:
            assert head[0].content + tail[0].content == whole[0].content
            assert len(head[0].content) == int(200 * (1 - fraction))


@given(st.text(min_size=2, max_size=12), st.floats(0.05, 0.95))
@settings(max_examples=200)
def test_a_lone_text_is_never_cut_inside_a_character(text, fraction):
    content = text.encode("utf-8")
    try:
        [head], [tail] = sources.hold_out([Document(content, "", "t")], fraction)
    except ValueError:
        wanted = int(len(content) * (1 - fraction))
        assert wanted == 0 or len(content) - wanted < 4  # nothing before the cut, or only the last character after it
        return
    assert head.content.decode("utf-8") + tail.content.decode("utf-8") == content.decode("utf-8")
    assert 0 <= len(head.content) - int(len(content) * (1 - fraction)) < 4


def test_bytes_that_are_no_utf8_are_cut_at_the_plain_position():
    for content in (b"\x80" * 100, b"\x80" * 96 + b"text"):
        [head], [tail] = sources.hold_out([Document(content, "", "binary")], 0.1)
        assert (len(head.content), len(tail.content)) == (90, 10)


def test_a_lone_document_too_short_to_cut_is_trained_on_and_logged(caplog):
    documents = [Document(b"x", "tiny", "x"), Document(b"one", "a", "1"), Document(b"two", "a", "2")]
    train, validation = sources.hold_out(documents, 0.1)
    assert _ids(train) == ["x", "1"]
    assert _ids(validation) == ["2"]
    assert "'tiny'" in caplog.text


def test_an_empty_validation_part_is_an_error_that_names_the_field():
    for documents in ([Document(b"x", "", "x")], [Document("é".encode(), "", "e")], []):
        with pytest.raises(ValueError, match=r"config\.data\.validation_fraction=0\.1 of \d documents"):
            sources.hold_out(documents, 0.1)


def test_a_fraction_outside_the_open_unit_interval_is_named():
    for fraction in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=re.escape(f"config.data.validation_fraction={fraction}")):
            sources.hold_out([Document(b"abc", "", "x")], fraction)
