import pytest

from mixkabrn_jax.training.experiment import Experiment
from tests import toy


def test_a_config_becomes_an_object_with_the_same_fields():
    config = toy.experiment("text.txt", num_steps=7, data__batch_size=6)
    experiment = Experiment.from_dict(config)
    assert experiment.num_steps == 7
    assert experiment.data.batch_size == 6
    assert experiment.model == toy.model_config()


@pytest.mark.parametrize("where", ["config", "model", "data", "optimizer", "training", "guard", "checkpoint", "mesh"])
def test_a_missing_or_unknown_key_is_a_type_error_that_names_it(where):
    config = toy.experiment("text.txt")
    section = config if where == "config" else config[where]
    section["unheard_of"] = 1
    with pytest.raises(TypeError, match="unheard_of"):
        Experiment.from_dict(config)
    del section["unheard_of"]
    missing = next(iter(section))
    del section[missing]
    with pytest.raises(TypeError, match=missing):
        Experiment.from_dict(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({field: 0}, f"config.{field}=0") for field in ("num_steps", "log_every", "evaluate_every")),
        ({"seed": -1}, "config.seed=-1"),
        ({"seed": 2**32}, "config.seed=4294967296"),
        ({"evaluate_windows": 0}, "config.evaluate_windows=0"),
        ({"training__accumulation_steps": 3}, "config.data.batch_size=8 is not a multiple"),
        ({"training__accumulation_steps": 2, "mesh__data": 8}, "config.data.batch_size=8 is not a multiple"),
        ({"model__num_heads": 3}, "config.model.num_heads=3"),
        ({"model__mixer": "convolution"}, "config.model.mixer='convolution'"),
        ({"mesh__model": 4}, "config.model.num_heads=2 is not a multiple of config.mesh.model=4"),
        ({"mesh__expert": 8}, "config.model.num_experts=4 is not a multiple of config.mesh.expert=8"),
        ({"mesh__context": 5}, "config.data.sequence_length=16 is not a multiple of config.mesh.context=5"),
        ({"mesh__data": 0}, "config.mesh.data=0"),
        ({"checkpoint__every": 0}, "config.checkpoint.every=0"),
        ({"checkpoint__keep_best": 1}, "config.evaluate_every=6 must be a multiple of config.checkpoint.every=4"),
        ({"data__sequence_length": 0}, "config.data.sequence_length=0"),
        ({"optimizer__schedule": "linear"}, "config.optimizer.schedule='linear'"),
    ],
)
def test_a_value_that_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        Experiment.from_dict(toy.experiment("text.txt", **changes))
