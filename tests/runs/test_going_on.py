"""Runs that go on with another config, and with files that were deleted."""

import pytest

from mixkabrn_jax.runs import metrics, workdir
from mixkabrn_jax.training.loop import Run
from tests import toy

SMALL = {"model__ffn": "mlp", "model__num_experts": 0, "model__mixer": "attention", "guard__window": 0}


def test_a_run_goes_on_with_other_bookkeeping_and_with_more_steps_and_says_so(tmp_path, capsys):
    text, directory = toy.write_text(tmp_path / "text.txt"), tmp_path / "run"
    assert Run(toy.experiment(text, **SMALL), directory).train() == 0
    (directory / "metrics.jsonl").unlink()
    capsys.readouterr()
    changes = SMALL | {"num_steps": 16, "log_every": 1, "checkpoint__keep": 1}
    with pytest.raises(ValueError, match="--extend"):
        Run(toy.experiment(text, **changes), directory)
    assert workdir.load_config(directory)["log_every"] == 2
    assert Run(toy.experiment(text, **changes), directory, extend=True).train() == 0
    shown = capsys.readouterr().out
    for line in ("checkpoint.keep 2 -> 1", "log_every 2 -> 1", "num_steps 12 -> 16"):
        assert f"config.{line} from step 12\n" in shown
    records = metrics.read(directory / "metrics.jsonl")
    assert [record["step"] for record in records if record["split"] == "train"] == [13, 14, 15, 16]
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["16"]
    assert workdir.load_config(directory) == toy.experiment(text, **changes)
