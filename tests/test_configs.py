"""The configs that ship: each builds, and has the size that its header says."""

import ast
import dataclasses
import inspect
import itertools
import typing

import jax
import pytest

from configs import golf, lm, retnet, shakespeare, translation
from mixkabrn_jax.data.config import PERMISSIVE
from mixkabrn_jax.models.language import count_parameters
from mixkabrn_jax.models.size import sizes
from mixkabrn_jax.runs import moved
from mixkabrn_jax.runs.config import defaults, flatten
from mixkabrn_jax.training.experiment import Experiment

BYTES = 257
LANGUAGE_MODELS = {
    "nano": (0.0549e6, 0.0406e6),
    "tiny": (1.17e6, 0.94e6),
    "small": (30.6e6, 18.2e6),
    "base": (350e6, 136e6),
    "large": (5.08e9, 1.40e9),
}
RETNETS = {"300m": 0.28e9, "xl": 1.2e9, "3b": 2.5e9, "7b": 6.5e9}


def build(config, vocab_size=BYTES):
    """(config of the model, its parameters counted), without computing any."""
    experiment = Experiment.from_dict(config.to_dict())
    return experiment.model, count_parameters(jax.eval_shape(lambda: experiment.new_model(vocab_size)))


@pytest.mark.parametrize("size", lm.SIZES)
def test_language_models_have_all_four_ideas_and_the_sizes_of_their_header(size):
    data = lm.get_config(size).data
    config, parameters = build(lm.get_config(size), BYTES if data.tokenizer == "bytes" else data.vocab_size)
    assert (config.mixer, config.ffn, config.linear) == ("retention", "kan", "ternary")
    assert config.num_experts > config.experts_per_token
    total, active = LANGUAGE_MODELS[size]
    assert parameters["total"] == pytest.approx(total, rel=0.01)
    assert parameters["active"] == pytest.approx(active, rel=0.01)


@pytest.mark.parametrize("size", retnet.SIZES)
def test_retnets_have_the_official_widths(size):
    config, parameters = build(retnet.get_config(size))
    width, value_width, hidden_width, num_layers, _ = retnet.SIZES[size]
    assert (config.num_heads * config.key_width, config.num_heads * config.value_width) == (width, value_width)
    per_layer = 2 * width**2 + 3 * width * value_width + 3 * width * hidden_width + 2 * width
    assert not config.tied_embeddings  # as both references have it: embedding and head are two matrices
    assert parameters["total"] == num_layers * per_layer + width + 2 * BYTES * width
    assert parameters["embedding"] == 2 * BYTES * width
    assert parameters["total"] == pytest.approx(RETNETS[size], rel=0.02)


@pytest.mark.parametrize("variant", shakespeare.VARIANTS)
def test_shakespeare_is_within_its_budget(variant):
    config = shakespeare.get_config(variant)
    config.data.path = "tinyshakespeare.txt"
    assert config.num_steps * config.data.batch_size * config.data.sequence_length <= 1.54e6
    config, parameters = build(config, vocab_size=66)
    if variant == "all":
        assert (config.mixer, config.ffn, config.linear) == ("retention", "kan", "ternary")
    assert parameters["total"] <= 0.80e6


def test_translation_is_tiny_and_so_is_its_plain_counterpart():
    base = translation.get_config()
    config, parameters = build(base, base.data.vocab_size)
    assert (config.mixer, config.ffn, config.linear) == ("retention", "kan", "ternary")
    assert parameters["total"] < 1.1e6
    same, *others = translation.plain(base)
    assert not same
    for other in others:
        base.update_from_flattened_dict(other)
        config, _ = build(base)
        assert (config.mixer, config.ffn, config.linear, config.num_experts) == ("attention", "mlp", "dense", 0)


@pytest.mark.parametrize("size", golf.SIZES)
def test_golf_leaves_room_for_header_and_tokenizer(size):
    config = golf.get_config(size)
    experiment = Experiment.from_dict(config.to_dict())
    model = jax.eval_shape(lambda: experiment.new_model(config.data.vocab_size))
    limit = {"100k": 100_000, "400k": 400_000, "1m": 1_000_000}[size]
    header, tokenizer = 7500, {512: 3500, 2048: 18_500, 4096: 39_000}[config.data.vocab_size]
    assert sizes(model, 256)["parameter_bytes"]["file"] <= limit - header - tokenizer


@pytest.mark.parametrize("module", [lm, retnet, shakespeare, golf])
def test_an_unknown_size_is_answered_with_the_known_ones(module):
    with pytest.raises(ValueError, match=r"other: one of \("):
        module.get_config("other")


def declared(cls, path=""):
    """Dotted names of all fields of a dataclass and of its sections."""
    types = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(types[field.name]):
            yield from declared(types[field.name], f"{path}{field.name}.")
        else:
            yield path + field.name


def test_every_field_of_every_section_is_declared_in_the_one_full_document():
    assert set(flatten(lm.get_config().to_dict())) == set(declared(Experiment))


@pytest.mark.parametrize("config", [shakespeare.get_config(), retnet.get_config("xl"), lm.get_config("large")])
def test_the_other_configs_have_the_fields_of_the_full_document(config):
    assert flatten(config.to_dict()).keys() == flatten(lm.get_config().to_dict()).keys()


def test_the_licences_that_may_be_read_are_those_that_the_library_takes_for_permissive():
    """They stand twice, for a config imports nothing of the library."""
    assert lm.get_config().data.licenses == PERMISSIVE


def test_a_retnet_has_a_head_of_its_own_as_in_both_references():
    assert not retnet.get_config("300m").model.tied_embeddings


def undocumented(cls):
    """Fields of a section and of those in it that no docstring follows, but for the sections themselves."""
    (tree,) = ast.parse(inspect.getsource(cls)).body
    types = typing.get_type_hints(cls)
    for statement, following in itertools.pairwise([*tree.body, ast.Pass()]):
        if not isinstance(statement, ast.AnnAssign):
            continue
        if dataclasses.is_dataclass(types[statement.target.id]):
            yield from undocumented(types[statement.target.id])
        elif not isinstance(getattr(following, "value", None), ast.Constant) or isinstance(following, ast.AnnAssign):
            yield f"{cls.__name__}.{statement.target.id}"


def test_every_field_says_what_it_means():
    assert not list(undocumented(Experiment))


def test_a_default_reaches_no_experiment():
    """A field that a document does not declare is refused, whatever default its dataclass has for use in own code."""
    config = flatten(lm.get_config().to_dict())
    for name in defaults(Experiment):
        short = {key: value for key, value in config.items() if key != name}
        with pytest.raises(TypeError, match=rf"^config\.{name} is missing"):
            Experiment.from_dict(moved.nested(short))


@pytest.mark.parametrize(
    "config",
    [shakespeare.get_config(), translation.get_config(), *(retnet.get_config(size) for size in retnet.SIZES)],
)
def test_other_documents_are_what_they_change_of_the_full_one(config):
    assert flatten(config.to_dict()).keys() == flatten(lm.get_config().to_dict()).keys()
    assert config.is_locked
