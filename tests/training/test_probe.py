"""The pace of a few seconds, by a clock of our own."""

import itertools

import pytest

from mixkabrn_jax.data import pipeline
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.training import probe
from tests import toy


def test_steps_are_taken_until_the_seconds_are_over_and_nothing_is_left_but_tokens(tmp_path):
    text = toy.write_text(tmp_path / "text.txt")
    changes = {"model__ffn": "mlp", "model__num_experts": 0, "data__cache": str(tmp_path / "cache")}
    config = toy.experiment(text, **changes)
    ticks = itertools.count(0, 2)
    pace = probe.measure(config, seconds=5.0, clock=lambda: float(next(ticks)))
    # It looks at 0, behind the first step at 2, behind three more at 4, 6 and 8, and at 10.
    assert (pace.start, pace.step) == (2.0, pytest.approx(8 / 3))
    data = DataConfig(**config["data"])
    batches = len(pipeline.load(data).validation) / data.batch_size
    assert pace.whole_validation == pytest.approx(8 / 3 * batches / 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "text.txt"]
