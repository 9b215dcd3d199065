"""Runs that go on: longer than they were begun, with other bookkeeping, from another run, from an older config."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax import runs
from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.tokenizers import bpe
from mixkabrn_jax.runs import metrics, workdir
from mixkabrn_jax.runs.checkpoint import DoesNotFitError
from mixkabrn_jax.runs.config import flatten
from mixkabrn_jax.runs.moved import MOVED
from mixkabrn_jax.training import loop, optimizer
from tests import toy

ROOT = Path(__file__).parents[2]
SMALL = {"model__ffn": "mlp", "model__num_experts": 0, "model__mixer": "attention", "guard__history_length": 0}
SMALL |= {"num_steps": 6, "checkpoint__every": 2, "evaluate_every": 3}
NEW = SMALL | {"data__tokenizer": "characters"}


def train(config, directory, **options):
    return loop.train(loop.prepare(config, directory, **options))


def bits(directory):
    """Of all arrays of the run's model."""
    model, _, _ = runs.open(directory)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(nnx.state(model))]


def killed_in_step_5(config, directory):
    """A run that a process leaves with no more than its checkpoint of step 4."""
    is_due = loop._is_due

    def killed(step, every, last):
        if step == 5:
            raise SystemError("killed")
        return is_due(step, every, last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_is_due", killed)
        with pytest.raises(SystemError, match="killed"):
            train(config, directory)
    assert max(int(path.name) for path in (directory / "checkpoints").iterdir()) == 4


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return toy.write_text(tmp_path_factory.mktemp("data") / "text.txt")


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """(a run of six steps, the same one killed before its end, both not to be touched)."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(toy.experiment(text, **SMALL), folder / "whole") == 0
    killed_in_step_5(toy.experiment(text, **SMALL), folder / "killed")
    return folder / "whole", folder / "killed"


@pytest.fixture
def whole(trained):
    """A finished run, not to be touched."""
    return trained[0]


@pytest.fixture
def killed(trained, tmp_path):
    """The same run killed in step 5, to be gone on with."""
    return shutil.copytree(trained[1], tmp_path / "killed")


@pytest.fixture(scope="module")
def on_characters(text, tmp_path_factory):
    directory = tmp_path_factory.mktemp("characters") / "run"
    assert train(toy.experiment(text, **NEW), directory) == 0
    return directory


@pytest.fixture
def first(on_characters, tmp_path):
    """A finished run on characters."""
    return shutil.copytree(on_characters, tmp_path / "first")


def test_a_finished_run_is_trained_on_to_more_steps_on_request_and_says_what_that_means(text, whole, tmp_path, capsys):
    directory = shutil.copytree(whole, tmp_path / "run")
    (directory / "metrics.jsonl").unlink()
    capsys.readouterr()
    longer = toy.experiment(text, **SMALL | {"num_steps": 9})
    with pytest.raises(
        ValueError, match=r"config\.num_steps=9 \(there: 6\).*, or give --extend \(extend=True\) to train that one"
    ):
        loop.prepare(longer, directory)
    assert train(longer, directory, extend=True) == 0
    rate = float(optimizer.learning_rate(optimizer.OptimizerConfig(**longer["optimizer"]), 9)(6))
    shown = capsys.readouterr().out
    assert "going on from step 6 in" in shown
    consequence = f"the learning rate is that of the longer schedule, {rate:.3g} for the next step\n"
    assert f"config.num_steps 6 -> 9 from step 6 on: {consequence}" in shown
    records = [record for record in metrics.read(directory / "metrics.jsonl") if record["split"] == "train"]
    assert [record["step"] for record in records] == [8, 9]
    # The schedule's position goes on: of the last update of each record.
    want = optimizer.learning_rate(optimizer.OptimizerConfig(**longer["optimizer"]), 9)
    assert [record["learning_rate"] for record in records] == [float(want(7)), float(want(8))]
    assert workdir.load_config(directory) == longer
    loop.prepare(longer, directory)  # its config from now on


def test_a_run_goes_on_with_other_bookkeeping_to_the_same_bits_and_says_so(text, whole, killed, capsys):
    capsys.readouterr()
    other = SMALL | {"log_every": 1, "evaluate_every": 2, "checkpoint__every": 1, "checkpoint__keep": 1}
    assert train(toy.experiment(text, **other), killed) == 0
    shown = capsys.readouterr().out
    for change in ("log_every 2 -> 1", "evaluate_every 3 -> 2", "checkpoint.every 2 -> 1", "checkpoint.keep 2 -> 1"):
        assert f"config.{change} from step 4 on\n" in shown
    steps = {"train": [], "validation": []}
    for record in metrics.read(killed / "metrics.jsonl"):
        steps[record["split"]].append(record["step"])
    assert steps == {"train": [2, 4, 5, 6], "validation": [3, 4, 6]}
    assert [path.name for path in (killed / "checkpoints").iterdir()] == ["6"]
    assert workdir.load_config(killed) == toy.experiment(text, **other)
    assert bits(killed) == bits(whole)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"model__ffn": "kan", "model__kan__knots": "adaptive"}])
def test_a_run_by_muon_that_is_killed_ends_as_if_it_had_not_been(text, tmp_path, changes):
    """Also behind a step that moved knots, and with them the moments of either optimiser."""
    moved = {"training__grid_update_every": 2, "training__grid_update_until": 4}
    config = toy.experiment(text, **SMALL | {"optimizer__matrices": "muon"} | moved | changes)
    assert train(config, tmp_path / "whole") == 0
    killed_in_step_5(config, tmp_path / "killed")
    assert train(config, tmp_path / "killed") == 0
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")
    by_adam = toy.experiment(text, **SMALL | moved | changes)
    with pytest.raises(ValueError, match=r"config\.optimizer\.matrices='adamw' \(there: 'muon'\)"):
        loop.prepare(by_adam, tmp_path / "killed")


def test_a_run_from_another_one_starts_with_its_parameters_to_the_bit_and_with_its_tokenizer(first, tmp_path):
    """A rate that no parameter is moved by shows what the first update began with."""
    (tmp_path / "text.txt").write_text("a toy line in a toy text\n" * 40)
    still = {"optimizer__peak_rate": 1e-38, "optimizer__second_peak_rate": 1e-38, "optimizer__weight_decay": 0.0}
    changes = NEW | still | {"num_steps": 1, "evaluate_every": 1}
    config = toy.experiment(tmp_path / "text.txt", **changes, init_from=str(first))
    assert train(config, tmp_path / "second") == 0
    tokenizer = workdir.load_tokenizer(tmp_path / "second")
    assert tokenizer.to_json() == workdir.load_tokenizer(first).to_json()
    assert tokenizer.vocab_size > len(set("a toy line in a toy text\n")) + 1
    assert bits(tmp_path / "second") == bits(first)


@pytest.mark.slow
def test_a_run_from_another_one_that_is_killed_ends_as_if_it_had_not_been(first, tmp_path):
    """Also where the other one is gone by then: it was read at the start."""
    text = toy.write_text(tmp_path / "text.txt", num_lines=40)
    config = toy.experiment(text, **NEW, init_from=str(first))
    assert train(config, tmp_path / "whole") == 0
    assert train(toy.experiment(text, **NEW), tmp_path / "anew") == 0
    assert bits(tmp_path / "whole") not in (bits(tmp_path / "anew"), bits(first))
    killed_in_step_5(config, tmp_path / "broken")
    shutil.rmtree(first)
    assert train(config, tmp_path / "broken") == 0
    assert bits(tmp_path / "broken") == bits(tmp_path / "whole")


def test_a_run_from_one_that_is_of_another_model_or_not_there_is_refused_by_name(text, first, tmp_path):
    def refused(error, message, init_from=str(first), **changes):
        with pytest.raises(error, match=message):
            loop.prepare(toy.experiment(text, **NEW | changes, init_from=str(init_from)), tmp_path / "none")

    message = r"^config\.init_from='.*first' holds another model: "
    refused(DoesNotFitError, message + r"config\.model\.d_model=8 \(there: 16\)$", model__d_model=8)
    config = workdir.load_config(first)
    config["model"]["d_model"] = 8  # as if no field told
    (first / "config.json").write_text(json.dumps(config))
    message += r".*embedding_WD\.value is float32\[\d+, 16\], not float32\[\d+, 8\]"
    refused(DoesNotFitError, message, model__d_model=8)
    message = r"^config\.data\.tokenizer='bytes', but the run of config\.init_from='.*first' has 'characters', "
    refused(ValueError, message, data__tokenizer="bytes")
    (first / "tokenizer.json").write_text(json.dumps(bpe.train([Document(b"a toy " * 9, "", "")], 260).to_json()))
    refused(ValueError, r".* has 'subwords', .*: set config\.data\.tokenizer=bpe$", data__tokenizer="bytes")
    (first / "tokenizer.json").write_text(json.dumps(tokenizers.Bytes().to_json()))
    refused(ValueError, r".* has 'bytes', .*: set config\.data\.tokenizer=bytes$", data__tokenizer="bpe")
    refused(FileNotFoundError, r"^config\.init_from='nowhere': there is no such folder; a run's", "nowhere")
    refused(FileNotFoundError, r"^config\.init_from='.*' holds no tokenizer\.json: a run's workdir", tmp_path)
    assert not (tmp_path / "none").exists()


OLD_VALUES = {"model.backend": ("kernels", {"auto": False, "pallas": True})}
OLD_VALUES |= {"model.quantization.normalize_input": ("quant_norm", {False: "sub", True: "inside"})}


def flat(config):
    """The config with the names that it would have had before its sections were those of the modules."""
    before, old = {new: name for name, new in MOVED.items()}, {}
    for name, value in flatten(config).items():
        if name == "init_from":  # came later
            continue
        value = OLD_VALUES[name][1][value] if name in OLD_VALUES else value
        *sections, field = before.get(name, name).split(".")
        target = old
        for section in sections:
            target = target.setdefault(section, {})
        target[field] = value
    return old


def test_a_workdir_with_the_names_of_before_opens_and_goes_on_and_is_converted(text, whole, killed):
    config = toy.experiment(text, **SMALL)
    old = flat(config)
    assert old["model"]["knots"] == "uniform"
    assert old["model"]["kernels"] is False
    assert old["model"]["quant_norm"] == "sub"
    assert "objective" not in old
    (killed / "config.json").write_text(json.dumps(old))
    assert runs.open(killed)[2] == {name: value for name, value in config.items() if name != "init_from"}
    assert train(config, killed) == 0
    assert bits(killed) == bits(whole)
    (killed / "config.json").write_text(json.dumps(old))
    subprocess.run([sys.executable, "-m", "experiments.convert", f"--workdir={killed}"], cwd=ROOT, check=True)
    assert json.loads((killed / "config.json.old").read_text()) == old
    rewritten = json.loads((killed / "config.json").read_text())
    assert rewritten == {name: value for name, value in config.items() if name != "init_from"}
    assert bits(killed) == bits(whole)
    loop.prepare(config, killed)


def without(config, name):
    """The config less one field."""
    *sections, field = name.split(".")
    config = json.loads(json.dumps(config))
    target = config
    for section in sections:
        target = target[section]
    del target[field]
    return config


def test_a_config_that_is_older_than_a_field_with_a_default_opens_and_goes_on(text, whole, killed):
    config = toy.experiment(text, **SMALL)
    (killed / "config.json").write_text(json.dumps(without(config, "model.kan.basis")))
    model, _, _ = runs.open(killed)
    assert model.config.kan.basis == "bspline"
    other = toy.experiment(text, **SMALL, model__kan__basis="rational")
    with pytest.raises(ValueError, match=r"config\.model\.kan\.basis='rational' \(there: 'bspline'\)"):
        loop.prepare(other, killed)
    assert train(config, killed) == 0
    assert bits(killed) == bits(whole)
    (killed / "config.json").write_text(json.dumps(without(config, "model.d_model")))
    with pytest.raises(TypeError, match=r"config\.model\.d_model is missing"):
        runs.open(killed)
    with pytest.raises(ValueError, match=r"config\.model\.d_model=16 \(there: None\)"):
        loop.prepare(config, killed)
