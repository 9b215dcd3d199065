"""Rows of code with their licences, problems with their tests, and folders of source files."""

import gzip
import io
import json
import sys
import tarfile

import pytest

from configs import lm
from mixkabrn_jax.data import sources
from mixkabrn_jax.data.config import SPLITS, DataConfig
from mixkabrn_jax.data.documents import DamagedError, Skipped
from mixkabrn_jax.data.sources import code

PROBLEM = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """Adds."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n",
}


def config(path="", **changes):
    return DataConfig(**{**lm.get_config().data.to_dict(), "source": "code", "path": str(path), **changes})


def read(path="", split=None, **changes):
    """(documents, what was left out)."""
    given = config(path, **changes)
    skipped = Skipped(given.on_damage)
    return list(sources.read(given, split, skipped)), skipped


def rows(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_code_of_a_row_is_found_in_the_usual_columns_and_what_was_asked_stands_before_it(tmp_path):
    published = [
        {"problem": "def one():\n", "solution": "    return 1"},  # code_exercises
        {
            "prompt": "Write one.",
            "response": "def one():\n    return 1",
            "programming_language": "Python",
        },  # tiny-codes
        {"code": "int x;", "language": "C", "license": "mit", "size": 6},  # github-code
        {"content": "let x;", "lang": "JavaScript", "licenses": ["MIT"], "max_stars_count": None},  # the-stack-smol
        {"instruction": "Say x", "text": "x"},
        {"prompt": " ", "canonical_solution": "\nreturn"},
    ]
    found, skipped = read(rows(tmp_path / "x.jsonl", *published))
    assert not skipped.counts
    assert [(document.prompt, document.target) for document in found] == [
        (b"def one():\n", b"    return 1"),
        (b"Write one.\n", b"def one():\n    return 1"),
        (b"", b"int x;"),
        (b"", b"let x;"),
        (b"Say x\n", b"x"),
        (b"", b"\nreturn"),
    ]
    assert [document.domain for document in found] == ["", "python", "c", "javascript", "", ""]
    assert [document.id for document in found] == [f"x.jsonl:{number}" for number in range(1, 7)]


def test_a_column_that_is_named_is_the_one_that_is_read(tmp_path):
    path = rows(tmp_path / "x.jsonl", {"content": "no", "body": "yes", "prompt": "p\n"}, {"content": "no"})
    [document], skipped = read(path, text_column="body")
    assert (document.prompt, document.target) == (b"p\n", b"yes")
    assert skipped.counts == {"no text column ('body')": 1}
    with pytest.raises(DamagedError, match=r"^x\.jsonl:2: no text column \('body'\)$"):
        read(path, text_column="body", on_damage="error")


@pytest.mark.parametrize(
    ("row", "unwanted"),
    [
        ({}, None),
        ({"license": None}, None),
        ({"license": ""}, None),
        ({"license": "MIT"}, None),
        ({"license": "mit"}, None),
        ({"licenses": ["Apache-2.0", "MIT"]}, None),
        ({"max_stars_repo_licenses": ["BSD-3-Clause"]}, None),
        ({"license": "MIT OR GPL-3.0-only"}, None),
        ({"license": "(MIT AND Apache-2.0)"}, None),
        ({"license": "GPL-3.0"}, "gpl-3.0"),
        ({"license": "unknown"}, "unknown"),
        ({"licenses": ["MIT", "GPL-2.0"]}, "gpl-2.0"),
        ({"license": "MIT AND GPL-3.0-only"}, "mit and gpl-3.0-only"),
        ({"license": "mit", "max_stars_repo_licenses": ["AGPL-3.0"]}, "agpl-3.0"),
        ({"license": "mitigated"}, "mitigated"),
        ({"license": 7}, None),
    ],
)
def test_rows_under_other_licences_are_left_out_and_counted_and_those_without_one_are_read(tmp_path, row, unwanted):
    path = rows(tmp_path / "x.jsonl", {"content": "first"}, {"content": "x", **row})
    found, skipped = read(path)
    assert skipped.counts == ({f"licence {unwanted}": 1} if unwanted else {})
    assert len(found) == 1 + (unwanted is None)
    assert len(read(path, licenses="")[0]) == 2


def test_the_licences_that_are_allowed_can_be_named(tmp_path):
    path = rows(tmp_path / "x.jsonl", {"content": "x", "license": "GPL-3.0"}, {"content": "y", "license": "MIT"})
    found, skipped = read(path, licenses="agpl-3.0, gpl-3.0 ,", on_damage="error")
    assert [document.content for document in found] == [b"x"]
    assert skipped.counts == {"licence mit": 1}
    assert skipped.places == {"licence mit": "x.jsonl:2"}


def test_humaneval_is_tasks_whose_tests_pass_with_the_solution_and_with_no_other(tmp_path):
    [document], _ = read(rows(tmp_path / "humaneval.jsonl", PROBLEM))
    assert (document.prompt, document.target) == (PROBLEM["prompt"].encode(), b"    return a + b\n")
    assert (document.domain, document.id) == ("humaneval", "humaneval.jsonl:1")
    exec(f"{document.content.decode()}\n{document.tests}", {})
    with pytest.raises(AssertionError):
        exec(f"{document.prompt.decode()}    return a - b\n{document.tests}", {})


def test_source_files_are_documents_of_their_language_and_their_folders_name_no_split(tmp_path):
    files = {
        "package/tests/test_x.py": b"assert x\n",
        "package/val/x.PY": b"x = 1\n",
        "src/x.cc": b"int x;\n",
        "src/x.h": b"int x;\n",
        "README.md": b"# x\n",
        "Makefile": b"all:\n",
        "src/binary.js": bytes(100),
        "src/py": b"no ending",
        "go.mod/x.go": b"package x\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found, skipped = read(tmp_path, "train")
    assert {document.id: document.domain for document in found} == {
        "go.mod/x.go": "go",
        "package/tests/test_x.py": "python",
        "package/val/x.PY": "python",
        "src/x.cc": "c++",
        "src/x.h": "c",
    }
    assert skipped.counts == {"no source code by its ending": 3, "not text (binary)": 1}
    assert skipped.places["not text (binary)"] == "src/binary.js"


def test_rows_have_the_split_that_their_file_names(tmp_path):
    for name in ("train", "test", "valid"):
        rows(tmp_path / "data" / f"{name}-00000.jsonl", {"content": name})
    rows(tmp_path / "more.jsonl", {"content": "more"})
    contents = {split: [document.content.decode() for document in read(tmp_path, split)[0]] for split in SPLITS}
    assert contents == {"train": ["train", "more"], "validation": ["valid"], "test": ["test"]}


def test_rows_of_the_stack_are_read_though_their_files_end_in_json_and_other_json_is_left_out(tmp_path):
    (tmp_path / "data" / "python").mkdir(parents=True)
    rows(tmp_path / "data" / "python" / "data.json", {"content": "x", "lang": "Python"}, {"content": "y"})
    (tmp_path / "package.json").write_text('{\n "name": "x"\n}\n')
    found, skipped = read(tmp_path, "train")
    assert [document.content for document in found] == [b"x", b"y"]
    assert skipped.places == {"no source code by its ending": "package.json"}


def test_rows_and_files_are_the_same_in_archives_and_parquet(tmp_path):
    published = [{"content": f"x = {number}\n", "lang": "Python", "licenses": ["MIT"]} for number in range(5)]
    lines = "".join(json.dumps(row) + "\n" for row in published).encode()
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(lines))
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for name, content in (("a/x.jsonl", lines), ("a/y.py", b"y = 1\n")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    plain = [document.content for document in read(tmp_path / "x.jsonl.gz")[0]]
    assert plain == [row["content"].encode() for row in published]
    assert [document.content for document in read(tmp_path / "x.tar.gz")[0]] == [*plain, b"y = 1\n"]
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(published), tmp_path / "x.parquet")
    assert [document.content for document in read(tmp_path / "x.parquet")[0]] == plain


def test_the_standard_library_of_this_python_is_built_in():
    stream = sources.read(config(), "train", Skipped())
    first = [next(stream) for _ in range(30)]
    assert all(document.domain == "python" for document in first)
    stems = [document.id for document in first]
    assert stems == sorted(stems)
    assert list(code.standard_library(config(), "validation")) == []


def test_of_the_standard_library_neither_tests_nor_packages_of_others_are_read(tmp_path, monkeypatch):
    for name in ("os.py", "json/x.py", "json/test/x.py", "test/x.py", "site-packages/x.py", "x.txt", "json/tests/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(code.sysconfig, "get_path", lambda _: str(tmp_path))
    assert [document.id for document in read()[0]] == ["os.py", "json/x.py"]
    monkeypatch.setattr(code.sysconfig, "get_path", lambda _: str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"config\.data\..*: the standard library of Python has no source in"):
        read()


def test_the_standard_library_is_that_of_the_interpreter():
    import json.decoder

    ids = {document.id for document in read()[0]}
    assert "json/decoder.py" in ids
    assert json.decoder.__file__.endswith("json/decoder.py")
    assert not {name for name in ids if name.startswith(("test/", "site-packages/")) or "/tests/" in name}
    assert len(ids) > 300
    assert sys.version
