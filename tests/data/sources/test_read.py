"""What holds of every source: splits, damage, and paths that hold nothing."""

import gzip
import os
import re
import tarfile

import pytest

from mixkabrn_jax.data import sources
from mixkabrn_jax.data.documents import DamagedError, Skipped
from mixkabrn_jax.data.sources import AbsentSplitError
from mixkabrn_jax.data.sources.family import split_of
from tests.data.sources.trees import config, contents, lines, pack, parquet, read, write

DAMAGED = {
    "text": ({"a.txt": "fine", "b.txt": b"\x89PNG\r\n"}, "b.txt: not text (a PNG image)"),
    "m2d2": ({"d/train.txt": "fine", "e/train.txt": b"\x89PNG\r\n"}, "e/train.txt: not text (a PNG image)"),
    "amps": ({"khan/1/1.json": '{"problem":\n "x"}'}, "khan/1/1.json:1: no text in 'hints' or 'solution'"),
    "math": ({"train/x/1.json": '{"problem":\n "x'}, "train/x/1.json:2: not JSON, or cut off"),
    "gsm8k": ({"train.jsonl": lines({"question": "a", "answer": "#### 1"}) + "{\n"}, "train.jsonl:2: not JSON"),
    "openqa": ({"train.jsonl": "\n" + lines({"question": "a"})}, "train.jsonl:2: no list of answers in"),
}


@pytest.mark.parametrize("source", DAMAGED)
def test_damage_is_an_error_that_begins_with_file_and_line_if_wanted(tmp_path, source):
    files, message = DAMAGED[source]
    with pytest.raises(DamagedError, match="^" + re.escape(message)):
        read(source, write(tmp_path, files), on_damage="error")


NQ = lines({"question": "who", "answer": ["x"]}, {"question": "where", "answer": ["y"]})
GSM8K = lines({"question": "how many", "answer": "one\n#### 1"})


@pytest.mark.parametrize(
    ("source", "content", "reason"),
    [
        ("gsm8k", NQ, "2 no text in 'answer'"),
        ("math", NQ, "2 no text in 'problem', no text in 'solution'"),
        ("amps", NQ, "2 no text in 'hints' or 'solution'"),
        ("openqa", GSM8K, "1 no list of answers in 'answer', 'answers' or 'targetValue'"),
        ("m2d2", "", ""),
        ("text", "", "1 empty"),
    ],
)
def test_a_path_without_a_record_of_the_source_is_an_error_that_says_what_is_missing(tmp_path, source, content, reason):
    path = write(tmp_path, {"here/a.jsonl": content}) / "here"
    for split in (None, "train"):
        with pytest.raises(ValueError, match=re.escape(f"config.data.path={str(path)!r}: no documents")) as error:
            read(source, path, split)
        assert reason in str(error.value)
        assert "this source reads" in str(error.value)


def test_a_path_may_begin_at_the_users_home(tmp_path, monkeypatch):
    write(tmp_path, {"texts/a.txt": "a"})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert [document.id for document in read("text", "~/texts")[0]] == ["a.txt"]


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"config.data.path={str(tmp_path / 'x')!r} does not exist")):
        read("gsm8k", tmp_path / "x")
    with pytest.raises(ValueError, match=re.escape(f"config.data.path={str(tmp_path)!r}: no documents")):
        read("gsm8k", tmp_path)


def test_a_split_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path):
    write(tmp_path, {"data/train.jsonl": GSM8K, "data/test.jsonl": GSM8K, "only.dev.jsonl": GSM8K})
    message = (
        re.escape(f"config.data.path={str(tmp_path / 'data')!r}: ")
        + "no files of the split 'validation', only of test, train"
    )
    with pytest.raises(AbsentSplitError, match=message):
        read("gsm8k", tmp_path / "data", "validation")
    with pytest.raises(AbsentSplitError, match="no files of the split 'train', only of validation"):
        read("gsm8k", tmp_path / "only.dev.jsonl", "train")
    with pytest.raises(AbsentSplitError, match=r"config\.data\.source='sotu': no files of the split 'test'"):
        read("sotu", "", "test")


