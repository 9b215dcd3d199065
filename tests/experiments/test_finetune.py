import json

import pytest

from mixkabrn_jax.runs import adapters, metrics, workdir
from mixkabrn_jax.training import loop

TOLD = "bits per byte of the text that was held out: "


def test_a_model_learns_a_text_in_some_seconds_and_is_not_changed(entry, trained, capsys, tmp_path, monkeypatch):
    directory, _ = trained
    (tmp_path / "mine.txt").write_text("a toy line in a toy text\n" * 100)
    before = {path: path.read_bytes() for path in (directory / "run").rglob("*") if path.is_file()}
    out = tmp_path / "out"
    finetune = entry("finetune")
    monkeypatch.setattr(finetune._module, "_PROBE_SECONDS", 0.2)
    arguments = [f"--workdir={directory / 'run'}", f"--path={tmp_path / 'mine.txt'}", f"--out={out}", "--minutes=0.01"]
    assert finetune.run(*arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    validations = [record for record in metrics.read(out / "metrics.jsonl") if record["split"] == "validation"]
    first, last = (validations[i]["bits_per_byte"] for i in (0, -1))
    assert shown[-1] == f"{TOLD}{first:.4f} before, {last:.4f} after"
    assert last < first
    num_steps = workdir.load_config(out)["num_steps"]
    assert any(line.endswith(f"{num_steps:,} steps in 0.01 minutes") for line in shown)
    assert {path: path.read_bytes() for path in (directory / "run").rglob("*") if path.is_file()} == before

    assert finetune.run(*arguments) == 0  # the same command again: there is nothing left to do
    assert capsys.readouterr().out.splitlines()[-1] == shown[-1]
    assert workdir.load_config(out)["num_steps"] == num_steps


def test_the_file_of_a_run_of_adapters_holds_them_alone(entry, trained, capsys, tmp_path):
    directory, _ = trained
    config = workdir.load_config(directory / "run")
    config |= {"init_from": str(directory / "run"), "num_steps": 1}
    config["adapter"] |= {"rank": 2, "targets": "*.mixer.*"}
    config["training"]["router_bias_rate"] = 0.0
    assert loop.train(loop.prepare(config, tmp_path / "run")) == 0
    export = entry("export")
    out = tmp_path / "adapter.safetensors"
    capsys.readouterr()
    assert export.run(f"--workdir={tmp_path / 'run'}", f"--out={out}") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["bytes"] == out.stat().st_size
    found = adapters.read(out, adapters.open_base(directory / "run").sha256)
    assert told["tensors"]["float32"]["numbers"] == sum(leaf.size for pair in found.factors.values() for leaf in pair)
    assert "--config.adapter.rank=2" in found.about["command"]
    with pytest.raises(SystemExit, match=r"error: --format=html is of a whole model, and .* holds adapters"):
        export.run(f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'page.html'}", "--format=html")
