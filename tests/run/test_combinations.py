"""Every mixer with every feed-forward, number format and routing, in JAX, in NumPy and in C."""

import itertools

import jax
import numpy as np
import pytest

from mixkabrn_jax.runs import model_file
from mixkabrn_run import file
from mixkabrn_run.model import Model
from tests import toy
from tests.run.compiler import needs_compiler
from tests.run.test_against_jax import KINDS, TOKENIZER, content_of, read_all
from tests.run.test_native import FORMATS, assert_same_bits, native_model

MIXERS = ("all four", "attention")
FEED_FORWARDS = ("all four", "mlp", "swiglu", "geglu")
ROUTINGS = (
    *("all four", "no experts", "first layer dense", "sigmoid scores in groups"),
    *("softmax scores in groups", "two shared experts"),
)
TOKENS = np.asarray(toy.tokens(1, 1, 60))[0] % TOKENIZER.vocab_size


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("names", [*itertools.product(MIXERS, FEED_FORWARDS, ROUTINGS)], ids="-".join)
@pytest.mark.parametrize("numbers", FORMATS)
def test_a_combination_is_that_of_jax_and_has_one_result(names, numbers):
    changes = FORMATS[numbers] | {key: value for name in names for key, value in KINDS[name].items()}
    content = content_of(changes)
    mine = read_all(Model(file.parse(content)), TOKENS)
    assert_same_bits(read_all(native_model(content), TOKENS), mine)
    model = model_file.from_bytes(content)[0]
    want = np.asarray(jax.jit(lambda model, tokens: model(tokens).logits_BTW)(model, TOKENS[None])[0])
    if numbers.startswith("dense"):
        np.testing.assert_allclose(mine, want, atol=1e-4 * max(1, np.abs(want).max()), rtol=0)
    else:  # a rounding elsewhere moves an input to the next code now and then, or a token to another expert
        assert np.median(np.abs(mine - want)) < 2e-2