def test_a_file_by_itself_whose_name_says_nothing_is_of_the_split_that_is_asked_for(tmp_path):
    path = write(tmp_path, {"sums.jsonl": GSM8K}) / "sums.jsonl"
    for split in (None, "train", "validation", "test"):
        assert len(read("gsm8k", path, split)[0]) == 1
    with pytest.raises(AbsentSplitError):
        read("gsm8k", tmp_path, "test")


@pytest.mark.parametrize("packing", ["folder", "tar.gz"])
def test_a_path_is_of_the_split_that_its_own_name_is(tmp_path, packing):
    inside = {"a.jsonl": GSM8K}
    assert len(read("gsm8k", pack(tmp_path / "1" / "test", packing, inside), "test")[0]) == 1
    with pytest.raises(AbsentSplitError):
        read("gsm8k", pack(tmp_path / "2" / "test", packing, inside), "train")
    # A folder may be called anything, such as by a name with the word in it.
    assert len(read("gsm8k", write(tmp_path / "my_test_of_it", inside), "train")[0]) == 1


def test_a_part_of_a_set_is_of_the_split_that_it_is_of_in_the_whole(tmp_path):
    problem = {"problem": "p", "solution": "$\\boxed{1}$", "type": "Algebra"}
    write(tmp_path, {f"MATH/{split}/algebra/1.json": problem for split in ("train", "test")})
    hub = {f"main/{split}/0000.parquet": parquet({"question": "q", "answer": "#### 1"}) for split in ("train", "test")}
    write(tmp_path / "gsm8k", hub)
    write(tmp_path, {"nq/dev/x/a.jsonl": NQ})
    write(tmp_path / "code", {"test/x.py": "x = 1", "test/rows.jsonl": lines({"code": "x = 1"})})
    pack(tmp_path / "MATH" / "test" / "geometry", "tar.gz", {"1.json": problem})
    for source, part, split in (
        ("math", "MATH/test", "test"),
        ("math", "MATH/test/algebra", "test"),
        ("math", "MATH/test/algebra/1.json", "test"),
        ("math", "MATH/test/geometry.tar.gz", "test"),
        ("math", "MATH/test/../test/algebra/.", "test"),
        ("math", "MATH/train/algebra", "train"),
        ("gsm8k", "gsm8k/main/test", "test"),
        ("gsm8k", "gsm8k/main/test/0000.parquet", "test"),
        ("openqa", "nq/dev", "validation"),
        ("code", "code/test/rows.jsonl", "test"),
    ):
        assert len(read(source, tmp_path / part, split)[0]) == len(read(source, tmp_path / part)[0]) > 0, part
        for other in {"train", "validation", "test"} - {split}:
            with pytest.raises(AbsentSplitError, match=f"no files of the split '{other}', only of {split}"):
                read(source, tmp_path / part, other)
    assert contents(read("code", tmp_path / "code" / "test", "train")[0]) == ["x = 1"]
    assert read("code", tmp_path / "code" / "test", "train")[0][0].id == "x.py"
    assert read("code", tmp_path / "code" / "test", "test")[0][0].id == "rows.jsonl:1"


def test_folders_that_people_work_in_are_no_splits(tmp_path):
    problem = {"problem": "p", "solution": "$\\boxed{1}$"}
    for name in ("dev/mine/1.json", "test/x/y/mine/1.json", "mytest/mine/1.json", "testé/mine/1.json"):
        assert len(read("math", (write(tmp_path, {name: problem}) / name).parent, "train")[0]) == 1
    # No layout but that of MATH has folders within that of a split.
    assert len(read("openqa", write(tmp_path, {"test/mine/a.jsonl": NQ}) / "test" / "mine", "train")[0]) == 2


def test_training_does_not_read_a_part_that_is_for_tests(tmp_path):
    problem = {"problem": "p", "solution": "$\\boxed{1}$"}
    path = write(tmp_path, {"MATH/test/algebra/1.json": problem}) / "MATH" / "test" / "algebra"
    assert not list(sources.read_splits(config("math", path), Skipped()))
    assert len(list(sources.read_splits(config("math", path / "1.json"), Skipped()))) == 1  # it is all that there is


