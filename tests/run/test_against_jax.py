"""The runtime in NumPy against the model that it runs, over the kinds of everything that a model can have."""

import jax
import numpy as np
import pytest

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.runs import model_file
from mixkabrn_run import file
from mixkabrn_run.model import Model
from tests import toy

TOKENIZER = tokenizers.Characters("".join(map(chr, range(97, 97 + toy.VOCAB_SIZE - 2))))
DENSE = {"linear": "dense", "kan__spline_linear": "dense", "quantization__embedding": "dense"}

KINDS = {
    "all four": {},
    "attention": {"mixer": "attention"},
    "half": {"rotary__layout": "half"},
    "rope, interleaved": {"rotary__kind": "rope", "rotary__layout": "interleaved"},
    "lm decays": {"retention__decay": "lm"},
    "learned decays": {"retention__decay": "learned"},
    "gated decays": {"retention__decay": "gated", "retention__normalization": "none"},
    "mlp": {"ffn": "mlp"},
    "swiglu": {"ffn": "swiglu"},
    "geglu": {"ffn": "geglu"},
    "no experts": {"num_experts": 0},
    "first layer dense": {"num_layers": 2, "first_dense_layers": 1},
    "sigmoid scores in groups": {
        "num_experts": 4,
        "experts_per_token": 2,
        "router__score": "sigmoid",
        "router__num_groups": 2,
        "router__groups_per_token": 1,
        "router__normalize": True,
    },
    "softmax scores in groups": {"num_experts": 4, "router__num_groups": 4, "router__groups_per_token": 2},
    "two shared experts": {"num_shared_experts": 2},
    "no shared expert": {"num_shared_experts": 0, "router__scale": 2.5},
    "deepnorm": {"residual": "deepnorm"},
    "no sub-norm": {"sub_norm": False},
    "own head": {"tied_embeddings": False},
    "a token alone": {"conv_size": 1},
    "adaptive knots": {"kan__knots": "adaptive"},
    "adaptive knots, going on": {"kan__knots": "adaptive", "kan__grid__extrapolation": "linear"},
    "splines that clamp": {"kan__grid__extrapolation": "clamp", "kan__grid__degree": 2},
    "splines that go on": {"kan__grid__extrapolation": "linear", "kan__grid__degree": 1},
    "boxes": {"kan__grid__degree": 0},
    "chebyshev": {"kan__basis": "chebyshev"},
    "fourier": {"kan__basis": "fourier"},
    "rbf": {"kan__basis": "rbf"},
    "rational": {"kan__basis": "rational"},
}


def content_of(changes):
    """The file of a random toy model; `rounding` among the changes is that of its dense matrices."""
    fields = {name: value for name, value in changes.items() if name != "rounding"}
    model = toy.make(toy.model_config(**fields), vocab_size=TOKENIZER.vocab_size)
    return model_file.to_bytes(model, TOKENIZER, toy.document(), rounding=changes.get("rounding", ""))


def read_all(model, tokens):
    """Logits behind each token, `[T, W]`."""
    session = model.session(len(tokens))
    return np.stack([session.step(int(token)).copy() for token in tokens])


def logits(changes, num_tokens=40):
    """Of the runtime, step by step, and of the model in JAX: `[T, W]` each."""
    content = content_of(changes)
    tokens = np.asarray(toy.tokens(0, 1, num_tokens))[0] % TOKENIZER.vocab_size
    want = jax.jit(lambda model, tokens: model(tokens).logits_BTW)(model_file.from_bytes(content)[0], tokens[None])[0]
    return read_all(Model(file.parse(content)), tokens), np.asarray(want)


IN_A_HURRY = ("all four", "attention", "swiglu", "first layer dense", "gated decays", "adaptive knots, going on")
"""What the quick tests take of the kinds: each compiles a model of its own."""


def slowly(names=KINDS, quick=IN_A_HURRY):
    """Names as parameters, all but some of them marked slow."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", slowly())
def test_a_dense_model_has_the_logits_of_jax(name):
    mine, want = logits(DENSE | KINDS[name])
    np.testing.assert_allclose(mine, want, atol=1e-4 * max(1, np.abs(want).max()), rtol=0)


@pytest.mark.parametrize(
    "name", slowly(["all four", "attention", "mlp", "first layer dense", "adaptive knots"], ["mlp"])
)
@pytest.mark.parametrize("linear", ["ternary", "binary"])
def test_a_rounded_model_has_nearly_the_logits_of_jax(name, linear):
    """A rounding elsewhere moves an input to the next code now and then, or a token to another expert."""
    changes = {"linear": linear, "kan__spline_linear": "ternary", "quantization__embedding": "int8"}
    mine, want = logits(changes | KINDS[name])
    assert np.median(np.abs(mine - want)) < 1e-4 * np.abs(want).max()


def test_inputs_that_matrices_normalise():
    mine, want = logits(KINDS["mlp"] | {"quantization__normalize_input": True, "linear": "ternary"})
    assert np.median(np.abs(mine - want)) < 1e-4 * np.abs(want).max()
