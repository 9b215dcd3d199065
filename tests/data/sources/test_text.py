"""Text of one's own: a file a document, a record a document."""

import gzip
import lzma

import pytest

from tests.data.sources.trees import PACKINGS, contents, lines, pack, parquet, read, write

FILES = {
    "b/2.txt": "b2\r\n",
    "b/deep/1.md": "deep\n",
    "a/1": "a1",
    "z.txt": "z",
    "records.jsonl": lines({"text": "one", "id": 1}, {"body": "two"}, {"id": 3}, {"text": " "}),
    "c/rows.parquet": parquet({"content": "row"}),
    "d/c4.json": lines({"text": "en"}, {"text": "de"}),
    "d/one.json": '{"text": "as it stands"}',
}


def _told(documents):
    return sorted((document.domain, document.content.decode()) for document in documents)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_folder_is_its_files_and_their_records_with_the_first_folder_as_domain(tmp_path, packing):
    documents, skipped = read("text", pack(tmp_path / "any", packing, FILES))
    assert _told(documents) == [
        *(("", "one"), ("", "two"), ("", "z"), ("a", "a1")),
        *(("b", "b2\r\n"), ("b", "deep\n"), ("c", "row")),
        *(("d", "de"), ("d", "en"), ("d", '{"text": "as it stands"}')),
    ]
    assert skipped.counts == {
        "no text column (any of text, content, body, article, document, story, markdown, code)": 1,
        "empty": 1,
    }
    assert documents == read("text", tmp_path / ("any" if packing == "folder" else f"any.{packing}"))[0]
    assert len({document.id for document in documents}) == len(documents)


def test_a_file_by_itself_is_one_document_without_a_domain(tmp_path):
    write(
        tmp_path, {"play.txt": b"To be\r\n", "packed.txt.gz": gzip.compress(b"zipped"), "odd.xz": lzma.compress(b"odd")}
    )
    for name, content, found in (("play.txt", "To be\r\n", "play.txt"), ("packed.txt.gz", "zipped", "packed.txt")):
        [document] = read("text", tmp_path / name)[0]
        assert (document.content.decode(), document.domain, document.id) == (content, "", found)
    assert contents(read("text", tmp_path)[0]) == ["odd", "zipped", "To be\r\n"]


def test_the_column_of_the_text_can_be_named(tmp_path):
    path = write(tmp_path, {"a.jsonl": lines({"text": "not this", "summary": "this"}, {"text": "none"})})
    documents, skipped = read("text", path, text_column="summary")
    assert contents(documents) == ["this"]
    assert skipped.places == {"no text column ('summary')": "a.jsonl:2"}


def test_what_is_no_text_is_named_and_skipped(tmp_path):
    files = {"photo.txt": b"\x89PNG\r\n\x1a\n", "wide.txt": "wide".encode("utf-16"), "fine.txt": "fine"}
    documents, skipped = read("text", write(tmp_path, files))
    assert contents(documents) == ["fine"]
    assert skipped.places == {"not text (a PNG image)": "photo.txt", "not text (UTF-16)": "wide.txt"}
