import json
import shutil

import pytest

from mixkabrn_jax.data import pipeline, tokenizers
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.evaluation.score import Scorer
from mixkabrn_jax.models.language import count_parameters
from mixkabrn_jax.runs import workdir
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.runs.config import build
from mixkabrn_jax.training import optimizer, step
from tests import toy

TOKENIZER = tokenizers.Bytes()
TEXTS = {"a/1.txt": "to be or not to be, that is it", "a/2.txt": "x", "b/3.txt": "größe\n" * 9}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a run's workdir, its model), untrained; one for all tests."""
    directory = tmp_path_factory.mktemp("run")
    for name, text in TEXTS.items():
        (directory / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "texts" / name).write_text(text)
    changes = {"ffn": "mlp", "num_experts": 0}
    model = toy.make(toy.model_config(**changes), vocab_size=TOKENIZER.vocab_size)
    config = toy.experiment(directory / "texts", **{f"model__{field}": value for field, value in changes.items()})
    workdir.create(directory / "run", config, TOKENIZER, {})
    adamw = optimizer.make(optimizer.OptimizerConfig(**config["optimizer"]), config["num_steps"])
    with Checkpoints(directory / "run" / "checkpoints") as checkpoints:
        checkpoints.save(0, step.parts(step.init(model, adamw)), {})
    return directory, model


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
    assert (scores["n"], scores["bytes"]) == (3, sum(len(text.encode()) for text in TEXTS.values()))
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
    assert scores["bytes"] == held_out < sum(len(text.encode()) for text in TEXTS.values()) / 2


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_alone_is_that_of_the_run(entry, trained, capsys, split):
    directory, _ = trained
    program = entry("evaluate")
    if split == "test":
        with pytest.raises(SystemExit, match="there are no documents to score"):
            program.run(f"--workdir={directory / 'run'}", f"--split={split}")
        return
    program.run(f"--workdir={directory / 'run'}", f"--split={split}")
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]["bits_per_byte"]
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
    with pytest.raises(SystemExit, match=r"mine\.jsonl:1 would be an example and be asked as well"):
        entry("evaluate").run(*arguments, f"--path={tmp_path / 'mine.jsonl'}")


def test_a_task_that_is_made_up_reads_its_own_records_beside_tasks_that_read_files(entry, trained, capsys):
    directory, _ = trained
    arguments = [f"--path={directory / 'texts'}", "--limit=3", "--tasks=recall,bits_per_byte"]
    entry("evaluate").run(f"--workdir={directory / 'run'}", *arguments)
    tasks = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]
    assert (tasks["recall"]["n"], tasks["bits_per_byte"]["n"]) == (3, 3)


def test_a_limit_counts_documents_and_tasks_stand_side_by_side(entry, trained, capsys, tmp_path):
    directory, _ = trained
    lines = [{"sentence_good": f"good {i}", "sentence_bad": f"bad {i}", "text": f"text {i}"} for i in range(5)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = [f"--path={tmp_path / 'pairs.jsonl'}", "--limit=3", "--tasks=choice,bits_per_byte"]
    entry("evaluate").run(f"--workdir={directory / 'run'}", *arguments)
    tasks = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"]
    assert list(tasks) == ["choice", "bits_per_byte"]
    assert tasks["choice"]["n"] == tasks["bits_per_byte"]["n"] == 3
    assert 0 <= tasks["choice"]["acc"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir"),
        (["--workdir=/nowhere"], "/nowhere does not exist"),
        (["--workdir={}", "--tasks=bits"], "--tasks=bits: there is no such task; there are bits_per_byte, choice"),
        (["--workdir={}", "--path=/nowhere"], "--path='/nowhere' does not exist"),
        (["--workdir={}", "--tasks="], "--tasks= names no task; there are bits_per_byte, choice"),
        (["--workdir={}", "--source=wiki"], "config.data.source='wiki' must be one of"),
        (["--workdir={}", "--tasks=choice"], "--tasks=choice needs --path=FILE"),
        (["--workdir={}", "--limit=-1"], "limit"),
        (["--workdir={}", "--shots=2"], "--shots=2: examples stand before the prompts of gsm8k, math, openqa alone"),
        (["--workdir={}", "--temperature=-1", "--prompts=a"], "temperature=-1.0: 0 or more is needed"),
    ],
)
def test_a_mistake_is_answered_in_one_line(entry, trained, arguments, message):
    program = entry("evaluate")
    with pytest.raises(SystemExit) as ended:
        program.run(*(argument.format(trained[0] / "run") for argument in arguments))
    assert message in ended.value.code
    assert "\n" not in ended.value.code
