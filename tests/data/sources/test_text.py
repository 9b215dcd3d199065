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


# A table of the hub, with what looks like titles and is none: sections, formulas.
ONE = ["", " = One = \n", "", " It has <unk> . \n", "", " = = More = = \n", "", " x \n", " = 7 = \n", "", " = 8 = \n"]
ONE += [" and y . \n", "", " = = odd = \n", "", " = odd = = \n", "", ""]
TWO = [" = Two = = 2 = \n", "", " = \n", "", " The end . \n"]
ROWS = ONE + TWO


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_the_lines_of_wikitext_are_joined_to_articles_that_are_the_published_file_end_to_end(tmp_path, form):
    records = [{"text": row} for row in ROWS]
    content = parquet(*records) if form == "parquet" else lines(*records)
    documents, skipped = read("text", write(tmp_path, {f"test-00000-of-00001.{form}": content}), "test")
    # The blank row before a title ends the article before.
    assert contents(documents) == ["".join(row or " \n" for row in rows) for rows in (ONE, TWO)]
    assert [document.id.rpartition(":")[2] for document in documents] == ["2", f"{len(ONE) + 1}"]
    assert not skipped.counts


def test_rows_of_other_tables_are_documents_each(tmp_path):
    others = [
        [{"text": row, "id": number} for number, row in enumerate(ROWS)],
        [{"text": row} for row in ROWS[1:]],
        [{"text": row} for row in ("", " = = One = = \n", "", " a \n")],
        [{"text": row} for row in ("", "= One =", "", "a")],
        [{"text": ""}, {"text": "a"}],
    ]
    for number, records in enumerate(others):
        documents, skipped = read(
            "text", write(tmp_path, {f"{number}.parquet": parquet(*records)}) / f"{number}.parquet"
        )
        assert contents(documents) == [record["text"] for record in records if record["text"]]
        assert skipped.counts["empty"] == len(records) - len(documents)


@pytest.mark.parametrize(
    "content", ['[{"text": "a"}, {"text": "b"}, 7]', '\ufeff [\n {"text":\n "a"},\n{"text": "b"}, 7]']
)
def test_a_list_of_records_in_json_is_its_records(tmp_path, content):
    documents, skipped = read(
        "text", write(tmp_path, {"a.json": content, "b.json.gz": gzip.compress(content.encode())})
    )
    assert [document.id for document in documents] == ["a.json:1", "a.json:2", "b.json:1", "b.json:2"]
    assert contents(documents) == ["a", "b"] * 2
    assert skipped.counts == {"not a JSON object": 2}


def test_other_json_is_a_text_as_it_stands(tmp_path):
    texts = ['["a", "b"]', "[]", '{"data": [{"text": "a"}]}', '[[{"text": "a"}]]', "no JSON"]
    for number, text in enumerate(texts):
        write(tmp_path, {f"{number}.json": text})
    write(tmp_path, {"list.txt": '[{"text": "a"}]'})
    assert contents(read("text", tmp_path)[0]) == [*texts, '[{"text": "a"}]']


def test_records_of_prompt_and_target_are_tasks_unless_a_column_is_named(tmp_path):
    record = {"instruction": "Add.", "input": "1 1", "output": "2", "text": "all of it"}
    path = write(tmp_path, {"x/alpaca.json": [record, {"text": "a text"}]})
    asked, told = read("text", path)[0]
    assert (asked.prompt, asked.target, asked.domain, asked.id) == (b"Add.\n1 1\n", b"2", "x", "x/alpaca.json:1")
    assert (told.prompt_bytes, told.content) == (0, b"a text")
    assert contents(read("text", path, text_column="text")[0]) == ["all of it", "a text"]
