"""A run of adapters: its base is never written, it goes on to the bit, opens, and gives a small file."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load

from mixkabrn_jax import runs
from mixkabrn_jax.data.tokenizers import Bytes
from mixkabrn_jax.models import adapters as models
from mixkabrn_jax.models import surgery
from mixkabrn_jax.runs import adapters, metrics, model_file, workdir
from mixkabrn_jax.runs.checkpoint import DoesNotFitError
from mixkabrn_jax.training import loop
from tests import toy
from tests.runs.test_going_on import killed_in_step_5, train

CHANGES = {"model__linear": "ternary", "model__ffn": "mlp", "model__num_experts": 0, "model__mixer": "attention"}
CHANGES |= {"model__quantization__embedding": "int8", "guard__history_length": 0, "training__router_bias_rate": 0.0}
CHANGES |= {"num_steps": 6, "checkpoint__every": 2, "evaluate_every": 3}
RANK_2 = {"adapter__rank": 2, "adapter__targets": "*.mixer.*,embedding_WD"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a text, a model as a workdir and as a file, and a run of adapters beside the file."""
    folder = tmp_path_factory.mktemp("adapters")
    toy.write_text(folder / "text.txt")
    model = toy.make(
        toy.model_config(**{k.removeprefix("model__"): v for k, v in CHANGES.items() if "model__" in k}), 0, 257
    )
    runs.save(folder / "base", model, Bytes(), toy.document(**CHANGES))
    opened = runs.open(folder / "base")
    model_file.write(folder / "base.safetensors", model_file.to_bytes(*opened))
    assert train(config(folder), folder / "run") == 0
    return folder


def config(folder, **changes):
    beside = RANK_2 | {"init_from": str(folder / "base.safetensors")}
    return toy.experiment(folder / "text.txt", **CHANGES | beside | changes)


def bits(directory):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(nnx.state(runs.open(directory)[0]))]


def test_a_run_of_adapters_validates_the_base_first_and_keeps_nothing_of_it(folder):
    records = [record for record in metrics.read(folder / "run" / "metrics.jsonl") if record["split"] == "validation"]
    assert [record["step"] for record in records] == [0, 3, 6]
    assert records[-1]["bits_per_byte"] < records[0]["bits_per_byte"]
    about = json.loads((folder / "run/checkpoints/6/run.json").read_text())
    model_part = [name for name in about["arrays"] if name.startswith("model.")]
    assert model_part
    assert all("lora_" in name for name in model_part)
    assert about["about"]["base"] == adapters.open_base(folder / "base.safetensors").sha256


def test_the_base_of_a_run_and_of_its_file_is_one(folder):
    assert adapters.open_base(folder / "base").sha256 == adapters.open_base(folder / "base.safetensors").sha256


def test_it_opens_as_the_base_with_adapters(folder):
    model, _, _ = runs.open(folder / "run")
    base, tokens = runs.open(folder / "base.safetensors")[0], toy.tokens(0, 1, 9)
    assert models.factors(model).keys() == {name for name in surgery.matrices(base) if "ffn" not in name}
    off = models.apply(model, [])
    with jax.disable_jit():
        np.testing.assert_array_equal(off(tokens).logits_BTW, base(tokens).logits_BTW)
        assert np.abs(model(tokens).logits_BTW - base(tokens).logits_BTW).max() > 1e-3


def test_killed_and_gone_on_with_it_ends_with_the_same_bits(folder, tmp_path):
    killed_in_step_5(config(folder), tmp_path / "run")
    assert train(config(folder), tmp_path / "run") == 0
    assert bits(tmp_path / "run") == bits(folder / "run")


def test_its_file_is_its_factors_and_is_for_its_base_alone(folder, tmp_path):
    model, _, held = runs.open(folder / "run")
    base = adapters.open_base(folder / "base.safetensors")
    content = adapters.to_bytes(model, base.sha256, held, {"command": "train"})
    model_file.write(tmp_path / "adapter.safetensors", content)
    tensors, own = load(content), models.factors(model)
    assert tensors.keys() == {f"{name}.lora_{letter}" for name in own for letter in "AB"}
    matrix = model.dense_blocks.mixer.query.kernel
    lora_A, lora_B = (tensors[f"dense_blocks.mixer.query.kernel.lora_{letter}"] for letter in "AB")
    np.testing.assert_array_equal(lora_A, matrix.lora_A[...])
    np.testing.assert_array_equal(lora_B, 8.0 / 2 * matrix.lora_B[...])
    found = adapters.read(tmp_path / "adapter.safetensors", base.sha256)
    assert found.config == {"rank": 2, "alpha": 8.0, "targets": "*.mixer.*,embedding_WD", "experts": "each"}
    assert found.about == {"command": "train"}
    again, tokens = models.apply(base.model, [(found.factors, 1.0)]), toy.tokens(0, 1, 9)
    with jax.disable_jit():
        np.testing.assert_array_equal(again(tokens).logits_BTW, model(tokens).logits_BTW)
    with pytest.raises(
        ValueError, match=r"adapter\.safetensors: it is for the model of SHA-256 \w{12}\.\.\., and this is 000"
    ):
        adapters.read(tmp_path / "adapter.safetensors", "0" * 64)
    with pytest.raises(ValueError, match="its format is 'mixkabrn-1', where 'mixkabrn-adapter-1' is needed"):
        adapters.read(folder / "base.safetensors", base.sha256)


def test_another_model_in_the_place_of_the_base_is_refused(folder, tmp_path):
    model, tokenizer, held = runs.open(folder / "base")
    model.embedding_WD = nnx.Param(model.embedding_WD[...] + 1)
    for name in ("text.txt", "base.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    loop.prepare(config(tmp_path), tmp_path / "run")
    model_file.write(tmp_path / "base.safetensors", model_file.to_bytes(model, tokenizer, held))
    message = r"adapters for the model of SHA-256 \w{12}\.\.\., and config\.init_from='.*' is \w{12}\.\.\. now: restore"
    with pytest.raises(ValueError, match=message):
        loop.prepare(config(tmp_path), tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        runs.open(tmp_path / "run")


@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (FileNotFoundError, {"init_from": "nowhere"}, r"config\.init_from='nowhere': there is no such folder or file"),
        (
            ValueError,
            {"init_from": ""},
            r"config\.adapter\.rank=2 trains adapters beside a model .* set config\.init_from",
        ),
        (
            ValueError,
            {"adapter__rank": 17},
            r"config\.adapter\.rank=17 is above the width of dense_blocks\.mixer\.\w+\.kernel",
        ),
        (ValueError, {"adapter__targets": "*.ffm.*"}, r"config\.adapter\.targets='\*\.ffm\.\*'.* matches no matrix"),
        (ValueError, {"training__router_bias_rate": 0.1}, r"config\.training\.router_bias_rate=0\.1 changes a model"),
        (
            ValueError,
            {"data__tokenizer": "characters"},
            "config.data.tokenizer='characters', but the run of .* has 'bytes'",
        ),
        (
            DoesNotFitError,
            {"model__norm_epsilon": 0.1},
            r"holds another model: config\.model\.norm_epsilon=0\.1 \(there: 1e-06",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(folder, tmp_path, error, changes, message):
    with pytest.raises(error, match=message):
        loop.prepare(config(folder, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_adapters_of_adapters_are_refused(folder):
    with pytest.raises(ValueError, match="run holds adapters, not a model of its own"):
        adapters.open_base(folder / "run")
    assert workdir.load_base(folder / "run") == adapters.open_base(folder / "base").sha256
