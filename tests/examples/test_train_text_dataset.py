"""The example trains on a text, prints a sample, and writes the metrics that docs/metrics.md explains."""

import json
import pathlib
import re

import pytest

from examples import train_text_dataset
from tests.test_documents import blocks

ROOT = pathlib.Path(__file__).parents[2]
METRICS = ROOT / "docs" / "metrics.md"
SMALL = {
    "num_steps": 2,
    "log_every": 1,
    "evaluate_windows": 1,
    "model.d_model": 16,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.key_width": 4,
    "model.value_width": 4,
    "model.num_experts": 2,
    "model.experts_per_token": 1,
    "model.expert_width": 4,
    "data.sequence_length": 32,
    "data.batch_size": 2,
    "optimizer.warmup_steps": 1,
}


def check_explained(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["split"] == "train"] == [1, 2]
    explained = set(re.findall(r"`([a-z_0-9]+)`", METRICS.read_text()))
    assert {field for record in records for field in record} <= explained


def test_it_trains_on_a_text_and_prints_a_sample_and_its_metrics_are_explained(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 100)
    simple = {"model.ffn": "mlp", "model.linear": "dense", "model.mixer": "attention"}  # compiles fast
    train_text_dataset.main(str(tmp_path / "text.txt"), str(tmp_path / "run"), **SMALL, **simple)
    sample = capsys.readouterr().out.partition("checkpoints\n")[2]
    assert len(sample) > 50
    check_explained(tmp_path / "run")


@pytest.mark.slow
def test_the_code_of_the_documents_runs_on_a_trained_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 100)
    train_text_dataset.main("text.txt", "runs/tiny", **SMALL)
    capsys.readouterr()
    check_explained(tmp_path / "runs" / "tiny")
    for document in ("README.md", "docs/models.md"):
        space = {}
        for code in blocks(ROOT / document, "python"):
            exec(compile(code, document, "exec"), space)
    printed = capsys.readouterr().out
    assert "(1, 19, 257)" in printed  # the logits of README's prompt
    assert "routed_blocks.mixer.query" in printed
