"""Configs of the time when sections were not those of the modules still open."""

import json

import pytest

from configs import lm
from mixkabrn_jax.runs import moved, workdir
from mixkabrn_jax.runs.config import defaults, flatten
from mixkabrn_jax.training.experiment import Experiment
from tests import reference


def of_today(config):
    """A config's fields by dotted names; those that came later have as their defaults what was done before."""
    return defaults(Experiment) | flatten(config)


def flat():
    """What lm.py:tiny wrote into config.json before fields moved."""
    return json.loads((reference.GOLDEN / "flat_config.json").read_text())


def tiny():
    """What lm.py:tiny was then, with the names of today."""
    config = lm.get_config("tiny")
    config.update_from_flattened_dict(
        {
            "num_steps": 1300,
            "log_every": 20,
            "evaluate_every": 250,
            "checkpoint.every": 500,
            "data.batch_size": 8,
            "optimizer.warmup_steps": 100,
            "optimizer.momentum": 0.95,
            "model.embedding_scale": 1.0,
            "model.conv_size": 1,
            "model.sub_norm": True,
            "model.retention.decay": "paper",
            "model.retention.normalization": "sqrt_sum",
            "model.kan.spline_linear": "dense",
            "model.quantization.embedding": "dense",
            "data.tokenizer": "bytes",
            "optimizer.matrices": "adamw",
            "optimizer.peak_rate": 4e-3,
            "optimizer.second_peak_rate": 2.7e-3,
        }
    )
    return config.to_dict()


def test_a_flat_document_becomes_the_nested_one():
    assert of_today(moved.nested(flat())) == flatten(tiny())


def test_a_nested_document_stays_as_it_is():
    assert moved.nested(tiny()) == tiny()
    assert moved.nested(moved.nested(flat())) == moved.nested(flat())


def test_every_name_that_moved_was_one_and_is_one():
    assert moved.MOVED.keys() <= flatten(flat()).keys()
    assert set(moved.MOVED.values()) <= flatten(tiny()).keys()
    assert not moved.MOVED.keys() & flatten(tiny()).keys()  # else a name of today would move, too
    assert len(set(moved.MOVED.values())) == len(moved.MOVED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("model.kernels", True), ("model.backend", "pallas")),
        (("model.kernels", False), ("model.backend", "auto")),
        (("model.quant_norm", "inside"), ("model.quantization.normalize_input", True)),
        (("model.quant_norm", "sub"), ("model.quantization.normalize_input", False)),
        (("model.decay", "gated"), ("model.retention.decay", "gated")),
        (("model.backend", "cpu"), ("model.backend", "cpu")),
        (("model.no_such_field", 3), ("model.no_such_field", 3)),  # for whoever builds it to refuse
    ],
)
def test_a_value_is_translated_where_the_meaning_of_the_field_changed(old, new):
    assert moved.rename(*old) == new


def test_an_old_workdir_is_read_with_the_names_of_today(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(flat()))
    assert of_today(workdir.load_config(tmp_path)) == flatten(tiny())
