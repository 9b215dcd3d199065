"""Published sets as they are: counts are the published ones, and a small model learns from each and is asked of it.

No set is shipped. MIXKABRN_DATA names a folder with these files: tinyshakespeare.txt; wikitext2.valid.txt and
wikitext2.test.txt, WikiText-2 in tokens; gsm8k.train.jsonl and gsm8k.test.jsonl; nq_open.dev.jsonl; humaneval.jsonl.
"""

import json
import os
from pathlib import Path

import pytest

from mixkabrn_jax.data import sources
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.training import loop
from tests import toy

FOLDER = os.environ.get("MIXKABRN_DATA", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="MIXKABRN_DATA names no folder with the published files (see this module)"),
]
# (source, file): records. HumanEval: Chen et al. 2021; GSM8K: Cobbe et al. 2021; NQ-open: Lee et al. 2019.
RECORDS = {
    ("text", "tinyshakespeare.txt"): 1,
    ("text", "wikitext2.valid.txt"): 1,
    ("text", "wikitext2.test.txt"): 1,
    ("gsm8k", "gsm8k.train.jsonl"): 7473,
    ("gsm8k", "gsm8k.test.jsonl"): 1319,
    ("openqa", "nq_open.dev.jsonl"): 3610,
    ("code", "humaneval.jsonl"): 164,
}
# Merity et al. 2016, table 1; the end of a line is a token.
WIKITEXT_TOKENS = {"wikitext2.valid.txt": 217_646, "wikitext2.test.txt": 245_569}


def path_of(name):
    path = Path(FOLDER, name)
    if not path.is_file():
        pytest.skip(f"MIXKABRN_DATA={FOLDER!r} has no {name}")
    return path


@pytest.mark.parametrize(("source", "name"), RECORDS)
def test_every_record_of_a_set_is_read_and_nothing_is_left_out(entry, capsys, source, name):
    entry("data").run(f"--source={source}", f"--path={path_of(name)}", "--show=0", "--on_damage=error")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["records"] == RECORDS[source, name]
    assert found["skipped"] == {}
    if source == "text":
        assert found["bytes"] == path_of(name).stat().st_size


def test_the_text_is_all_there():
    def text(name):
        config = DataConfig(**toy.section("data", source="text", path=str(path_of(name))))
        return b"".join(document.content for document in sources.read(config, None, Skipped())).decode()

    shakespeare = text("tinyshakespeare.txt")
    assert (len(shakespeare), len(set(shakespeare))) == (1_115_394, 65)
    for name, number in WIKITEXT_TOKENS.items():
        assert sum(len(line.split()) + 1 for line in text(name).splitlines()) == number


def test_the_splits_of_a_folder_are_those_of_its_files(entry, capsys):
    path_of("gsm8k.test.jsonl")
    for split, number in (("train", 7473), ("test", 1319)):
        given = (f"--path={FOLDER}", "--include=gsm8k.*.jsonl", f"--split={split}", "--show=0")
        entry("data").run("--source=gsm8k", *given)
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["records"] == number


@pytest.mark.parametrize(
    ("source", "name", "tasks"),
    [
        (
            "text",
            "tinyshakespeare.txt",
            {"bits_per_byte": {}, "humaneval": {"source": "code", "path": "humaneval.jsonl"}},
        ),
        ("text", "wikitext2.valid.txt", {"bits_per_byte": {}}),  # of what it holds out: all of the test takes minutes
        ("gsm8k", "gsm8k.train.jsonl", {"gsm8k": {"path": "gsm8k.test.jsonl", "split": "test"}}),
        ("openqa", "nq_open.dev.jsonl", {"openqa": {"path": "nq_open.dev.jsonl"}}),
    ],
)
def test_a_small_model_learns_from_a_set_in_fifty_steps_and_is_asked_of_it(
    entry, capsys, tmp_path, source, name, tasks
):
    changes = {"num_steps": 50, "log_every": 10, "evaluate_every": 50, "evaluate_windows": 20, "checkpoint__every": 50}
    changes |= {"data__source": source, "data__sequence_length": 64, "model__linear": "ternary"}
    assert loop.train(loop.prepare(toy.experiment(path_of(name), **changes), tmp_path)) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    capsys.readouterr()
    for task, given in tasks.items():
        given = given | ({"path": path_of(given["path"])} if "path" in given else {})
        flags = [f"--{flag}={value}" for flag, value in given.items()]
        flags += ["--limit=4", "--max_tokens=8", "--allow_code"]
        entry("evaluate").run(f"--workdir={tmp_path}", f"--tasks={task}", *flags)
        found = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"][task]
        assert found["n"] in (1, 4)
        bits = found["bits_per_byte" if task == "bits_per_byte" else "target_bits_per_byte"]
        assert 1 < bits < 8  # of bytes that are drawn alike
