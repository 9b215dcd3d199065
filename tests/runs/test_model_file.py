"""A file gives back the model that was saved, says what it holds, and is refused when anything in it is wrong."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors import deserialize, safe_open
from safetensors.numpy import load, save

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import Linear, effective_table, effective_weight
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.models.quantize import to_integers
from mixkabrn_jax.models.size import sizes
from mixkabrn_jax.runs import model_file
from tests import toy

TOKENIZER = tokenizers.Characters("".join(map(chr, range(97, 97 + toy.VOCAB_SIZE - 2))))
LOW = {"linear": "ternary", "kan__spline_linear": "ternary", "quantization__embedding": "int8"}
MODELS = {
    "all low-bit": LOW,
    "int4": LOW | {"kan__spline_linear": "int4", "quantization__embedding": "int4", "tied_embeddings": False},
    "int8 splines, first layer dense": LOW | {"kan__spline_linear": "int8", "first_dense_layers": 1},
    "binary MLP, attention": LOW | {"linear": "binary", "ffn": "mlp", "mixer": "attention", "num_experts": 0},
    "float32 splines on adaptive knots": LOW | {"kan__spline_linear": "dense", "kan__knots": "adaptive"},
    "dense": {},
}


def make(**changes):
    config = toy.document(**{f"model__{name}": value for name, value in changes.items()})
    model = LanguageModel(toy.model_config(**changes), TOKENIZER.vocab_size, rngs=nnx.Rngs(0))
    return model, config


def multiplied(model):
    """What linear layers, splines and embedding are in products, by their names."""
    found = {"embedding_WD": model.table()}
    if model.head_WD is not None:
        found["head_WD"] = effective_table(model.head_WD[...], model.config.quantization.embedding)
    for path, layer in surgery.layers(model, (Linear, KanLayer)):
        if isinstance(layer, Linear):
            found[f"{path}.kernel"] = effective_weight(layer.kernel[...], layer.config.linear)
        else:
            found[f"{path}.base"], found[f"{path}.spline"] = layer._weights()
    return found


@pytest.mark.parametrize(("rounding", "largest"), [("int8", 1 / 254), ("bfloat16", 1 / 256)])
def test_a_rounding_is_of_dense_matrices_alone_and_moves_a_number_by_half_a_step(rounding, largest):
    model, config = make(linear="ternary", kan__spline_linear="dense", quantization__embedding="dense")
    content = model_file.to_bytes(model, TOKENIZER, config, rounding=rounding)
    before, after = multiplied(model), multiplied(model_file.from_bytes(content)[0])
    for path, weight in before.items():
        if path.endswith("spline") or path == "embedding_WD":
            # A scale of int8 is of the largest number of its rows, a step of bfloat16 of the number itself.
            bound = largest * np.abs(weight) if rounding == "bfloat16" else largest * np.abs(weight).max()
            assert np.abs(after[path] - weight).max() > 0
            assert (np.abs(after[path] - weight) <= bound * 1.001).all()
        else:
            np.testing.assert_array_equal(after[path], weight, err_msg=path)
    kept = {name: entry["dtype"] for name, entry in deserialize(content)}
    assert [kept[name] for name in kept if name.endswith("router")] == ["F32"]


def test_another_rounding_is_refused():
    model, config = make()
    with pytest.raises(ValueError, match=r"rounding='int4': one of \('int8', 'bfloat16'\)"):
        model_file.to_bytes(model, TOKENIZER, config, rounding="int4")


def logits(model):
    tokens = np.random.default_rng(0).integers(0, TOKENIZER.vocab_size, (2, 12)).astype(np.int32)
    return np.asarray(jax.jit(lambda model: model(tokens).logits_BTW)(model))


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_a_file_gives_back_what_the_model_multiplies_by_to_the_last_bit(changes):
    model, config = make(**changes)
    content = model_file.to_bytes(model, TOKENIZER, config, {"step": 3})
    back, tokenizer, read = model_file.from_bytes(content)
    for path, weight in multiplied(model).items():
        np.testing.assert_array_equal(multiplied(back)[path], weight, err_msg=path)
    others = [dict(nnx.to_flat_state(nnx.state(each))) for each in (model, back)]
    dense = [path for path in others[0] if ".".join(map(str, path)) not in multiplied(model)]
    for path in dense:
        np.testing.assert_array_equal(others[1][path][...], others[0][path][...], err_msg=str(path))
    # XLA may multiply by a scale after the product: rounding, which flips a code of an activation at times.
    difference = np.abs(logits(back) - logits(model))
    assert np.median(difference) < 1e-6
    assert difference.max() < 5e-3
    assert tokenizer.to_json() == TOKENIZER.to_json()
    assert read == json.loads(json.dumps(config))
    # It generates alike too: token by token from its state.
    state, mine = back.init_state(1, 8), model.init_state(1, 8)
    for token in (3, 5):
        (a, state), (b, mine) = back.step(np.array([token]), state), model.step(np.array([token]), mine)
        np.testing.assert_allclose(a, b, atol=5e-3)


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_its_bytes_are_those_that_a_run_tells(changes):
    model, config = make(**changes)
    content = model_file.to_bytes(model, TOKENIZER, config)
    found = model_file.describe(content)
    without_tokenizer = sum(entry["bytes"] for kind, entry in found.items() if kind != "tokenizer")
    assert without_tokenizer == sizes(model, 16)["parameter_bytes"]["file"]
    header = 8 + int.from_bytes(content[:8], "little")
    assert header + without_tokenizer + found["tokenizer"]["bytes"] == len(content)


def test_other_readers_open_it_and_find_the_config(tmp_path):
    model, config = make(**LOW)
    model_file.write(tmp_path / "model.safetensors", model_file.to_bytes(model, TOKENIZER, config, {"step": 3}))
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert json.loads(file.metadata()["about"]) == {"step": 3}
        assert json.loads(file.metadata()["config"])["model"]["d_model"] == config["model"]["d_model"]
        assert file.get_tensor("embedding_WD.scales").shape == (TOKENIZER.vocab_size,)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def changed(content, change, **metadata):
    tensors = load(content)
    change(tensors)
    return save(tensors, model_file._metadata(content) | metadata)


def without_scales(tensors):
    del tensors["embedding_WD.scales"]


def with_one_more(tensors):
    tensors["more"] = np.zeros(1, np.float32)


def test_a_file_that_is_damaged_or_another_is_refused_with_what_is_wrong():
    model, config = make(**LOW)
    content = model_file.to_bytes(model, TOKENIZER, config)
    damaged = bytearray(content)
    damaged[-1] ^= 1
    with pytest.raises(ValueError, match="SHA-256 is another"):
        model_file.from_bytes(bytes(damaged))
    for cut in (content[:100], content[:-1], b"", b"text that is no such file"):
        with pytest.raises(ValueError, match="this is no safetensors file"):
            model_file.from_bytes(cut)
    with pytest.raises(ValueError, match="format is None, where 'mixkabrn-1' is needed"):
        model_file.from_bytes(save({"weight": np.zeros(3)}))
    for change, message in (
        (without_scales, r"lacks the tensor 'embedding_WD\.scales'"),
        (with_one_more, "tensors more"),
    ):
        tensors = load(content)
        change(tensors)
        with pytest.raises(ValueError, match=message):
            model_file.from_bytes(changed(content, change, sha256=model_file._digest(tensors)))
    other = json.dumps(toy.document(**{f"model__{name}": value for name, value in LOW.items()}, model__d_model=32))
    with pytest.raises(ValueError, match=r"has the shape \(2, 16\), where its config needs \(2, 32\)"):
        model_file.from_bytes(changed(content, lambda _: None, config=other))


def test_a_model_of_integers_is_refused():
    model, config = make(**LOW)
    with pytest.raises(ValueError, match="integer layers"):
        model_file.to_bytes(to_integers(model), TOKENIZER, config)
