import json
import re
import shutil
import sys

import pytest

from experiments.evaluating.completions import Completions
from mixkabrn_jax import runs
from mixkabrn_jax.data import pipeline, tokenizers
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import task
from mixkabrn_jax.evaluation.score import Scorer
from mixkabrn_jax.models.language import count_parameters
from mixkabrn_jax.runs import workdir
from mixkabrn_jax.runs.config import build

TOKENIZER = tokenizers.Bytes()


def num_bytes(directory):
    """Of all its texts."""
    return sum(path.stat().st_size for path in (directory / "texts").rglob("*.txt"))


def test_the_last_line_has_every_figure_and_the_table_every_domain(entry, trained, capsys, tmp_path):
    directory, model = trained
    arguments = [
        f"--path={directory / 'texts'}",
        f"--pictures={tmp_path / 'png'}",
        f"--html={tmp_path / 'new/page.html'}",
    ]
    entry("evaluate").run(f"--workdir={directory / 'run'}", "--prompts=to be", "--max_tokens=5", *arguments)
    *people, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["parameters"] == count_parameters(model)
    assert found["state_bytes"] > 0
    assert found["parameter_bytes"]["stored"] >= 4 * found["parameters"]["total"]
    scores = found["tasks"]["bits_per_byte"]
    assert (scores["n"], scores["bytes"]) == (3, num_bytes(directory))
    assert {name: one["n"] for name, one in scores["domains"].items()} == {"a": 2, "b": 1}
    for name in ("a", "b", "overall"):
        of_domain = scores if name == "overall" else scores["domains"][name]
        (line,) = [line for line in people if line.split()[:1] == [name]]
        assert line.split()[1] == f"{of_domain['bits_per_byte']:.4f}"
    written = Scorer(model, TOKENIZER, 16).complete([b"to be"], 5)[0].decode(errors="replace")
    assert found["samples"] == [{"prompt": "to be", "text": written}]
    assert (tmp_path / "png" / "bits_by_domain.png").exists()
    assert "größe" not in (tmp_path / "new/page.html").read_text()  # the first document alone


def test_by_default_the_documents_that_the_run_held_out_are_scored(entry, trained, capsys):
    directory, _ = trained
    entry("evaluate").run(f"--workdir={directory / 'run'}")
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]["bits_per_byte"]
    corpus = pipeline.load(build(DataConfig, workdir.load_config(directory / "run")["data"], "config.data"))
    held_out = sum(int(window["num_bytes"].sum()) for window in corpus.validation)
    assert scores["bytes"] == held_out < num_bytes(directory) / 2


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_alone_is_that_of_the_run(entry, trained, capsys, split):
    directory, _ = trained
    status = entry("evaluate").run(f"--workdir={directory / 'run'}", f"--split={split}")
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]["bits_per_byte"]
    if split == "test":
        assert (status, scores) == (1, {"error": "there are no documents to score"})
        return
    assert status == 0
    corpus = pipeline.load(build(DataConfig, workdir.load_config(directory / "run")["data"], "config.data"))
    windows = getattr(corpus, split)
    assert scores["bytes"] == sum(int(window["num_bytes"].sum()) for window in windows)


@pytest.mark.parametrize("is_other", [True, False])
def test_a_run_on_a_mixture_is_asked_about_other_text_and_about_its_own(entry, trained, capsys, tmp_path, is_other):
    directory, _ = trained
    shutil.copytree(directory / "run", tmp_path / "mixed")
    config = json.loads((tmp_path / "mixed" / "config.json").read_text())
    mixture = f"0.5*text:{directory / 'texts' / 'a'},0.5*m2d2:{directory / 'texts' / 'b' / '3.txt'}"
    config["data"] |= {"mixture": mixture, "source": "auto", "path": ""}
    (tmp_path / "mixed" / "config.json").write_text(json.dumps(config))
    arguments = [f"--path={directory / 'texts'}"] if is_other else []
    entry("evaluate").run(f"--workdir={tmp_path / 'mixed'}", *arguments)
    told = capsys.readouterr()
    # Of a mixture each part for itself, whatever domains it has.
    parts = [f"m2d2:{directory / 'texts' / 'b' / '3.txt'}/b", f"text:{directory / 'texts' / 'a'}"]
    assert list(json.loads(told.out.splitlines()[-1])["tasks"]["bits_per_byte"]["domains"]) == (
        ["a", "b"] if is_other else parts
    )
    assert ("m2d2: M2D2 is CC BY-NC" in told.err) == (not is_other)


