"""M2D2: domains by the names of folders and archives, one example a line."""

import pytest

from mixkabrn_jax.data.documents import PART_BYTES
from mixkabrn_jax.data.sources import NoDocumentsError
from tests.data.sources.trees import PACKINGS, contents, lines, pack, read, write

DOMAIN = {
    "train.txt": "One example . \n\n  \t\nanother , with “quotes”\n",
    "valid.txt": "held out\r\n\r\n\u3000\u00a0\r\nagain \r\n",
    "test.txt": b"whole\ncut in the midd" + "é".encode()[:1],
}


def _in(folder, files=DOMAIN):
    return {f"{folder}/{name}": content for name, content in files.items()}


def _told(documents):
    return sorted((document.domain, document.content) for document in documents)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_line_with_any_character_that_is_no_space_is_an_example_of_its_folders_domain(tmp_path, packing):
    path = pack(tmp_path / "m2d2", packing, _in("cs.CL") | _in("Culture_and_the_arts__Sports") | _in("stat_l1"))
    for domain in ("cs.CL", "Culture_and_the_arts__Sports", "stat_l1"):
        for split, expected in (
            ("train", ["One example . ", "another , with “quotes”"]),
            ("validation", ["held out", "again "]),
            ("test", ["whole", "cut in the midd\ufffd"]),
        ):
            documents, skipped = read("m2d2", path, split)
            assert contents(d for d in documents if d.domain == domain) == expected
            assert not skipped.counts
            assert {document.domain for document in documents} == {"cs.CL", "Culture_and_the_arts__Sports", "stat_l1"}


def test_an_archive_for_each_domain_is_a_folder_for_each_as_on_the_hub(tmp_path):
    folders = write(tmp_path / "folders", _in("cs.CL") | _in("math.AG_l1"))
    hub = tmp_path / "hub"
    write(hub, {"README.md": "# M2D2", "m2d2.py": "import datasets", ".gitattributes": "x"})
    pack(hub / "data" / "cs.CL", "tar.gz", _in("cs.CL"))  # the folder within, as published
    pack(hub / "data" / "math.AG_l1", "tar.gz", DOMAIN)  # and without it
    for split in (None, "train", "validation", "test"):
        documents, skipped = read("m2d2", hub, split)
        assert _told(documents) == _told(read("m2d2", folders, split)[0])
    assert len({document.id for document in documents}) == len(documents)
    assert skipped.counts["hidden"] == 1
    # README.md and m2d2.py are of no split, so not among those of "test".
    documents, skipped = read("m2d2", hub)
    assert skipped.counts["not a train.txt, valid.txt or test.txt"] == 2


def test_one_domain_is_read_by_its_folder_its_archive_or_one_of_its_files(tmp_path, monkeypatch):
    whole = write(tmp_path / "some.where" / "cs.CL", DOMAIN)
    expected = _told(read("m2d2", whole)[0])
    assert {domain for domain, _ in expected} == {"cs.CL"}
    for packing in PACKINGS[1:]:
        assert _told(read("m2d2", pack(tmp_path / packing / "cs.CL", packing, DOMAIN))[0]) == expected
        assert _told(read("m2d2", pack(tmp_path / packing / "in" / "cs.CL", packing, _in("cs.CL")))[0]) == expected
    assert _told(read("m2d2", whole / "train.txt")[0] + read("m2d2", whole / "valid.txt")[0]) == _told(
        read("m2d2", whole, "train")[0] + read("m2d2", whole, "validation")[0]
    )
    monkeypatch.chdir(whole)
    assert _told(read("m2d2", ".")[0]) == expected
    assert _told(read("m2d2", "train.txt")[0]) == _told(read("m2d2", whole, "train")[0])


def test_a_text_by_itself_may_be_called_anything_but_records_are_none(tmp_path):
    write(tmp_path, {"mine": "one\ntwo\n", "mine.jsonl": lines({"text": "one"}), "mine.jsonl.gz": b"{}"})
    assert contents(read("m2d2", tmp_path / "mine")[0]) == ["one", "two"]
    for name in ("mine.jsonl", "mine.jsonl.gz"):
        with pytest.raises(NoDocumentsError, match=r"no documents .*train\.txt.*; left out were 1 not a train\.txt"):
            read("m2d2", tmp_path / name)


def test_ids_are_lines_of_files_and_the_broken_character_is_counted(tmp_path):
    documents, skipped = read("m2d2", write(tmp_path, _in("cs.CL")))
    assert [document.id for document in documents] == [
        *("cs.CL/test.txt:1", "cs.CL/test.txt:2", "cs.CL/train.txt:1", "cs.CL/train.txt:4"),
        *("cs.CL/valid.txt:1", "cs.CL/valid.txt:4"),
    ]
    assert skipped.replaced == {"cs.CL/test.txt": 1}
    assert not any(document.prompt_bytes or document.continues for document in documents)


def test_a_line_of_any_length_comes_in_parts_that_are_that_line(tmp_path):
    words = b"w\xc3\xb6rter und " * (2 * PART_BYTES // 13)
    spaces = b" " * (PART_BYTES + 100)
    content = b"first\n" + words + b"\r\n" + spaces + b"\n" + spaces + b"late\n" + b"x" * (64 << 10) + b"\nlast"
    documents, _ = read("m2d2", write(tmp_path, {"cs.CL/train.txt": content}))
    by_line = {}
    for document in documents:
        by_line.setdefault(document.id.rpartition(":")[2], []).append(document)
    assert list(by_line) == ["1", "2", "4", "5", "6"]
    for parts in by_line.values():
        assert [part.continues for part in parts] == [True] * (len(parts) - 1) + [False]
    assert len(by_line["2"]) == 2
    assert max(len(document.content) for document in documents) <= PART_BYTES
    whole = {number: b"".join(part.content for part in parts) for number, parts in by_line.items()}
    assert whole["2"] == words
    assert whole["4"].strip() == b"late"
    assert (whole["5"], whole["6"]) == (b"x" * (64 << 10), b"last")


def test_a_file_that_is_no_text_is_damage(tmp_path):
    image = {"cs.AI/train.txt": b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "cs.AI/valid.txt": "text\n"}
    documents, skipped = read("m2d2", write(tmp_path, image))
    assert contents(documents) == ["text"]
    assert skipped.places == {"not text (a PNG image)": "cs.AI/train.txt"}
