"""Long texts in parts, and the account of what is left out."""

import io
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.data import documents
from mixkabrn_jax.data.documents import DamagedError, Document, Skipped, character_boundary, parts, task

BLANK = Document(b"", "domain", "name")


@pytest.fixture
def small(monkeypatch):
    """Parts of 5000 bytes: they look for a space in their last 4096."""
    monkeypatch.setattr(documents, "PART_BYTES", 5000)
    return 5000


def cut(content):
    skipped = Skipped()
    return list(parts(io.BytesIO(content), BLANK, skipped)), skipped


def test_a_short_text_is_one_document():
    for content in (b"", b"a", b"a\n", "é".encode()):
        [document], _ = cut(content)
        assert document == Document(content, "domain", "name")


@pytest.mark.parametrize("size", [4, 4999, 5000, 5001, 9999, 10000, 10001, 23456])
@pytest.mark.parametrize("text", ["word and word ", "x", "日本語", "😀", "\n\n  \t"])
def test_parts_make_up_the_text_and_end_before_a_word_or_between_characters(small, size, text):
    content = (text * size).encode()[:size].decode(errors="ignore").encode()
    found, skipped = cut(content)
    assert b"".join(document.content for document in found) == content
    assert not skipped.replaced
    assert all(0 < len(document.content) <= small for document in found)
    assert [document.continues for document in found] == [True] * (len(found) - 1) + [False]
    assert {(document.id, document.domain) for document in found} == {("name", "domain")}
    for before, after in itertools.pairwise(found):
        before.content.decode(), after.content.decode()
        if " " in text and "word" in text:
            assert re.match(rb" \S", after.content)


pieces = st.one_of(
    st.text(max_size=8).map(lambda text: text.encode(errors="replace")),
    st.binary(max_size=4),
    st.sampled_from([b" ", b"\n", b"\r\n", b"x" * 3000, "é".encode() * 1500, b"\x80" * 4100, b"word " * 700]),
)


@given(st.lists(pieces, max_size=30).map(b"".join))
@settings(max_examples=150)
def test_parts_are_what_the_whole_is_read_as_even_where_it_is_no_utf8(content):
    try:
        documents.PART_BYTES, kept = 5000, documents.PART_BYTES
        found, skipped = cut(content)
    finally:
        documents.PART_BYTES = kept
    whole = content.decode(errors="replace")
    assert b"".join(document.content for document in found).decode() == whole
    assert sum(skipped.replaced.values()) == whole.count("\ufffd") - content.count("\ufffd".encode())


@given(st.text(max_size=12).map(lambda text: text.encode(errors="replace")), st.integers(0, 40))
def test_a_boundary_is_the_next_place_between_two_characters(content, position):
    position = min(position, len(content))
    boundary = character_boundary(content, position)
    assert position <= boundary < position + 4
    content[:boundary].decode(), content[boundary:].decode()


def test_a_broken_character_becomes_one_sign_and_is_counted_by_file():
    skipped = Skipped()
    assert skipped.decoded(b"a\xe9b\xff", "x.jsonl:1") == "a\ufffdb\ufffd".encode()
    assert skipped.decoded("\ufffd".encode() + b"\xf0\x9f\x98", "x.jsonl:20") == "\ufffd\ufffd".encode()
    assert skipped.decoded("é".encode(), "y.txt") == "é".encode()
    assert skipped.replaced == {"x.jsonl": 3}
    assert not skipped.counts


def test_damage_is_counted_or_an_error_and_what_is_left_out_is_never_one():
    for on_damage in ("skip", "error"):
        skipped = Skipped(on_damage)
        skipped.left_out("hidden", ".a")
        skipped.left_out("hidden", ".b")
        if on_damage == "error":
            with pytest.raises(DamagedError, match=r"^x\.jsonl:7: not JSON$"):
                skipped.damaged("not JSON", "x.jsonl:7")
        else:
            skipped.damaged("not JSON", "x.jsonl:7")
            assert str(skipped) == "2 hidden (first: .a), 1 not JSON (first: x.jsonl:7)"
    assert str(Skipped()) == ""


@given(st.text(max_size=8), st.text(max_size=8))
def test_a_task_tells_its_prompt_from_its_target(prompt, target):
    document = task(prompt, target, "d", "i")
    assert (document.prompt, document.target) == (prompt.encode(), target.encode())