def test_completions_are_kept_a_line_each(entry, trained, tmp_path):
    directory, _ = trained
    (tmp_path / "train.jsonl").write_text('{"question": "0?", "answer": "#### 0"}\n')
    questions = [{"question": f"{i}?", "answer": f"so\n#### {i}"} for i in range(2)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    arguments = [f"--workdir={directory / 'run'}", "--tasks=gsm8k", f"--path={tmp_path}", "--max_tokens=2", "--shots=1"]
    assert entry("evaluate").run(*arguments, f"--completions={tmp_path / 'new' / 'kept.jsonl'}") == 0
    lines = [json.loads(line) for line in (tmp_path / "new" / "kept.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [["task", "id", "prompt", "completion", "reference", "right"]] * 2
    for number, line in enumerate(lines):
        assert (line["task"], line["id"]) == ("gsm8k", f"test.jsonl:{number + 1}")
        assert (line["prompt"], line["reference"]) == (f"Question: {number}?\nAnswer:", [str(number)])
        assert line["right"] is (str(number) in line["completion"])  # two bytes hold one number at most


def test_on_a_full_disk_the_last_line_is_there_and_the_file_is_named(entry, trained, capsys, tmp_path):
    directory, _ = trained
    (tmp_path / "png").mkdir()
    for name in ("png/bits_by_domain.png", "page.html"):
        (tmp_path / name).symlink_to("/dev/full")
    arguments = [f"--workdir={directory / 'run'}", f"--pictures={tmp_path / 'png'}", f"--html={tmp_path / 'page.html'}"]
    assert entry("evaluate").run(*arguments) == 1
    told = capsys.readouterr()
    found = json.loads(told.out.splitlines()[-1])
    assert found["tasks"]["bits_per_byte"]["n"] > 0
    assert found["error"].count("No space left on device") == 2
    for flag, name in (("--pictures", "png/bits_by_domain.png"), ("--html", "page.html")):
        assert re.search(rf"error: {flag}: \[Errno 28\] No space left on device: '{tmp_path / name}'", told.err)


def test_completions_that_a_full_disk_does_not_take_cost_no_figures(tmp_path):
    (tmp_path / "kept.jsonl").symlink_to("/dev/full")
    kept = Completions(tmp_path / "kept.jsonl")
    for _ in range(2):
        kept.of("gsm8k")(task("a?", " b", "", "x:1", ("b",)), "c", False)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path / 'kept.jsonl'}'"):
        kept.require_whole()


def test_a_task_that_fails_is_named_and_takes_no_figures_of_the_others_with_it(entry, trained, capsys, tmp_path):
    directory, _ = trained
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.jsonl").write_text('{"question": "1?"}\n')
    arguments = [f"--workdir={directory / 'run'}", f"--path={tmp_path / 'set'}", "--split=train", "--max_tokens=2"]
    tasks = "--tasks=recall,gsm8k,recall,bits_per_byte,humaneval"
    assert entry("evaluate").run(*arguments, tasks, "--limit=1", f"--html={tmp_path / 'page.html'}") == 1
    told = capsys.readouterr()
    found = json.loads(told.out.splitlines()[-1])
    assert list(found["tasks"]) == ["recall", "gsm8k", "bits_per_byte", "humaneval"]
    assert found["tasks"]["recall"]["n"] == 1
    of_gsm8k = "no files of the split 'train', only of test"
    of_text = "no documents (this source reads text"  # and what was left out, once
    said = {"gsm8k": of_gsm8k, "bits_per_byte": of_text, "humaneval": "allow_code=True", "--html": of_text}
    for name, sentence in said.items():
        assert sentence in (found if name == "--html" else found["tasks"][name])["error"]
        [line] = [line for line in told.err.splitlines() if line.startswith(f"error: {name}: ")]
        assert sentence in line
        assert line.count("left out") == (sentence == of_text)
    assert told.out.count("accuracy ") == 1  # asked once, though named twice


@pytest.mark.parametrize("source", [(), ("--source=text",)])
def test_a_task_that_is_made_up_reads_its_own_records_beside_tasks_that_read_files(entry, trained, capsys, source):
    directory, _ = trained
    arguments = [f"--path={directory / 'texts'}", "--limit=3", "--tasks=recall,bits_per_byte", *source]
    assert not entry("evaluate").run(f"--workdir={directory / 'run'}", *arguments)
    tasks = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]
    assert (tasks["recall"]["n"], tasks["bits_per_byte"]["n"]) == (3, 3)


def test_a_limit_counts_documents_and_tasks_stand_side_by_side(entry, trained, capsys, tmp_path):
    directory, _ = trained
    lines = [{"sentence_good": f"good {i}", "sentence_bad": f"bad {i}", "text": f"text {i}"} for i in range(5)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = [f"--path={tmp_path / 'pairs.jsonl'}", "--limit=3", "--tasks=choice,bits_per_byte"]
    assert not entry("evaluate").run(f"--workdir={directory / 'run'}", *arguments)
    *people, last = capsys.readouterr().out.splitlines()
    assert "overall" not in " ".join(people)
    assert sum(line.startswith("  first 3") for line in people) == 1
    found = json.loads(last)
    assert found["limit"] == 3
    tasks = found["tasks"]
    assert list(tasks) == ["choice", "bits_per_byte"]
    assert tasks["choice"]["n"] == tasks["bits_per_byte"]["n"] == 3
    assert 0 <= tasks["choice"]["acc"] <= 1


def test_choices_have_figures_of_each_folder_and_examples_of_the_training_split(entry, trained, capsys, tmp_path):
    directory, _ = trained
    for folder in ("islands", "agreement"):
        (tmp_path / folder).mkdir()
        for name, number in (("train", 1), ("test", 2)):
            line = json.dumps({"sentence_good": f"good {folder}", "sentence_bad": "bad"}) + "\n"
            (tmp_path / folder / f"{name}.jsonl").write_text(line * number)
    arguments = [f"--workdir={directory / 'run'}", "--tasks=choice", f"--path={tmp_path}", "--shots=1"]
    assert not entry("evaluate").run(*arguments)
    assert "1 among the examples (first: agreement/train.jsonl:1)" in capsys.readouterr().err
    assert not entry("evaluate").run(*arguments, "--split=test")
    *people, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)["tasks"]["choice"]
    assert {name: one["n"] for name, one in found["domains"].items()} == {"agreement": 2, "islands": 2}
    rows = dict(line.split()[::5] for line in people if line.startswith(("  agreement ", "  islands ", "  overall ")))
    assert rows == {"agreement": "2", "islands": "2", "overall": "4"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir"),
        (["--workdir=/nowhere"], "/nowhere does not exist"),
        (["--workdir={}", "--tasks=bits"], "--tasks=bits: there is no such task; there are bits_per_byte, choice"),
        (["--workdir={}", "--tasks="], "--tasks= names no task; there are bits_per_byte, choice"),
        (["--workdir={}", "--limit=-1"], "limit"),
        (["--workdir={}", "--seed=-1"], "seed"),
        (["--workdir={}", "--split=dev"], "--split=dev"),
        (
            ["--workdir={}", "--tasks=recall", "--pictures=x"],
            "--pictures=x: they are of the task bits_per_byte, which is",
        ),
        (["--workdir={}", "--html=/"], "--html=/ is a folder: name the page, such as /first.html"),
        (["--workdir={0}", "--pictures={0}/config.json"], "config.json cannot be made a folder (File exists)"),
        (["--workdir={}", "--shots=2"], "--shots=2 is of the tasks choice, gsm8k, math, openqa, quiz alone"),
        (["--workdir={}", "--tasks=gsm8k", "--num_samples=3"], "--num_samples=3 is of the tasks humaneval alone"),
        (["--workdir={}", "--tasks=choice", "--allow_code"], "--allow_code=True is of the tasks humaneval alone"),
        (
            ["--workdir={}", "--seed=1"],
            "gsm8k, math, openqa, humaneval, quiz and of --prompts alone",
        ),
        (["--workdir={}", "--prompts=a", "--completions=x"], "--completions=x is of the tasks gsm8k, math, openqa, h"),
        (["--workdir={0}", "--tasks=gsm8k", "--completions={0}/config.json"], "config.json is there already: name a"),
        (["--workdir={}", "--include=*.txt"], "--include=*.txt goes with --path: what the run held out is read as"),
        (["--workdir={}", "--temperature=-1", "--prompts=a"], "--temperature=-1: a non-negative number is needed"),
    ],
)
def test_a_mistake_is_answered_in_one_line(entry, trained, arguments, message):
    program = entry("evaluate")
    with pytest.raises(SystemExit) as ended:
        program.run(*(argument.format(trained[0] / "run") for argument in arguments))
    assert message in ended.value.code
    assert "\n" not in ended.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path=/nowhere"], "error: bits_per_byte: --path='/nowhere' does not exist"),
        (["--source=wiki"], "error: bits_per_byte: config.data.source='wiki' must be one of"),
        (["--tasks=choice"], "error: choice: --tasks=choice needs --path=FILE"),
        (
            ["--tasks=humaneval", "--path=x"],
            "error: humaneval: programs that the model wrote",
        ),
        (["--tasks=gsm8k"], "error: gsm8k: --path is needed: the files of gsm8k that the task is asked of"),
    ],
)
def test_what_a_task_cannot_be_asked_of_is_said_in_one_line_and_before_a_model_is_read(
    entry, trained, capsys, arguments, message, monkeypatch
):
    real = runs.open
    monkeypatch.setattr(runs, "open", lambda *given: (print("read", file=sys.stderr), real(*given))[1])
    assert entry("evaluate").run(f"--workdir={trained[0] / 'run'}", *arguments) == 1
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert [line for line in lines[: lines.index("read")] if line.startswith(message)]
    assert json.loads(told.out.splitlines()[-1])["parameters"]["total"] > 0  # which every line has
