"""Documents: tasks of prompt and target, long texts in parts, lines, and the account of what was left out."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax.data import documents
from mixkabrn_jax.data.documents import PART_BYTES, DamagedError, Document, Skipped


def parts(content, size, monkeypatch):
    monkeypatch.setattr(documents, "PART_BYTES", size)
    return list(documents.parts(io.BytesIO(content), Document(b"", "d", "i"), Skipped()))


@pytest.mark.parametrize("size", [8, 64, 5000])
@pytest.mark.parametrize("text", ["ein größeres Wörterbuch " * 30, "é" * 400, "x" * 700, "\U0001f600 \n" * 90, "a", ""])
def test_parts_are_the_text_cut_between_characters_each_but_the_last_continued(text, size, monkeypatch):
    content = text.encode()
    found = parts(content, size, monkeypatch)
    assert b"".join(part.content for part in found) == content
    assert [part.continues for part in found] == [True] * (len(found) - 1) + [False]
    assert {(part.domain, part.id) for part in found} == {("d", "i")}
    for part in found:
        part.content.decode()
        assert len(part.content) <= size


def test_a_part_ends_before_a_single_space_between_letters(monkeypatch):
    for part in parts(b"some words and  more words here " * 20, 64, monkeypatch)[:-1]:
        assert part.content[-1:].isalpha()
    assert all(part.content[:1] in (b" ", b"s") for part in parts(b"some words " * 20, 64, monkeypatch))


def test_a_long_text_is_held_in_parts_of_a_few_megabytes():
    stream = io.BytesIO(b"w o " * 3_000_000)
    sizes = [len(part.content) for part in documents.parts(stream, Document(b"", "", "i"), Skipped())]
    assert sum(sizes) == 12_000_000
    assert max(sizes) <= PART_BYTES
    assert len(sizes) == 3


@given(
    st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), max_size=9),
    st.booleans(),
    st.integers(2, 9),
)
def test_lines_are_those_with_a_character_that_is_no_space(texts, has_end, size):
    """Against a second way of saying it, which decodes everything."""
    content = b"\n".join(texts) + (b"\n" if has_end else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_LINE_BYTES", size)
        found = list(documents.lines(io.BytesIO(content), Document(b"", "d", "f"), Skipped()))
    expected = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        text = line.removesuffix(b"\r").decode(errors="replace")
        if text.strip(" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85"):
            expected[f"f:{number}"] = text.encode()
    assert {document.id: document.content for document in found} == expected


def test_a_task_is_its_prompt_and_target_in_characters_and_bytes():
    document = documents.task("Größe?", " groß", "d", "i", ("groß",), "assert True")
    assert (document.prompt, document.target) == ("Größe?".encode(), " groß".encode())
    assert document.prompt_bytes == 8
    assert (document.answers, document.tests) == (("groß",), "assert True")
    asked = documents.question("Why?", "So.", "d", "i", ("so",))
    assert (asked.prompt, asked.target, asked.answers) == (b"Question: Why?\nAnswer:", b" So.", ("so",))


def test_what_was_skipped_is_counted_with_its_first_place_or_raised():
    skipped = Skipped()
    skipped.damaged("broken", "a:1")
    skipped.left_out("hidden", ".git")
    skipped.damaged("broken", "a:2")
    assert str(skipped) == "2 broken (first: a:1), 1 hidden (first: .git)"
    assert str(Skipped()) == ""
    strict = Skipped("error")
    strict.left_out("hidden", ".git")
    with pytest.raises(DamagedError, match=r"^a:1: broken$"):
        strict.damaged("broken", "a:1")


def test_bytes_that_are_no_utf8_become_the_replacement_character_and_are_counted():
    skipped = Skipped()
    assert skipped.decoded(b"fine \xef\xbf\xbd", "a") == b"fine \xef\xbf\xbd"
    assert skipped.decoded(b"\xff \xef\xbf\xbd \xe2\x82", "a") == "\ufffd \ufffd \ufffd".encode()
    assert skipped.replaced == {"a": 2}
