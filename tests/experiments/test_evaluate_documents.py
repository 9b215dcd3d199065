"""Which documents experiments.evaluate asks: what the run held out, as it was then, or those that are named."""

import json
import re
import shutil

import pytest
from absl import flags

from mixkabrn_jax.data import pipeline, splitting
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.runs.config import build


@pytest.fixture
def own(tmp_path, trained):
    """(the workdir of a run that has a record of its data, the folder of these, the flag of its config's cache)."""
    directory, _ = trained
    shutil.copytree(directory / "texts", tmp_path / "texts")
    shutil.copytree(directory / "run", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"] |= {"path": str(tmp_path / "texts"), "cache": str(tmp_path / "cache")}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    data = pipeline.load(build(DataConfig, config["data"], "config.data")).fingerprints()
    (tmp_path / "run" / "data.json").write_text(json.dumps(data))
    return tmp_path / "run", tmp_path / "texts"


@pytest.mark.parametrize("has_cache", [True, False])
def test_a_run_is_not_asked_of_what_it_did_not_hold_out(entry, own, capsys, has_cache):
    directory, texts = own
    if not has_cache:
        shutil.rmtree(directory.parent / "cache")
    program = entry("evaluate")
    assert program.run(f"--workdir={directory}") == 0
    assert "warning" not in capsys.readouterr().err
    (texts / "b" / "3.txt").unlink()
    page = directory.parent / "page.html"
    there = json.loads((directory / "data.json").read_text())
    for split in ("validation", "train"):
        flags.FLAGS.unparse_flags()
        assert program.run(f"--workdir={directory}", f"--split={split}", f"--html={page}") == 1
        told = capsys.readouterr()
        found = json.loads(told.out.splitlines()[-1])
        for error in (found["error"], found["tasks"]["bits_per_byte"]["error"]):
            had = there[split].split()[0]
            said = rf"{directory} holds a run on other data: the {split} part has \d+ tokens and had {had}; restore the"
            assert re.search(said, error)
            assert error.endswith(", or name a text by --path")
        assert found["parameters"]["total"] > 0  # which every line has
        assert not page.exists()
    flags.FLAGS.unparse_flags()
    assert program.run(f"--workdir={directory}", f"--path={texts}", "--split=train") == 0


def test_what_is_not_scored_may_change(entry, own, capsys):
    """With a path of its own for validation, more text to train on leaves what was held out as it was."""
    directory, texts = own
    shutil.copytree(texts / "a", directory.parent / "held")
    config = json.loads((directory / "config.json").read_text())
    config["data"]["validation_path"] = str(directory.parent / "held")
    (directory / "config.json").write_text(json.dumps(config))
    data = pipeline.load(build(DataConfig, config["data"], "config.data")).fingerprints()
    (directory / "data.json").write_text(json.dumps(data))
    (texts / "c.txt").write_text("more")
    assert entry("evaluate").run(f"--workdir={directory}") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]["bits_per_byte"]["n"] == 2


def test_a_run_that_has_no_record_of_its_data_is_scored_with_a_warning(entry, trained, capsys):
    directory, _ = trained
    assert entry("evaluate").run(f"--workdir={directory / 'run'}") == 0
    assert "does not say what it was trained on: it may have seen this text" in capsys.readouterr().err


def test_the_whole_text_is_read_once_to_cut_it_and_once_for_each_score(entry, own, monkeypatch):
    """And once more for the comparison where its tokens are not kept, as here."""
    directory, _ = own
    shutil.rmtree(directory.parent / "cache")
    passes, published = [], splitting.Split._published
    monkeypatch.setattr(splitting.Split, "_published", lambda *given: passes.append("a pass") or published(*given))
    assert entry("evaluate").run(f"--workdir={directory}") == 0
    first_document = 1
    assert len(passes) == 1 + 1 + first_document + 2
    assert not (directory.parent / "cache").exists()


def test_a_path_is_read_by_patterns_and_a_column_of_its_own(entry, trained, capsys, tmp_path):
    directory, _ = trained
    for name, column in (("a.jsonl", "mine"), ("b.jsonl", "mine"), ("c.txt", "")):
        (tmp_path / name).write_text(json.dumps({column: f"text of {name}"}) + "\n")
    arguments = [f"--workdir={directory / 'run'}", f"--path={tmp_path}"]
    program = entry("evaluate")
    for more, texts in (
        (["--text_column=mine", "--include=*.jsonl"], ["text of a.jsonl", "text of b.jsonl"]),
        (["--text_column=mine", "--include=*.jsonl", "--exclude=b*"], ["text of a.jsonl"]),
    ):
        flags.FLAGS.unparse_flags()
        assert program.run(*arguments, *more) == 0
        scores = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]["bits_per_byte"]
        assert (scores["n"], scores["bytes"]) == (len(texts), sum(map(len, texts)))


def test_examples_are_of_the_training_split_and_never_asked(entry, trained, capsys, tmp_path):
    directory, _ = trained
    questions = [{"question": f"{i}?", "answer": f"{i}\n#### {i}"} for i in range(4)]
    for name, some in (
        ("set/train.jsonl", questions[:2]),
        ("set/test.jsonl", questions[2:]),
        ("mine.jsonl", questions),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(one) + "\n" for one in some))
    arguments = [f"--workdir={directory / 'run'}", "--tasks=gsm8k", "--shots=1", "--max_tokens=2"]
    entry("evaluate").run(*arguments, f"--path={tmp_path / 'set'}")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]["gsm8k"]["n"] == 2
    flags.FLAGS.unparse_flags()
    assert entry("evaluate").run(*arguments, f"--path={tmp_path / 'mine.jsonl'}", "--limit=2") == 0
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["tasks"]["gsm8k"]["n"] == 2
    assert "left out: 1 among the examples (first: mine.jsonl:1)" in told.err
    for path, number, message in (
        ("set/test.jsonl", 1, "--shots=1 takes its examples from the training split: --path='"),
        ("set", 3, "--shots=3: the training split has 2 documents"),
        ("mine.jsonl", 4, "there are no documents to be asked; left out were 4 among the examples"),
    ):
        flags.FLAGS.unparse_flags()
        assert entry("evaluate").run(*arguments, f"--shots={number}", f"--path={tmp_path / path}") == 1
        assert f"error: gsm8k: {message}" in capsys.readouterr().err
