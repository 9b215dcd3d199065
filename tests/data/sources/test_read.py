"""What holds of every source: splits, damage, and paths that hold nothing."""

import re

import pytest

from mixkabrn_jax.data.documents import DamagedError
from mixkabrn_jax.data.sources import AbsentSplitError
from mixkabrn_jax.data.sources.family import split_of
from tests.data.sources.trees import contents, lines, pack, read, write

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
