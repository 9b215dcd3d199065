"""Lines as documents, and questions in the form that all sets of them have."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax.data import documents
from mixkabrn_jax.data.documents import Document, Skipped


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


def test_a_question_is_asked_in_one_form_and_the_space_before_the_target_is_learnt_with_it():
    asked = documents.question("Why?", "So.", "d", "i", ("so", "thus"))
    assert (asked.prompt, asked.target) == (b"Question: Why?\nAnswer:", b" So.")
    assert (asked.domain, asked.id, asked.answers) == ("d", "i", ("so", "thus"))
