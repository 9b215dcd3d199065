import base64
import json
import re
import shlex

import numpy as np
import pytest

from mixkabrn_jax import runs
from mixkabrn_jax.data import pipeline
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.runs import model_file
from mixkabrn_jax.runs.config import build


def test_the_file_of_a_run_is_its_model_and_the_last_line_says_what_takes_how_much(entry, trained, capsys, tmp_path):
    directory, model = trained
    out = tmp_path / "model.safetensors"
    entry("export").run(f"--workdir={directory / 'run'}", f"--out={out}")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["bytes"] == out.stat().st_size
    assert found["exact"]
    assert found["tensors"]["float32"]["bytes"] == 4 * found["tensors"]["float32"]["numbers"]
    back, _, _ = runs.open(out)
    tokens = np.arange(12, dtype=np.int32)[None]
    np.testing.assert_allclose(back(tokens).logits_BTW, model(tokens).logits_BTW, atol=5e-3)


def test_a_page_holds_the_file_of_the_run(entry, trained, capsys, tmp_path):
    directory, model = trained
    entry("export").run(f"--workdir={directory / 'run'}", f"--out={tmp_path / 'model.html'}", "--format=html")
    text = (tmp_path / "model.html").read_text()
    held = base64.b64decode(re.search('id="model">([^<]*)<', text)[1])
    tokens = np.arange(12, dtype=np.int32)[None]
    logits = model_file.from_bytes(held)[0](tokens).logits_BTW
    np.testing.assert_allclose(logits, model(tokens).logits_BTW, atol=5e-3)
    assert "<title>model</title>" in text
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bytes"] == len(text.encode())


def test_a_folder_for_the_hub_holds_the_file_and_a_command_that_trains_such_a_model(entry, trained, capsys, tmp_path):
    directory, _ = trained
    out = tmp_path / "folder"
    entry("export").run(f"--workdir={directory / 'run'}", f"--out={out}", "--format=huggingface", "--license=cc0-1.0")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    sizes = {path.name: path.stat().st_size for path in out.iterdir()}
    assert found["files"] == sizes
    assert found["bytes"] == sum(sizes.values())
    text = (out / "README.md").read_text()
    assert "license: cc0-1.0" in text
    command = shlex.split(re.search(r"^python -m experiments\.train .*", text, re.MULTILINE)[0])
    config = json.loads((out / "config.json").read_text())
    assert f"--config.data.path={config['data']['path']}" in command
    assert set(command) >= {"--config=configs/lm.py:nano", "--config.model.num_experts=0"}
    assert not [part for part in command if part.startswith("--config.model.mixer")]  # as it is in nano


