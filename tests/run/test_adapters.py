"""Adapters beside a model: the same bits in both runtimes, JAX's logits, and what is no adapter of this model."""

import functools
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkabrn_jax.models import adapters as jax_adapters
from mixkabrn_jax.runs import adapters as jax_files
from mixkabrn_jax.runs import model_file
from mixkabrn_run import adapters, arithmetic, file
from mixkabrn_run.model import Model
from tests import toy
from tests.run.compiler import needs_compiler
from tests.run.test_against_jax import DENSE, KINDS, content_of, read_all, slowly
from tests.run.test_file import with_header
from tests.run.test_native import CODED, FORMATS, TOKENS, assert_same_bits, expected, native_model

QUICK = ("all four", "attention", "mlp", "first layer dense", "own head")


def random_adapter(content, seed=0, *, rank=3, targets="*", experts="each", base="", size=0.3, about=None):
    """The file of an adapter of a model's file.

    Args:
        targets, experts: as in the config; base: SHA-256 in the place of the model's; size: of its B; about: what else
            its header has.
    """
    rng, tensors, found = np.random.default_rng(seed), {}, file.parse(content)
    for name, shape in adapters.matrix_shapes(found.arrays).items():
        if not fnmatchcase(name, targets):
            continue
        *lead, d_in, d_out = shape
        if experts == "shared" and ".experts." in name:
            lead[-1] = 1
        for letter, (rows, columns), scale in (("A", (d_in, rank), d_in**-0.5), ("B", (rank, d_out), size)):
            values = scale * rng.standard_normal((*lead, rows, columns))
            tensors[f"{name}.lora_{letter}"] = values.astype(np.float32)
    metadata = {"base": base or found.sha256, "adapter": "{}", "about": "{}"} | (about or {})
    return model_file.serialize(adapters.FORMAT, tensors, metadata)


def parsed(content, adapter):
    found = file.parse(content)
    return adapters.parse(adapter, found.sha256, adapters.matrix_shapes(found.arrays))


def beside(content):
    """Two adapters of a model, of other ranks and matrices, one of which experts share."""
    files = random_adapter(content, 0), random_adapter(content, 1, rank=5, targets="*.*", experts="shared")
    return [parsed(content, each) for each in files]


@needs_compiler
@pytest.mark.parametrize("numbers", ["dense", "ternary"])
@pytest.mark.parametrize("name", slowly(quick=QUICK))
def test_both_runtimes_have_the_same_bits_with_adapters_after_others_and_with_none(name, numbers):
    content, base = expected(name, numbers)
    one, two = beside(content)
    models = start = Model(file.parse(content)), native_model(content)
    earlier = []
    for found in ([(one, 1.0)], [(one, 0.7), (two, -0.3)], [(two, 1.0)]):
        models = [model.adapted(found) for model in models]
        want, got = (read_all(model, TOKENS) for model in models)
        assert_same_bits(got, want)
        assert all(np.abs(want - other).max() > 1e-2 for other in (base, *earlier))
        earlier.append(want)
    zero = parsed(content, random_adapter(content, size=0.0))
    for model in (
        *start,
        *(model.adapted([]) for model in models),
        *(model.adapted([(zero, 2.0)]) for model in models),
    ):
        assert_same_bits(read_all(model, TOKENS), base)


@functools.cache
def of_odd_widths(numbers):
    return content_of(FORMATS[numbers] | {"d_model": 36, "num_heads": 1, "expert_width": 13, "value_width": 7})


@needs_compiler
@pytest.mark.parametrize("numbers", ["ternary", "dense, kept in 8 bits"])
def test_all_processors_have_the_bits_of_numpy_at_widths_that_fill_no_lane(numbers, processor):
    content = of_odd_widths(numbers)
    found = [*zip(beside(content), (1.5, -0.3), strict=True)]
    want = read_all(Model(file.parse(content)).adapted(found), TOKENS)
    assert_same_bits(read_all(native_model(content, processor).adapted(found), TOKENS), want)


@needs_compiler
@pytest.mark.parametrize("name", ["all four", "attention"])
def test_threads_change_no_bit(name):
    content = expected(name, "ternary")[0]
    found = [(beside(content)[0], 1.0)]
    want = read_all(Model(file.parse(content)).adapted(found), TOKENS)
    assert_same_bits(read_all(native_model(content, threads=3).adapted(found), TOKENS), want)


@pytest.mark.parametrize("groups", [1, 3])
def test_each_of_several_sums_is_the_total_of_one(groups):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((groups, 16), (16 * groups, 5)))
    want = np.stack([arithmetic.total(x.reshape(-1) * column) for column in w.T])
    assert_same_bits(arithmetic.totals(x, w), want)
    tail = np.stack([arithmetic.total(x[0, :13] * column) for column in w[:13].T])
    assert_same_bits(arithmetic.totals(x[:1, :13], w[:13]), tail)


def both(changes, experts):
    """Logits of the runtime and of JAX with two adapters, the second out of a file that JAX has written."""
    content = content_of(changes)
    model = model_file.from_bytes(content)[0]
    one = parsed(content, random_adapter(content, 0, experts=experts))
    other = parsed(content, random_adapter(content, 1, rank=2, targets="*_WD"))
    in_jax = [{name: tuple(map(jnp.asarray, pair)) for name, pair in each.factors.items()} for each in (one, other)]
    applied = jax_adapters.apply(model, [(in_jax[1], 1.0)])
    other = parsed(content, jax_files.to_bytes(applied, one.base, toy.document(adapter__rank=2)))
    model = jax_adapters.apply(model, [(in_jax[0], 0.8), (in_jax[1], -0.4)])
    want = jax.jit(lambda model, tokens: model(tokens).logits_BTW)(model, TOKENS[None])[0]
    return read_all(Model(file.parse(content)).adapted([(one, 0.8), (other, -0.4)]), TOKENS), np.asarray(want)