def test_what_is_left_out_of_another_split_is_not_counted(tmp_path):
    cut = gzip.compress(os.urandom(2000).hex().encode())[:-30]
    files = {
        "train.jsonl": GSM8K + "no JSON\n",
        "more/train.jsonl": "",
        "train-2.jsonl.gz": cut,
        "test.jsonl": GSM8K + "[]\n",
        "more/test.jsonl": "",
        "LICENSE": "MIT",
    }
    expected = {
        "test": {"not a JSON object": 1, "empty": 1},
        "train": {"not JSON": 1, "empty": 1, "no file of records": 1},
    }
    for packing in ("folder", "tar", "zip"):
        path = pack(tmp_path / packing, packing, files)
        for split, counts in expected.items():
            documents, skipped = read("gsm8k", path, split)
            assert len(documents) == 1
            found = dict(skipped.counts)
            if split == "train":
                assert [found.pop(reason) for reason in [*found] if reason.startswith("damaged archive (")] == [1]
                found["not JSON"] -= 1  # the line that the damage cuts
            assert found == counts
        with pytest.raises(DamagedError, match=r"^test\.jsonl:2"):
            read("gsm8k", path, "test", on_damage="error")
    skipped = Skipped()
    list(sources.read_splits(config("gsm8k", tmp_path / "folder"), skipped))
    assert "not a JSON object" not in skipped.counts  # training reads no tests


def test_names_that_are_no_utf8_become_domains_and_ids_that_can_be_written(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/a/caf\xe9")
    try:
        os.makedirs(folder)
    except OSError:
        pytest.skip("a file system without such names")
    problem = '{"problem": "p", "solution": "\\\\boxed{1}"}'
    for name, content in (
        (b"\xff.txt", "text"),
        (b"\xfe.txt", "text"),
        (b"train.txt", "line"),
        (b"\xff.json", problem),
    ):
        with open(os.fsencode(folder) + b"/" + name, "w") as file:
            file.write(content)
    with tarfile.open(tmp_path / "a" / "x.tar", "w") as archive:
        archive.add(folder, os.fsdecode(b"caf\xe9"))
    inside = {"\\xfe.txt", "\\xff.json", "\\xff.txt", "train.txt"}
    documents, _ = read("text", tmp_path / "a")
    assert {document.id for document in documents} == {f"{way}caf\\xe9/{x}" for way in ("", "x.tar/") for x in inside}
    for source, path in (
        ("text", tmp_path / "a"),
        ("m2d2", folder),
        ("math", folder),
        ("math", f"{folder}/\udcff.json"),
    ):
        assert read(source, path)[0][0].domain == "caf\\xe9"
    assert contents(read("m2d2", f"{folder}/\udcff.txt")[0]) == ["text"]


def test_a_folder_may_hold_a_file_of_its_own_name(tmp_path):
    path = write(tmp_path, {"cs.CL/cs.CL": "a", "cs.CL/train.txt": "b"}) / "cs.CL"
    documents, skipped = read("m2d2", path)
    assert contents(documents) == ["b"]
    assert sum(skipped.counts.values()) == 1


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("nq_open.dev.jsonl", "validation"),
        ("MATH/test/algebra/1.json", "test"),
        ("test_l1/train.txt", "train"),
        ("main/validation-00000-of-00001.parquet", "validation"),
        ("val/x.json", "validation"),
        ("contest/trainer.txt", None),
        ("a.txt", None),
    ],
)
def test_a_path_names_its_split_by_the_word_nearest_to_its_end(name, split):
    assert split_of(name) == split


def test_patterns_choose_the_files_of_a_source(tmp_path):
    write(tmp_path, {"cs.CL/train.txt": "a", "cs.AI/train.txt": "b", "math/train.txt": "c"})
    assert contents(read("m2d2", tmp_path, include="cs.*/*")[0]) == ["b", "a"]
    assert contents(read("m2d2", tmp_path, exclude="cs.*/*")[0]) == ["c"]
