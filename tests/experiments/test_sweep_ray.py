"""Sweeps as tasks of a Ray that is started on this machine."""

import signal

import pytest

from mixkabrn_jax.runs import metrics
from tests.experiments.test_sweep import (
    CONFIG,
    DRIVER,
    FAKE_TRAIN,
    num_starts,
    run_sweep,
    start_sweep,
    table,
    wait_until,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    # No token in the home, no network, and time to start on a machine that has other work.
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name, text in {"config.py": CONFIG, "fake_train.py": FAKE_TRAIN, "driver.py": DRIVER}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_sweep_by_ray_is_stopped_and_ends_in_the_table_of_the_local_executor(folder):
    steps = ("--config.num_steps=30", "--config.pause=0.1")
    in_ray = ("--executor=ray", "--slots=2", "--resources=num_cpus=0.5", *steps)
    with start_sweep(folder, *in_ray) as process:
        wait_until(lambda: list(folder.glob("out/*/checkpoint")), seconds=240)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, told
    assert "each trial that runs saves its state first" in told
    (stopped,) = (path for path in folder.glob("out/*/checkpoint") if path.parent.name.startswith("base"))
    assert 0 < int(stopped.read_text()) < 30
    done = run_sweep(folder, *in_ray)
    assert done.returncode == 1, done.stderr
    rows = table(folder)
    assert [row["status"] for row in rows] == ["complete", "failed", "complete"]
    assert rows[1]["error"] == "config.model.mixer=attention | not today"
    assert num_starts(folder)[0] == 2
    records = metrics.read(stopped.with_name("metrics.jsonl"))
    assert [record["step"] for record in records if record["split"] == "train"] == list(range(1, 31))
    (folder / "out").rename(folder / "ray")
    run_sweep(folder, "--slots=2", *steps)
    assert table(folder) == rows