@pytest.mark.parametrize("name", slowly(QUICK, ["first layer dense"]))
def test_a_dense_model_has_the_logits_of_jax(name):
    mine, want = both(DENSE | KINDS[name], "shared" if "layer" in name else "each")
    np.testing.assert_allclose(mine, want, atol=1e-4 * max(1, np.abs(want).max()), rtol=0)


@pytest.mark.parametrize("name", slowly(["all four", "mlp"], ["mlp"]))
def test_a_rounded_model_has_nearly_the_logits_of_jax(name):
    mine, want = both(CODED | KINDS[name], "each")
    assert np.median(np.abs(mine - want)) < 1e-4 * np.abs(want).max()


CONTENT = content_of(CODED | {"num_layers": 2, "num_experts": 2})
QUERY = "routed_blocks.mixer.query.kernel"


def changed(change):
    """A file whose tensors are not what they were, and whose hash says so truly."""
    tensors, metadata = file.parts(random_adapter(CONTENT), adapters.FORMAT, ())
    change(tensors)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return model_file.serialize(adapters.FORMAT, tensors, {"base": metadata["base"]})


def renamed(old, new):
    def change(tensors):
        for letter in "AB":
            tensors[f"{new}.lora_{letter}"] = tensors.pop(f"{old}.lora_{letter}")

    return changed(change)


def put(name, value):
    return changed(lambda tensors: tensors.update({name: value(tensors[name])}))


NO_ADAPTERS = {
    "nothing": (lambda: b"", "no safetensors file"),
    "a model": (lambda: CONTENT, "its format is '?mixkabrn-1'?, where|its format is not mixkabrn-adapter-1"),
    "of another model": (lambda: random_adapter(CONTENT, base="0" * 64), r"for .*model.* 000000000000"),
    "of no model": (
        lambda: with_header(random_adapter(CONTENT), lambda header: header["__metadata__"].pop("base")),
        "its header has no 'base'|it does not say which model it is for",
    ),
    "damaged": (lambda: random_adapter(CONTENT)[:-1] + b"\x01", "their SHA-256 is another"),
    "a matrix that there is not": (
        lambda: renamed(QUERY, "routed_blocks.mixer.querry.kernel"),
        r"a factor of routed_blocks\.mixer\.querry\.kernel, and the model has no|has no matrix .*querry\.kernel",
    ),
    "a router's": (lambda: renamed(QUERY, "routed_blocks.ffn.router"), "no .*matrix"),
    "a factor alone": (lambda: changed(lambda tensors: tensors.pop(f"{QUERY}.lora_B")), f"lacks .*{QUERY}"),
    "no factor": (
        lambda: changed(lambda tensors: tensors.update({QUERY: tensors[f"{QUERY}.lora_A"]})),
        "no factor of a matrix",
    ),
    "too few rows": (lambda: put(f"{QUERY}.lora_A", lambda a: a[:, 1:]), f"factors of {QUERY}"),
    "too many columns": (lambda: put("embedding_WD.lora_B", lambda b: np.pad(b, ((0, 0), (0, 1)))), "embedding_WD"),
    "another rank": (lambda: put(f"{QUERY}.lora_A", lambda a: a[..., :2]), f"factors of {QUERY}"),
    "no layers": (lambda: put(f"{QUERY}.lora_A", lambda a: a[0]), f"factors of {QUERY}"),
    "one for both layers": (
        lambda: changed(
            lambda tensors: tensors.update({f"{QUERY}.lora_{x}": tensors[f"{QUERY}.lora_{x}"][:1] for x in "AB"})
        ),
        f"factors of {QUERY}",
    ),
    "one factor for all experts": (
        lambda: put("routed_blocks.ffn.experts.up.base.lora_A", lambda a: a[:, :1]),
        r"factors of routed_blocks\.ffn\.experts\.up\.base",
    ),
    "no rank": (
        lambda: changed(
            lambda tensors: tensors.update(
                {f"{QUERY}.lora_A": tensors[f"{QUERY}.lora_A"][..., :0], f"{QUERY}.lora_B": np.zeros((2, 0, 16), "f4")}
            )
        ),
        f"factors of {QUERY}",
    ),
    "bytes": (lambda: put(f"{QUERY}.lora_A", lambda a: a.astype(np.uint8)), f"{QUERY}"),
    "not a number": (lambda: put(f"{QUERY}.lora_A", lambda a: a * np.nan), "numbers that are not finite|not finite: "),
}


@needs_compiler
@pytest.mark.parametrize("name", NO_ADAPTERS)
def test_what_is_no_adapter_of_the_model_is_refused_with_a_sentence(name):
    make, message = NO_ADAPTERS[name]
    content = make()
    with pytest.raises(ValueError, match=message) as error:
        parsed(CONTENT, content)
    model = native_model(CONTENT)
    with pytest.raises(ValueError, match=message) as in_c:
        model._owned(model._library.mk_drop, model._library.mk_adapter, model._model.pointer, content, len(content), 1)
    for sentence in (str(error.value), str(in_c.value)):
        assert "\n" not in sentence
        assert len(sentence) < 250
