"""A search proposes trials from what came out before, and a command that comes later goes on with it."""

import pytest

from experiments.sweeping import search
from tests.experiments import test_sweep
from tests.experiments.test_sweep import CONFIG, DRIVER, FAKE_TRAIN, table

RANGES = """
def rates(config):
    return {"model.rate": (config.model.rate / 100, 0.9, "log")}

def widths(config):
    return {"model.width": (8, 32)}
"""
# Best at 0.1; how far from it, is the loss.
LOSS = '{"loss": abs(float(options["config.model.rate"]) - 0.1), "bits_per_byte": 3.6}'


@pytest.fixture
def folder(tmp_path):
    train = FAKE_TRAIN.replace('{"loss": 2.5, "bits_per_byte": 3.6}', LOSS)
    files = {"config.py": CONFIG + RANGES, "fake_train.py": train, "driver.py": DRIVER}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run_search(folder, *arguments, name="rates"):
    return test_sweep.run_sweep(folder, f"--search={name}", *arguments, sweep="")


def test_a_search_goes_on_where_it_stopped(folder):
    pytest.importorskip("optuna")
    done = run_search(folder, "--num_trials=3")
    assert done.returncode == 0, done.stderr
    first = table(folder)
    assert [row["status"] for row in first] == ["complete"] * 3
    assert "--search=rates --workdir=out --num_trials=3" in (folder / "out/results.md").read_text()
    done = run_search(folder, "--num_trials=5", "--slots=2")
    assert done.returncode == 0, done.stderr
    assert table(folder)[:3] == first
    rates = [float(row["overrides"].removeprefix("model.rate=")) for row in table(folder)]
    assert len(set(rates)) == 5
    assert all(0.005 <= rate <= 0.9 for rate in rates)
    assert [float(row["validation_loss"]) for row in table(folder)] == [abs(rate - 0.1) for rate in rates]
    assert test_sweep.num_starts(folder) == [1] * 5


def test_a_trial_that_failed_is_proposed_again(folder):
    pytest.importorskip("optuna")
    arguments = ("--num_trials=2", "--config.model.mixer=attention")  # which fails until a file is there
    assert run_search(folder, *arguments).returncode == 1
    names = [row["trial"] for row in table(folder)]
    (folder / "attention_works").touch()
    assert run_search(folder, *arguments).returncode == 0
    assert [(row["trial"], row["status"]) for row in table(folder)] == [(name, "complete") for name in names]
    assert test_sweep.num_starts(folder) == [2, 2]


def test_a_dry_run_prints_the_ends_of_the_ranges(folder):
    done = run_search(folder, "--dry_run")
    assert [line.rpartition("=")[2] for line in done.stdout.splitlines()] == ["0.005", "0.9"]
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nope", (), "error: --search=nope: config.py has no such function"),
        ("widths", (), "error: --search=widths: --config.model.width=8.0: an integer"),
        ("helper", (), "error: --search=helper: [{}] is not a dict of ranges such as"),
        ("rates", ("--sweep=ablation",), "error: --sweep=ablation is needed"),
        ("rates", ("--executor=slurm",), "error: --search asks for a trial when another has ended"),
    ],
)
def test_a_users_mistake_is_one_line(folder, name, arguments, message):
    done = run_search(folder, *arguments, name=name)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    "given", [(1,), (2, 1), (1, 1), (0.0, 1.0, "log"), (1, 2, "sqrt"), (1, 2, 3, 4), "ab", 3, ("a", "b")]
)
def test_what_is_no_range_is_named(given):
    with pytest.raises(ValueError, match=r"model\.rate: "):
        search.check({"model.rate": given})
    search.check({"model.rate": (1, 2.5), "model.other": [1e-3, 1, "log"]})
