import jax
import pytest
from flax import nnx

from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.models.quantize import to_integers
from mixkabrn_jax.models.size import sizes
from tests import toy


def abstract(**changes):
    config = toy.model_config(**changes)
    return jax.eval_shape(lambda: LanguageModel(config, toy.VOCAB_SIZE, rngs=nnx.Rngs(0)))


def num_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_packed_bytes_are_those_of_the_model_with_packed_matrices():
    changes = {"linear": "ternary", "ffn": "mlp", "d_model": 18, "hidden_width": 12, "num_heads": 2, "key_width": 6}
    model = abstract(**changes, num_experts=0)
    found = sizes(model, 16)
    assert found["parameter_bytes"]["stored"] == num_bytes(model)
    assert found["parameter_bytes"]["packed"] == num_bytes(jax.eval_shape(to_integers, model))
    assert sizes(abstract(ffn="mlp"), 16)["parameter_bytes"]["packed"] == num_bytes(abstract(ffn="mlp"))


@pytest.mark.parametrize("experts", [0, 4])
def test_splines_stay_as_they_are_and_their_base_is_packed(experts):
    model = abstract(linear="ternary", num_experts=experts)
    found = sizes(model, 16)["parameter_bytes"]
    assert found["packed"] < num_bytes(jax.eval_shape(to_integers, model)) < found["stored"]


def test_codes_of_splines_are_packed_where_they_have_some():
    dense, coded = (abstract(kan__spline_linear=linear, num_experts=0) for linear in ("dense", "ternary"))
    saved = [sizes(model, 16)["parameter_bytes"] for model in (dense, coded)]
    assert saved[0]["packed"] == saved[0]["stored"] == saved[1]["stored"]
    grid = dense.config.kan.grid
    # Two KAN layers of 16 x 12 and 12 x 16 in each of two blocks, a matrix for each basis function.
    codes, packed = 2 * 2 * 192 * grid.num_basis, 2 * grid.num_basis * (4 * 12 + 3 * 16 + 2 * 4)
    assert saved[1]["stored"] - saved[1]["packed"] == 4 * codes - packed


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_has_five_ternary_codes_to_a_byte_and_the_formats_of_splines_and_embedding(tied):
    changes = {
        "linear": "ternary",
        "kan__spline_linear": "int4",
        "quantization__embedding": "int8",
        "tied_embeddings": tied,
    }
    model = abstract(**changes, d_model=22, hidden_width=13, num_experts=0)  # neither is a multiple of 4 or of 5
    found, config = sizes(model, 16), model.config
    # Each array is packed in one row, over all layers.
    layers, size = config.num_layers, 22 * 13
    num_basis = config.kan.grid.num_basis
    by_base = 2 * (-(-layers * size // 5) + 4 * layers)
    by_spline = 2 * (-(-layers * num_basis * size // 2) + 4 * layers * num_basis)
    heads = config.num_heads * config.key_width, config.num_heads * config.value_width
    assert heads == (16, 16)
    by_mixer = 5 * (-(-layers * 22 * 16 // 5) + 4 * layers)  # queries, keys, values, gate, out
    norms = (2 * config.num_layers + 1) * 22 * 4
    convolution = (config.conv_size - 1) * 22 * 4
    tables = (1 if tied else 2) * toy.VOCAB_SIZE * (22 + 4)
    assert found["parameter_bytes"]["file"] == by_base + by_spline + by_mixer + norms + convolution + tables
    assert found["low_bit"] == 1 - (norms + convolution) / 4 / found["parameters"]["total"]


def test_the_state_of_attention_grows_and_that_of_retention_does_not():
    states = {name: [sizes(abstract(mixer=name), size)["state_bytes"] for size in (16, 32)] for name in MIXERS}
    config = toy.model_config()
    one = config.num_layers * config.num_heads * config.key_width * config.value_width * 4
    few = 4 + 4 * (config.conv_size - 1)  # a position, and the tokens that the short convolution sees
    assert states["retention"] == [one + few, one + few]
    cache = config.num_layers * config.num_heads * (config.key_width + config.value_width) * 4
    assert states["attention"] == [16 * cache + few, 32 * cache + few]


MIXERS = ("retention", "attention")
