"""Records out of JSON Lines, JSON and Parquet, and the texts in them."""

import io
import sys

import pytest

from mixkabrn_jax.data import records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.documents import DamagedError, Skipped
from tests.data.sources.trees import as_bytes, lines, parquet

ROWS = [{"text": "one"}, {"text": "two “quoted”"}, {"text": "three"}]


def read(name, content, on_damage="skip", inside=()):
    """([(place, record)], what was left out)."""
    skipped = Skipped(on_damage)
    file = File(name, io.BufferedReader(io.BytesIO(as_bytes(content))))
    return list(records.read(file, skipped, inside=inside)), skipped


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines(*ROWS)),
        ("a.NDJSON", lines(*ROWS).replace("\n", "\r\n")),
        ("a.jsonlines", "\ufeff" + lines(*ROWS).removesuffix("\n")),
        ("a.json", ROWS),
        ("a.json", "\ufeff\n" + lines(*ROWS)),
        ("a.parquet", parquet(*ROWS)),
    ],
)
def test_records_are_the_same_in_every_form_and_stand_at_file_and_number(name, content):
    found, skipped = read(name, content)
    assert [record for _, record in found] == ROWS
    assert [place for place, _ in found][-1] in (f"{name}:3", f"{name}:4")
    assert not skipped.counts
    assert records.has_records(File(name, io.BufferedReader(io.BytesIO(as_bytes(content))))) == (content != ROWS)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_file_of_another_format_is_one_damage_by_its_name_and_broken_lines_are_damage_each(name):
    for content in (lines(*ROWS).encode("utf-16"), lines(*ROWS).encode("utf-16-le")):
        assert read(name, content)[1].places == {"not text (UTF-16)": name}
    assert read(name, b"\x1f\x8b" + bytes(20))[1].places == {"not text (gzip within a compressed file)": name}
    found, skipped = read("a.jsonl", lines(*ROWS).encode() + bytes(500))
    assert ([record for _, record in found], skipped.places) == (ROWS, {"not JSON": "a.jsonl:4"})


def test_an_object_over_many_lines_is_one_record():
    content = '{"text": "one",\n "more": {"a": 1}}\n'
    assert read("a.json", content)[0] == [("a.json:1", {"text": "one", "more": {"a": 1}})]


def test_lines_that_are_no_json_object_are_counted_one_by_one_and_blank_ones_are_nothing():
    content = b'{"a": 1}\n\nnot JSON\n  \n{"a": "\xff"}\n[1]\n{"a": 2'
    found, skipped = read("a.jsonl", content)
    assert found == [("a.jsonl:1", {"a": 1}), ("a.jsonl:5", {"a": "\ufffd"})]
    assert skipped.counts == {"not JSON": 2, "not a JSON object": 1}
    assert skipped.places == {"not JSON": "a.jsonl:3", "not a JSON object": "a.jsonl:6"}
    assert sum(skipped.replaced.values()) == 1
    with pytest.raises(DamagedError, match=r"^a\.jsonl:3: not JSON$"):
        read("a.jsonl", content, "error")


def test_a_parquet_file_that_is_none_is_damage():
    assert "not a Parquet file" in str(read("a.parquet", b"PAR1 and no more")[1])
    assert "not a Parquet file" in str(read("a.parquet", parquet(*ROWS)[:-9])[1])


def test_without_pyarrow_a_parquet_file_says_what_to_install(monkeypatch):
    content = parquet(*ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"a\.parquet is a Parquet file.*pip install pyarrow"):
        read("a.parquet", content)


def test_texts_are_the_first_that_is_there_of_each_field():
    skipped = Skipped()
    record = {"q": " ", "question": " why? ", "answer": "so\n", "list": ["x"]}
    assert records.texts(record, "f:1", skipped, "q|question", "answer") == ["why?", "so"]
    assert records.texts(record, "f:2", skipped, "q", "answer", "list|none") is None
    assert skipped.places == {"no text in 'q', no text in 'list' or 'none'": "f:2"}
