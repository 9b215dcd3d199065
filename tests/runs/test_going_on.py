"""Runs that go on with another config, and with files that were deleted."""

import pytest

from mixkabrn_jax.runs import metrics, workdir
from mixkabrn_jax.training import loop
from tests import toy

SMALL = {"model__ffn": "mlp", "model__num_experts": 0, "model__mixer": "attention", "guard__history_length": 0}


def train(config, directory, **options):
    return loop.train(loop.prepare(config, directory, **options))


def test_a_run_goes_on_with_other_bookkeeping_and_with_more_steps_and_says_so(tmp_path, capsys):
    text, directory = toy.write_text(tmp_path / "text.txt"), tmp_path / "run"
    assert train(toy.experiment(text, **SMALL), directory) == 0
    (directory / "metrics.jsonl").unlink()
    capsys.readouterr()
    changes = SMALL | {"num_steps": 16, "log_every": 1, "checkpoint__keep": 1}
    with pytest.raises(ValueError, match="--extend"):
        loop.prepare(toy.experiment(text, **changes), directory)
    assert workdir.load_config(directory)["log_every"] == 2
    assert train(toy.experiment(text, **changes), directory, extend=True) == 0
    shown = capsys.readouterr().out
    for line in ("checkpoint.keep 2 -> 1", "log_every 2 -> 1", "num_steps 12 -> 16"):
        assert f"config.{line} from step 12\n" in shown
    records = metrics.read(directory / "metrics.jsonl")
    assert [record["step"] for record in records if record["split"] == "train"] == [13, 14, 15, 16]
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["16"]
    assert workdir.load_config(directory) == toy.experiment(text, **changes)
