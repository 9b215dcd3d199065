import jax
import numpy as np

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.interpret import codes
from mixkabrn_jax.models import codes as stored
from mixkabrn_jax.runs import model_file
from tests import toy

TOKENIZER = tokenizers.Characters("abc")
TERNARY = {"linear": "ternary", "kan__spline_linear": "ternary", "num_layers": 1}


def make(seed, **changes):
    return toy.make(toy.model_config(**(TERNARY | changes)), seed, TOKENIZER.vocab_size)


def test_codes_are_those_that_a_file_keeps_and_that_it_gives_back():
    model = make(0)
    found = codes.ternary_codes(model)
    kept = {".".join(each.path): np.asarray(each.encode()[0]) for each in stored.coded(model)}
    assert found.keys() == kept.keys()
    assert any(name.endswith("spline") for name in found)
    content = model_file.to_bytes(model, TOKENIZER, toy.document())
    again = codes.ternary_codes(model_file.from_bytes(content)[0])
    for name, array in found.items():
        np.testing.assert_array_equal(np.ravel(array), np.ravel(kept[name]))
        np.testing.assert_array_equal(again[name], array)


def test_what_is_not_ternary_has_no_ternary_codes():
    assert not codes.ternary_codes(make(0, linear="binary", kan__spline_linear="int4"))
    assert not codes.ternary_codes(make(0, linear="dense", kan__spline_linear="dense"))


def test_shares_and_flips_count_codes():
    old = {"a": np.array([[-1, 0], [1, 1]], np.int8), "b": np.zeros((3, 1), np.int8)}
    new = {"a": np.array([[-1, 1], [1, 1]], np.int8), "b": np.zeros((3, 1), np.int8)}
    assert jax.tree.map(np.ndarray.tolist, codes.shares(old)) == {"a": [0.25, 0.25, 0.5], "b": [0, 1, 0]}
    assert codes.flips(old, new) == {"a": 0.25, "b": 0.0}
