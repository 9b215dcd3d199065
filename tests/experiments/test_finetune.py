import dataclasses
import json
import shutil

import pytest

from mixkabrn_jax.layers.moe import RouterConfig
from mixkabrn_jax.runs import adapters, metrics, workdir
from mixkabrn_jax.training import loop
from mixkabrn_jax.training.experiment import Experiment

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
    every = -(-num_steps // 5)
    assert [record["step"] for record in validations] == [*range(0, num_steps, every), num_steps]
    assert any(line.endswith(f"{num_steps:,} steps in 0.01 minutes") for line in shown)
    assert {path: path.read_bytes() for path in (directory / "run").rglob("*") if path.is_file()} == before

    assert finetune.run(*arguments) == 0  # the same command again: there is nothing left to do
    again = capsys.readouterr().out.splitlines()
    assert again[0] == f"{out} was begun with {num_steps:,} steps, which it goes on with: --minutes is of a new run"
    assert again[-1] == shown[-1]
    assert workdir.load_config(out)["num_steps"] == num_steps


def unmeasured(*_):
    raise AssertionError("the pace was measured, and a mistake could have been told before")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path="], "error: --path=my_texts/ is needed: file, archive or folder of texts; or a --source that is bu"),
        (["--path=x.txt", "--out={there}"], "error: {there} has no config.json but holds notes.md: choose another wo"),
        (["--path=x.txt", "--out={run}"], "error: --out={run} is --workdir, which stays as it is: name a new folder"),
        (
            ["--path={texts}", "--out={texts}/out"],
            "error: {texts}/out lies in --path='{texts}', and what is written th",
        ),
        (["--path=x.txt", "--minutes=inf"], "error: --minutes=inf: a number in the range [0.01, 1000000.0] is needed"),
        (["--path=x.txt", "--minutes=nan"], "error: --minutes=nan: more than 0 is needed"),
        (["--path=x.txt", "--loss_on=answers"], "error: --loss_on='answers' must be one of ('all', 'targets')"),
        (["--path=x.txt", "--workdir=nowhere"], "error: nowhere does not exist: a directory that training wrote is n"),
    ],
)
def test_mistakes_are_answered_before_the_pace_is_measured(entry, trained, tmp_path, monkeypatch, arguments, message):
    from mixkabrn_jax.training import probe

    monkeypatch.setattr(probe, "measure", unmeasured)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.md").write_text("mine")
    places = {"there": tmp_path / "there", "run": trained[0] / "run", "texts": trained[0] / "texts"}
    first = [f"--workdir={places['run']}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as ended:
        entry("finetune").run(*first, *(argument.format(**places) for argument in arguments))
    assert str(ended.value).startswith(message.format(**places))


def test_a_model_that_is_older_than_some_fields_is_taught_as_it_is(entry, trained, tmp_path):
    """And what of the data is not said on the command line is the model's own."""
    run = shutil.copytree(trained[0] / "run", tmp_path / "run")
    old = workdir.load_config(run)
    own = Experiment.from_dict(old)
    for section, field in (
        (old["model"], "conv_size"),
        (old["model"]["router"], "normalize"),
        (old["data"], "loss_on"),
    ):
        del section[field]
    old["data"] |= {"sequence_length": 8, "template": "chat"}
    (run / "config.json").write_text(json.dumps(old))
    finetune = entry("finetune")
    arguments = (f"--workdir={run}", "--source=quiz", f"--out={tmp_path / 'out'}")
    finetune.parse(*arguments, "--loss_on=targets")
    found = Experiment.from_dict(finetune._module._config())
    data = found.data
    assert (data.source, data.path, data.loss_on, data.template, data.sequence_length) == (
        "quiz",
        "",
        "targets",
        "chat",
        8,
    )
    assert found.model == dataclasses.replace(own.model, conv_size=1, router=RouterConfig(dispatch="sorted"))
    finetune.parse(*arguments, "--template=", "--sequence_length=16")
    data = Experiment.from_dict(finetune._module._config()).data
    assert (data.loss_on, data.template, data.sequence_length) == ("all", "", 16)


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
