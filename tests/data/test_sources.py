"""Reading text files."""

import os
import re

import pytest

from mixkabrn_jax.data import sources
from mixkabrn_jax.data.sources import Document


def _write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def _ids(documents):
    return [document.id for document in documents]


def test_a_file_is_one_document_without_a_domain(tmp_path):
    _write(tmp_path, {"play.txt": b"To be\r\n\xff"})
    assert sources.text(tmp_path / "play.txt") == [Document(b"To be\r\n\xff", domain="", id="play.txt")]


def test_a_folder_is_its_files_in_sorted_order_with_the_first_subfolder_as_domain(tmp_path):
    _write(tmp_path, {"b/2.txt": b"b2", "b/deep/1.txt": b"bd1", "a/1.txt": b"a1", "z.txt": b"z", "b/10": b"b10"})
    documents = sources.text(str(tmp_path))
    assert _ids(documents) == ["a/1.txt", "b/10", "b/2.txt", "b/deep/1.txt", "z.txt"]
    assert [document.domain for document in documents] == ["a", "b", "b", "b", ""]
    assert [document.content for document in documents] == [b"a1", b"b10", b"b2", b"bd1", b"z"]


def test_what_a_folder_loses_is_counted_in_the_log(tmp_path, caplog):
    _write(
        tmp_path, {"a.txt": b"a", "e1.txt": b"", "d/e2.txt": b"", ".hidden": b"x", ".git/b.txt": b"b", "d/c.txt": b"c"}
    )
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "linked").symlink_to(tmp_path / "d", target_is_directory=True)
    assert _ids(sources.text(tmp_path)) == ["a.txt", "d/c.txt"]
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "skipped 2 empty, 2 hidden, 1 linked folders, 2 not regular; read 2 files" in record.getMessage()


def test_nothing_lost_means_nothing_logged(tmp_path, caplog):
    _write(tmp_path, {"a.txt": b"a", "b/c.txt": b"c"})
    sources.text(tmp_path)
    assert not caplog.records


def test_a_missing_path_is_named(tmp_path):
    path = str(tmp_path / "absent.txt")
    with pytest.raises(FileNotFoundError, match=re.escape(f"config.data.path={path!r} does not exist")):
        sources.text(path)


def test_a_path_without_content_is_named(tmp_path):
    _write(tmp_path, {"empty.txt": b"", "folder/also_empty.txt": b"", "folder/.hidden": b"x"})
    os.mkfifo(tmp_path / "pipe")
    for name in ("empty.txt", "folder", "pipe"):
        path = str(tmp_path / name)
        with pytest.raises(ValueError, match=re.escape(f"config.data.path={path!r}")):
            sources.text(path)
