import base64
import json
import re

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


def test_the_header_says_where_the_model_comes_from_and_a_page_is_made_of_the_file_too(entry, trained, tmp_path):
    directory, _ = trained
    out, page = tmp_path / "model.safetensors", tmp_path / "model.html"
    last = {"step": 12, "split": "validation", "loss": 2.5, "bits_per_byte": 3.6}
    (directory / "run" / "metrics.jsonl").write_text(json.dumps({**last, "loss": 9.0}) + "\n" + json.dumps(last) + "\n")
    entry("export").run(f"--workdir={directory / 'run'}", f"--out={out}", "--note=by hand")
    about = model_file.read_header(out).about
    assert about["note"] == "by hand"
    assert about["validation"] == {"step": 12, "loss": 2.5, "bits_per_byte": 3.6}
    entry("export").run(f"--workdir={out}", f"--out={page}", "--format=html", "--note=")
    assert base64.b64encode(out.read_bytes()).decode() in page.read_text()
    with pytest.raises(SystemExit, match="--note='again' goes with the workdir of a run"):
        entry("export").run(f"--workdir={out}", f"--out={tmp_path / 'other'}", "--note=again")


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
