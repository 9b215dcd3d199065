"""A run of adapters: its base is never written, it goes on to the bit, opens, and gives a small file."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load

from mixkabrn_jax import runs
from mixkabrn_jax.data.template import TEMPLATES
from mixkabrn_jax.data.tokenizers import Bytes
from mixkabrn_jax.models import adapters as models
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.adapters import AdapterConfig
from mixkabrn_jax.runs import adapters, metrics, model_file, workdir
from mixkabrn_jax.runs.checkpoint import DoesNotFitError
from mixkabrn_jax.training import loop
from tests import toy
from tests.models.test_adapters import random
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
    assert found.template is None
    again, tokens = models.apply(base.model, [(found.factors, 1.0)]), toy.tokens(0, 1, 9)
    with jax.disable_jit():
        np.testing.assert_array_equal(again(tokens).logits_BTW, model(tokens).logits_BTW)
    with pytest.raises(
        ValueError, match=r"adapter\.safetensors: it is for the model of SHA-256 \w{12}\.\.\., and this is 000"
    ):
        adapters.read(tmp_path / "adapter.safetensors", "0" * 64)
    with pytest.raises(ValueError, match="its format is 'mixkabrn-1', where 'mixkabrn-adapter-1' is needed"):
        adapters.read(folder / "base.safetensors", base.sha256)


def test_its_own_template_opens_with_it_and_travels_in_its_file(folder, tmp_path):
    """The base has learnt no conversations, and its tokenizer knows of none."""
    run = shutil.copytree(folder / "run", tmp_path / "run")
    own = workdir.load_config(run)
    own["data"]["template"] = "chat"
    (run / "config.json").write_text(json.dumps(own))
    model, tokenizer, held = runs.open(run)
    assert tokenizer.template == TEMPLATES["chat"]
    base = adapters.open_base(folder / "base.safetensors")
    assert base.tokenizer.template is None
    model_file.write(tmp_path / "adapter.safetensors", adapters.to_bytes(model, base.sha256, held))
    assert adapters.read(tmp_path / "adapter.safetensors", base.sha256).template == TEMPLATES["chat"]


def test_merged_into_a_dense_model_it_is_saved_as_any_other(tmp_path):
    changes = {"model__quantization__embedding": "int8"}
    model = toy.make(toy.model_config(quantization__embedding="int8"), 0, 257)
    model_file.write(tmp_path / "base.safetensors", model_file.to_bytes(model, Bytes(), toy.document(**changes)))
    base = adapters.open_base(tmp_path / "base.safetensors")
    # Beside some matrices alone: the embedding is kept as codes.
    beside = random(models.put_in(base.model, AdapterConfig(rank=2, targets="*.mixer.*"), rngs=nnx.Rngs(0)))
    for kept in (beside, base.model):
        with pytest.raises(ValueError, match=r"^the model (has adapters|is kept as the codes of its file).*merge"):
            model_file.to_bytes(kept, base.tokenizer, base.config)
    merged = models.merge(beside)
    runs.save(tmp_path / "run", merged, base.tokenizer, base.config)
    model_file.write(tmp_path / "merged.safetensors", model_file.to_bytes(merged, base.tokenizer, base.config))
    want = nnx.to_flat_state(nnx.state(merged))
    for name in ("run", "merged.safetensors"):
        again = nnx.to_flat_state(nnx.state(runs.open(tmp_path / name)[0]))
        assert [path for path, _ in again] == [path for path, _ in want]
        for (path, there), (_, here) in zip(again, want, strict=True):
            np.testing.assert_array_equal(there[...], here[...], err_msg=str(path))
    assert np.abs(merged.embedding_WD[...] - base.model.embedding_WD[...]).max() == 0
    query = merged.routed_blocks.mixer.query.kernel
    assert np.abs(query[...] - base.model.routed_blocks.mixer.query.kernel[...]).max() > 0.01


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


def test_a_base_that_is_gone_is_named_with_what_can_be_done(folder, tmp_path):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    own = workdir.load_config(run) | {"init_from": str(tmp_path / "gone.safetensors")}
    (run / "config.json").write_text(json.dumps(own))
    with pytest.raises(
        FileNotFoundError, match=r"run holds adapters for the model at \S+gone\.safetensors, which is not"
    ):
        runs.open(run)
    shutil.copy(folder / "base.safetensors", tmp_path / "there.safetensors")
    (run / "config.json").write_text(json.dumps(own | {"init_from": str(tmp_path / "there.safetensors")}))
    assert bits(run) == bits(folder / "run")


def test_adapters_of_adapters_are_refused(folder):
    message = "run holds adapters, not a model of its own: name the model that they are for"
    with pytest.raises(ValueError, match=message):
        adapters.open_base(folder / "run")
    for rank in (0, 2):
        beside = config(folder, init_from=str(folder / "run"), adapter__rank=rank)
        with pytest.raises(ValueError, match=message):
            loop.prepare(beside, folder / "other")
    assert not (folder / "other").exists()
    assert workdir.load_base(folder / "run") == adapters.open_base(folder / "base").sha256