def test_the_header_says_where_the_model_comes_from(entry, trained, tmp_path):
    directory, _ = trained
    out, page = tmp_path / "model.safetensors", tmp_path / "model.html"
    last = {"step": 12, "split": "validation", "tokens": 90, "loss": 2.5, "bits_per_byte": 3.6}
    records = {**last, "loss": 9.0}, last, {"step": 13, "split": "train"}
    (directory / "run" / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    entry("export").run(f"--workdir={directory / 'run'}", f"--out={out}")
    about = model_file.read_header(out).about
    assert about["validation"] == {key: last[key] for key in ("step", "tokens", "loss", "bits_per_byte")}
    assert about["command"].startswith("python -m experiments.train --config=configs/lm.py:nano")
    entry("export").run(f"--workdir={out}", f"--out={page}", "--format=html")
    assert base64.b64encode(out.read_bytes()).decode() in page.read_text()
    (directory / "run" / "metrics.jsonl").unlink()


def test_a_file_is_exported_as_it_is(entry, trained, tmp_path):
    directory, _ = trained
    out = tmp_path / "model.safetensors"
    entry("export").run(f"--workdir={directory / 'run'}", f"--out={out}")
    entry("export").run(f"--workdir={out}", f"--out={tmp_path / 'folder'}", "--format=huggingface")
    assert (tmp_path / "folder" / "model.safetensors").read_bytes() == out.read_bytes()
    assert "None came with the file" in (tmp_path / "folder" / "README.md").read_text()


@pytest.mark.parametrize("rounding", ["int8", "bfloat16"])
def test_a_rounding_is_smaller_and_its_cost_is_told(entry, trained, capsys, tmp_path, rounding):
    directory, _ = trained
    found = {}
    for flags in ((), (f"--round={rounding}",)):
        entry("export").run(f"--workdir={directory / 'run'}", f"--out={tmp_path / 'model.safetensors'}", *flags)
        found[flags] = json.loads(capsys.readouterr().out.splitlines()[-1])
    exact, rounded = found.values()
    assert (exact["exact"], rounded["exact"]) == (True, False)
    assert rounded["bytes"] < exact["bytes"]
    bits = rounded["bits_per_byte"]
    assert bits["rounded"] == pytest.approx(bits["trained"], rel=2e-2)
    assert bits["rounded"] != bits["trained"]
    with pytest.raises(SystemExit, match=f"--round={rounding} is for the workdir of a run"):
        entry("export").run(
            f"--workdir={tmp_path / 'model.safetensors'}", f"--out={tmp_path / 'a'}", f"--round={rounding}"
        )


def test_graphs_are_written_one_beside_the_other(entry, trained, capsys, tmp_path):
    onnx = pytest.importorskip("onnx")
    directory, _ = trained
    entry("export").run(f"--workdir={directory / 'run'}", f"--out={tmp_path / 'model.onnx'}", "--format=onnx")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert found["files"] == sizes
    assert found["bytes"] == sizes["model.onnx"]
    assert found["tensors"]["float"]["bytes"] == 4 * found["tensors"]["float"]["numbers"]
    assert onnx.load(tmp_path / "model.onnx").graph.input[0].name == "token"
    assert onnx.load(tmp_path / "model.prefill.onnx").graph.input[0].name == "tokens"


def test_a_model_is_pushed_where_it_is_asked_for_alone(entry, trained, capsys, tmp_path, monkeypatch):
    from mixkabrn_jax.export import huggingface

    pushed = []
    monkeypatch.setattr(huggingface, "push", lambda *given: pushed.append(given) or "its address")
    run = f"--workdir={trained[0] / 'run'}", "--format=huggingface"
    entry("export").run(*run, f"--out={tmp_path / 'a'}")
    assert not pushed
    entry("export").run(*run, f"--out={tmp_path / 'b'}", "--push=me/model")
    assert pushed == [(tmp_path / "b", "me/model")]
    assert "its address" in capsys.readouterr().out
    assert "# model\n" in (tmp_path / "b" / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format=huggingface", "--push=model"), "--push=model: owner/name is needed"),
        (("--push=me/model",), "--push=me/model is of --format=huggingface alone"),
        (("--license=mit", "--format=html"), "--license=mit is of --format=huggingface alone"),
    ],
)
def test_flags_of_the_hub_are_checked_before_anything_is_opened(entry, tmp_path, flags, message):
    with pytest.raises(SystemExit, match=message):
        entry("export").run(f"--workdir={tmp_path / 'none'}", f"--out={tmp_path / 'new'}", *flags)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(SystemExit, match="new or empty folder"):
        entry("export").run(f"--workdir={tmp_path / 'none'}", f"--out={tmp_path}", "--format=huggingface")


@pytest.mark.parametrize(("out", "message"), [("nowhere/a.safetensors", "there is no folder"), (".", "is a folder")])
def test_a_place_that_cannot_be_written_is_named(entry, trained, tmp_path, out, message):
    directory, _ = trained
    with pytest.raises(SystemExit, match=message):
        entry("export").run(f"--workdir={directory / 'run'}", f"--out={tmp_path / out}")


def test_a_file_is_evaluated_as_its_run_and_knows_what_it_was_trained_on(entry, trained, capsys, tmp_path):
    directory, model = trained
    _, tokenizer, config = runs.open(directory / "run")
    there = pipeline.load(build(DataConfig, config["data"], "config.data")).fingerprints()
    out = tmp_path / "model.safetensors"
    model_file.write(out, model_file.to_bytes(model, tokenizer, config, {"data": there}))
    scores, told = [], []
    for place in (directory / "run", out):
        assert entry("evaluate").run(f"--workdir={place}") == 0
        printed = capsys.readouterr()
        found = json.loads(printed.out.splitlines()[-1])
        scores.append(found["tasks"]["bits_per_byte"])
        told.append({name: found[name] for name in ("parameters", "parameter_bytes", "low_bit", "state_bytes")})
    assert told[0] == told[1]
    assert "does not say" not in printed.err
    assert scores[1]["bits_per_byte"] == pytest.approx(scores[0]["bits_per_byte"], rel=1e-4)
    assert scores[1]["n"] == scores[0]["n"]
    other = {"data": there | {"validation": there["train"]}}
    model_file.write(out, model_file.to_bytes(model, tokenizer, config, other))
    assert entry("evaluate").run(f"--workdir={out}") == 1
    assert f"{out} holds a run on other data" in capsys.readouterr().err


def test_a_file_generates_and_a_damaged_one_is_named(entry, trained, capsys, tmp_path):
    directory, model = trained
    _, tokenizer, config = runs.open(directory / "run")
    out = tmp_path / "model.safetensors"
    model_file.write(out, model_file.to_bytes(model, tokenizer, config))
    texts = []
    for place in (directory / "run", out):
        entry("generate").run(f"--workdir={place}", "--prompt=to be", "--max_tokens=8", "--temperature=0")
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(SystemExit, match=r"model\.safetensors: this is no safetensors file"):
        entry("generate").run(f"--workdir={out}")
