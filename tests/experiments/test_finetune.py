import json

from mixkabrn_jax import runs
from mixkabrn_jax.models import adapters
from mixkabrn_jax.runs import metrics, workdir

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

    export = entry("export")
    assert export.run(f"--workdir={out}", f"--out={tmp_path / 'adapter.safetensors'}") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    model, _, _ = runs.open(out)
    assert told["tensors"]["float32"]["numbers"] == sum(
        leaf.size for pair in adapters.factors(model).values() for leaf in pair
    )
    assert told["bytes"] == (tmp_path / "adapter.safetensors").stat().st_size
