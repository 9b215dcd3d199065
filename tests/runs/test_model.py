"""A run's model without its training: `runs.open` and `runs.save`."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax import runs
from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.models import grid
from mixkabrn_jax.models.quantize import quantize, to_integers
from mixkabrn_jax.runs import workdir
from mixkabrn_jax.runs.checkpoint import Checkpoints, DoesNotFitError
from mixkabrn_jax.runs.config import flatten
from mixkabrn_jax.training import optimizer, step
from tests import toy

ROOT = Path(__file__).parents[2]
TOKENIZER = tokenizers.Characters("abc")
SMALL = {"num_experts": 2, "num_layers": 1, "mixer": "attention", "kan__grid__degree": 1}  # compiles fast
SMALLEST = {"num_experts": 0, "ffn": "mlp"}
"""For what starts a process of its own, which compiles anew."""


def experiment(**changes):
    model = {f"model__{name}": value for name, value in (SMALL | changes).items()}
    return toy.experiment("text.txt", **model)


def make(seed=0, **changes):
    return toy.make(toy.model_config(**(SMALL | changes)), seed, TOKENIZER.vocab_size)


def train(directory, steps=(0,), **changes):
    """A workdir as training leaves it, with the checkpoint of a random model for each step. Returns the last model."""
    config = experiment(**changes)
    workdir.create(directory, config, TOKENIZER, {})
    adamw = optimizer.make(optimizer.OptimizerConfig(**config["optimizer"]), config["num_steps"])
    with Checkpoints(directory / "checkpoints") as checkpoints:
        for number in steps:
            model = make(seed=number, **changes)
            checkpoints.save(number, step.parts(step.init(model, adamw)), {"next_index": number})
    return model


def assert_same_bits(got, want):
    got, want = nnx.state(got), nnx.state(want)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for leaf, want_leaf in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert leaf.dtype == want_leaf.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(want_leaf).tobytes()


@jax.jit
def logits(model):
    return model(toy.tokens(0, 2, 6, vocab_size=TOKENIZER.vocab_size)).logits_BTW


def files(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_run_is_opened_with_its_tokenizer_and_config_and_nothing_is_changed(tmp_path):
    model = train(tmp_path, steps=(2, 5))
    before = files(tmp_path)
    opened, tokenizer, config = runs.open(str(tmp_path))  # a path or its text
    assert tokenizer.decode([0, 1, 2]) == "abc"
    assert config == experiment() == json.loads((tmp_path / "config.json").read_text())
    assert_same_bits(opened, model)
    np.testing.assert_array_equal(logits(opened), logits(model))  # it is not only a bag of arrays
    assert files(tmp_path) == before


def test_a_damaged_checkpoint_is_passed_over_and_left_alone(tmp_path, caplog):
    train(tmp_path, steps=(2, 5))
    flip(tmp_path / "checkpoints" / "5" / "_CHECKPOINT_METADATA")
    before = files(tmp_path)
    with caplog.at_level(logging.WARNING):
        opened, _, _ = runs.open(tmp_path)
    assert "5 is damaged: _CHECKPOINT_METADATA has changed" in caplog.text
    assert "going on from step 2" in caplog.text
    assert_same_bits(opened, make(seed=2))
    assert files(tmp_path) == before
    flip(tmp_path / "checkpoints" / "2" / "run.json")
    with pytest.raises(OSError, match=r"no checkpoint in .* is intact"):
        runs.open(tmp_path)


def test_an_older_checkpoint_is_opened_by_its_step_as_long_as_it_is_there_and_intact(tmp_path):
    train(tmp_path, steps=(2, 5))
    assert_same_bits(runs.open(tmp_path, 2)[0], make(seed=2))
    with pytest.raises(ValueError, match=r"^step=3: .*checkpoints has no checkpoint of it; there are those of 2, 5$"):
        runs.open(tmp_path, 3)
    flip(tmp_path / "checkpoints" / "2" / "run.json")
    with pytest.raises(OSError, match=r"2 is damaged: run\.json has changed"):
        runs.open(tmp_path, 2)


def test_the_file_of_a_model_has_no_steps(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"^step=2: .*model\.safetensors is the file of a model, which holds one"):
        runs.open(tmp_path / "model.safetensors", 2)


def test_what_is_no_run_or_has_no_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        runs.open(tmp_path)
    workdir.create(tmp_path, experiment(), TOKENIZER, {})
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="holds no checkpoint yet"):
            runs.open(tmp_path)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
    train(tmp_path)
    config = experiment(expert_width=20)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DoesNotFitError, match=r"routed_blocks.*, not float32\["):
        runs.open(tmp_path)


CHANGES = {
    "grid": (lambda model: grid.extend_grid(model, 5), {"kan": {"grid": {"num_intervals": 5}}}),
    "ternary": (lambda model: quantize(model, "ternary", ["*"]), {"linear": "ternary"}),
}


@pytest.mark.parametrize("change", ["grid", pytest.param("ternary", marks=pytest.mark.slow)])
def test_a_model_that_was_changed_is_opened_as_it_was_saved(tmp_path, change):
    function, fields = CHANGES[change]
    train(tmp_path / "trained")
    model, tokenizer, config = runs.open(tmp_path / "trained")
    before = files(tmp_path / "trained")
    changed = function(model)
    runs.save(tmp_path / "changed", changed, tokenizer, config)
    assert files(tmp_path / "trained") == before
    opened, again, saved = runs.open(tmp_path / "changed")
    assert flatten(saved) == flatten(config) | flatten({"model": fields})
    assert again.to_json() == tokenizer.to_json()
    assert_same_bits(opened, changed)
    assert opened.config == changed.config
    got = np.asarray(logits(opened))
    assert got.tobytes() == np.asarray(logits(changed)).tobytes()
    assert got.tobytes() != np.asarray(logits(model)).tobytes()
    (checkpoint,) = (tmp_path / "changed" / "checkpoints").iterdir()
    assert (checkpoint / "model").is_dir()
    assert not (checkpoint / "optimizer").exists()


@pytest.mark.slow
def test_a_model_with_other_knots_is_opened_as_it_was_saved(tmp_path):
    train(tmp_path / "trained", kan__knots="adaptive")
    model, tokenizer, config = runs.open(tmp_path / "trained")
    batch = toy.tokens(1, 4, 12, vocab_size=TOKENIZER.vocab_size)
    moved = grid.update_grid(model, batch, uniform_fraction=0.02)
    runs.save(tmp_path / "moved", moved, tokenizer, config)
    opened, _, saved = runs.open(tmp_path / "moved")
    assert saved == config
    assert_same_bits(opened, moved)


def test_a_model_that_no_config_describes_is_refused_and_nothing_is_written(tmp_path):
    model = make()
    mixed = quantize(model, "ternary", ["routed_blocks.mixer.*"])
    with pytest.raises(ValueError, match=r"layers are not those of its config.*all of them have to be"):
        runs.save(tmp_path / "new", mixed, TOKENIZER, experiment())
    with pytest.raises(ValueError, match=r"^the model has integer layers, .*: save the model that to_"):
        runs.save(tmp_path / "new", to_integers(mixed), TOKENIZER, experiment())
    with pytest.raises(ValueError, match=r"params\.embedding_WD\.value is float32\[4, 16\], not float32\[257, 16\]"):
        runs.save(tmp_path / "new", model, tokenizers.Bytes(), experiment())
    assert not (tmp_path / "new").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").touch()
    with pytest.raises(FileExistsError, match="full is not empty"):
        runs.save(tmp_path / "full", model, TOKENIZER, experiment())
    with pytest.raises(FileExistsError, match="is not empty"):
        runs.save(tmp_path / "full" / ".hidden", model, TOKENIZER, experiment())


def run(program, *arguments):
    command = [sys.executable, "-c", program, *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


# Flax loads optax for itself, whatever one wants of it: after that nobody else may.
REFUSED = """
import atexit, runpy, sys
from flax import nnx
for name in [name for name in sys.modules if name.split(".")[0] == "optax"] + ["optax", "grain", "matplotlib"]:
    sys.modules[name] = None
atexit.register(lambda: print([name for name in sys.modules if name.startswith(("mixkabrn_jax.training", "grain."))]))
"""


def test_no_optimiser_and_no_pipeline_is_needed_for_a_run_to_be_read(tmp_path):
    train(tmp_path, **SMALLEST)
    program = f"sys.argv = ['generate', '--workdir={tmp_path}', '--max_tokens=3', '--prompt=ab']\n"
    program += "runpy.run_module('experiments.generate', run_name='__main__')"
    assert run(REFUSED + program).splitlines()[-1] == "[]"


def test_a_sweep_waits_for_no_jax():
    program = "import sys; from mixkabrn_jax.runs import metrics, workdir; print('jax' in sys.modules)"
    assert run(program) == "False\n"
