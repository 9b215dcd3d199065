"""Sweeps end in one complete table, whatever happens to their processes on the way."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.sweeping import results, trials
from mixkabrn_jax.runs import metrics

# ml_collections loads a config file in a way that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = Path(__file__).parents[2]

CONFIG = """
from ml_collections import ConfigDict

def get_config(size="toy"):
    model = dict(mixer="retention", width=16, shape=(1, 2), rate=0.5, remat=False)
    return ConfigDict(dict(num_steps=6, seed=4, pause=0.0, model=model, data=dict(num_threads=1, path=""))).lock()

def ablation(config):
    yield {}
    yield {"model.mixer": "attention"}
    yield {"model.width": 2 * config.model.width}

def doubled(config):
    yield {}
    yield {"model.mixer": "retention"}
    yield {"model.width": 32}

def misspelled(config):
    yield {}
    yield {"model.mixxer": "attention"}

def failing(config):
    yield {}
    yield {"model.width": 1 // 0}

def helper(config):
    return [{}]

def _private(config):
    yield {}
"""

# What a sweep sees of training: metrics, checkpoints, SIGTERM. Attention fails until a file is there.
FAKE_TRAIN = """
import os, signal, sys, time
from pathlib import Path
from mixkabrn_jax.runs import metrics

options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
directory, num_steps = Path(options["workdir"]), int(options.get("config.num_steps", 6))
with open(directory / "starts.txt", "a") as starts:
    starts.write(f"{os.getpid()}\\n")
if options.get("config.model.mixer") == "attention" and not Path("attention_works").exists():
    sys.exit("error: config.model.mixer=attention | not today")
stopped = []
signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
checkpoint = directory / "checkpoint"
start = int(checkpoint.read_text()) if checkpoint.exists() else 0
log = metrics.MetricsFile(directory / "metrics.jsonl", start)
for step in range(start + 1, num_steps + 1):
    time.sleep(float(options.get("config.pause", 0)))
    log.write(step, "train", {"loss": 3.0, "tokens_per_second": 100.0 * step})
    if step % 3 == 0:
        log.write(step, "validation", {"loss": 9.0, "bits_per_byte": 13.0})
    if step == num_steps:
        sizes = {"parameters": 20, "active_parameters": 10, "file_bytes": 7}
        log.write(step, "validation", {"loss": 2.5, "bits_per_byte": 3.6} | sizes)
    if step % 4 == 0 or stopped:
        checkpoint.write_text(str(step))
    if stopped:
        sys.exit(143)
log.close()
"""

DRIVER = """
import sys
from experiments import command_line, sweep
from experiments.sweeping import results, trials

trials.TRAIN = (sys.executable, "fake_train.py")
trials.check = lambda config: None
command_line.run(sweep.main)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A place with a config, a stand-in for training that takes it, and the sweep that uses it."""
    monkeypatch.chdir(ROOT)  # back from where a test goes
    monkeypatch.setattr(trials, "check", lambda _: None)
    for name, text in {"config.py": CONFIG, "fake_train.py": FAKE_TRAIN, "driver.py": DRIVER}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def start_sweep(folder, *arguments, program=("driver.py",), sweep="ablation"):
    command = [sys.executable, *program, "--config=config.py:toy", f"--sweep={sweep}", "--workdir=out", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run_sweep(folder, *arguments, **options):
    with start_sweep(folder, *arguments, **options) as process:
        stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def table(folder):
    with (folder / "out" / "results.csv").open() as file:
        return list(csv.DictReader(file))


def num_starts(folder):
    """How often each trial was started, in the table's order."""
    paths = [folder / "out" / row["trial"] / "starts.txt" for row in table(folder)]
    return [len(path.read_text().splitlines()) if path.exists() else 0 for path in paths]


def steps_trained(folder):
    """The steps in each trial's metrics."""
    records = [metrics.read(folder / "out" / row["trial"] / "metrics.jsonl") for row in table(folder)]
    return [[record["step"] for record in trial if record["split"] == "train"] for trial in records]


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def expand(folder, *overrides, base=None):
    return trials.expand(f"{folder}/config.py:toy", base or {}, iter(overrides), folder / "out")


def run_here(entry, folder, *arguments, sweep="ablation"):
    """The sweep in this process, for what starts no others."""
    program = entry("sweep")
    os.chdir(folder)
    return program.run("--config=config.py:toy", f"--sweep={sweep}", "--workdir=out", *arguments)


def test_a_dry_run_prints_the_command_lines_and_writes_nothing(entry, folder, capsys):
    before = sorted(folder.rglob("*"))
    assert run_here(entry, folder, "--dry_run", "--config.data.path=a b", "--config.model.remat") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    prefix = "python -m experiments.train --config=config.py:toy --workdir=out/mixer=attention-"
    suffix = " '--config.data.path=a b' --config.model.remat=True --config.model.mixer=attention"
    assert lines[1].startswith(prefix)
    assert lines[1].endswith(suffix)
    assert [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts] == before


def test_seeds_multiply_a_sweep_and_the_first_comes_first(entry, folder, capsys):
    assert run_here(entry, folder, "--dry_run", "--seeds=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("--config.seed=")[2] for line in lines] == ["4"] * 3 + ["5"] * 3
    assert "--config.model.mixer=attention" in lines[1]
    assert "--config.model.mixer=attention" in lines[4]
    run_here(entry, folder, "--dry_run", "--seeds=1")
    names = [line.split("out/")[1].split()[0][-8:] for line in (*lines, *capsys.readouterr().out.splitlines())]
    assert names[:3] == names[6:]  # the runs of a sweep without --seeds are those of its first seed


def test_equal_configs_have_one_name_and_others_another(folder):
    everything = [{}, {"model.mixer": "attention"}, {"model.rate": 1}, {"model.shape": (1, 3)}, {"model.remat": True}]
    names = [trial.name for trial in expand(folder, *everything)[0]]
    assert len({name[-8:] for name in names}) == 5
    assert names[0].startswith("base-")
    assert names[2].startswith("rate=1-")
    (again,), _ = expand(folder, {"model.mixer": "retention", "data.num_threads": 4})
    assert again.name[-8:] == names[0][-8:]
    (file_name,), _ = expand(folder, {"data.path": "/a/b |c" * 50})
    assert set(file_name.name) <= set("path=_abc-0123456789abcdef")
    assert len(file_name.name) < 100


def test_a_trial_is_found_under_the_name_it_was_trained_with(folder):
    (trained,), _ = expand(folder, {"model.width": 32})
    trained.workdir.mkdir(parents=True)
    (found,), _ = expand(folder, {}, base={"model.width": 32})
    assert found.workdir == trained.workdir


def test_the_trials_overrides_come_after_the_command_lines(folder):
    (trial,), _ = expand(folder, {"model.shape": (3, 4)}, base={"model.shape": (5, 6), "num_steps": 9})
    assert trial.num_steps == 9
    assert trial.command[-2:] == ("--config.model.shape=(3, 4)", "--config.num_steps=9")


def test_overrides_with_the_same_config_are_one_trial(entry, folder, capsys):
    run_here(entry, folder, "--dry_run", sweep="doubled")
    output, errors = capsys.readouterr()
    assert len(output.splitlines()) == 2
    assert "{'model.mixer': 'retention'} gives the same config as base-" in errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.mixxer": "attention"}, "config.model.mixxer, which"),
        ({"model": {}}, "config.model, which"),
        ({"model.width": "wide"}, "--config.model.width=wide: an integer is needed"),
        ({"model.width": 2.5}, "config.model.width=2.5"),
        ({"model.mixer": 3}, "would be taken as '3'"),
        ({"model.mixer": None}, "would be taken as 'None'"),
        ("model.mixer", "is not a dict"),
    ],
)
def test_an_override_that_training_would_refuse_is_named(folder, overrides, message):
    with pytest.raises(ValueError, match=message):
        expand(folder, {}, overrides)


@pytest.mark.parametrize(
    ("sweep", "arguments", "message"),
    [
        ("nope", (), "error: --sweep=nope is not in config.py: its sweeps are ablation, doubled, failing, missp"),
        ("helper", (), "error: --sweep=helper is not in config.py: its sweeps are ablation, doubled, failing, missp"),
        ("failing", (), "error: --sweep=failing: config.py, line 24: ZeroDivisionError: integer division or modulo by"),
        ("misspelled", (), "error: --sweep=misspelled: {'model.mixxer': 'attention'} overrides config.model.mixxer"),
        ("ablation", ("--config.model.depth=3",), "error: --config.model.depth=3: the config file declares no such"),
        ("ablation", ("--config=nope.py",), "error: --config=nope.py: there is no file 'nope.py'"),
        ("ablation", ("--resources=gpus=1",), "error: --resources=gpus=1 is for --executor=slurm or ray"),
        ("ablation", ("--executor=ray", "--resources=gpus"), "error: --resources=gpus: name=value is needed, such as"),
        ("ablation", ("--workdir=config.py",), "error: [Errno 17] File exists: 'config.py'"),
    ],
)
def test_a_users_mistake_is_one_line_before_anything_runs(entry, folder, sweep, arguments, message):
    with pytest.raises(SystemExit) as ended:
        run_here(entry, folder, *arguments, sweep=sweep)
    assert ended.value.code.startswith(message)
    assert "\n" not in ended.value.code
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "base", "message"),
    [
        (
            {"model.expert_width": -3},
            {},
            r"trial 2, {'model.expert_width': -3}: config.model.expert_width=-3: at least",
        ),
        ({"model.num_heads": 3}, {}, r"trial 2, {'model.num_heads': 3}: config.model.num_heads=3 does not divide"),
        ({"seed": 1}, {"num_steps": 0}, r"trial 1, {}: config.num_steps=0: at least 1 is needed"),
    ],
)
def test_a_trial_that_training_would_refuse_is_named_with_its_field(tmp_path, overrides, base, message):
    with pytest.raises(ValueError, match=message):
        trials.expand(f"{ROOT}/configs/lm.py:tiny", base, iter([{}, overrides]), tmp_path)


def test_a_long_error_does_not_widen_the_table():
    row = results.Row("base-0", "", "failed", None, None, None, 0, None, None, None, "x" * 350)
    short = results.Row("base-1", "", "failed", None, None, None, 0, None, None, None, "y" * 100)
    lines = results.markdown([row, short]).splitlines()
    assert "x" * 97 + "... |" in lines[2]
    assert "y" * 100 + " |" in lines[3]


def test_a_failing_trial_is_reported_and_run_again_alone(folder):
    done = run_sweep(folder)
    assert done.returncode == 1
    rows = table(folder)
    assert [row["status"] for row in rows] == ["complete", "failed", "complete"]
    assert rows[1]["error"] == "config.model.mixer=attention | not today"
    assert "attention \\| not today" in done.stdout
    assert rows[0] | {"trial": ""} == {
        "trial": "",
        "overrides": "",
        "status": "complete",
        "parameters": "20",
        "active_parameters": "10",
        "file_bytes": "7",
        "steps": "6",
        "validation_loss": "2.5",
        "bits_per_byte": "3.6",
        "tokens_per_second": "350.0",
        "error": "",
    }
    (folder / "attention_works").touch()
    done = run_sweep(folder)
    assert done.returncode == 0
    assert [row["status"] for row in table(folder)] == ["complete"] * 3
    assert [row["error"] for row in table(folder)] == [""] * 3
    assert num_starts(folder) == [1, 2, 1]
    assert (folder / "out" / "results.md").read_text().endswith("\n\n" + done.stdout)
    assert run_sweep(folder).returncode == 0
    assert num_starts(folder) == [1, 2, 1]


@pytest.mark.parametrize("with_children", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_killed_sweep_run_again_ends_in_one_complete_table(folder, with_children):
    arguments = ("--slots=2", "--config.num_steps=24", "--config.pause=0.25")
    with start_sweep(folder, *arguments) as process:
        wait_until(lambda: len(list(folder.glob("out/*/checkpoint"))) == 2)
        process.kill()
        if with_children:
            for path in folder.glob("out/*/checkpoint"):
                os.killpg(int(path.with_name("starts.txt").read_text()), signal.SIGKILL)
        process.communicate()
    assert [row["status"] for row in table(folder)] == ["pending", "failed", "pending"]
    (folder / "attention_works").touch()
    done = run_sweep(folder, *arguments)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in table(folder)] == ["complete"] * 3
    assert [row["validation_loss"] for row in table(folder)] == ["2.5"] * 3
    assert num_starts(folder) == ([2, 2, 2] if with_children else [1, 2, 1])
    assert steps_trained(folder) == [list(range(1, 25))] * 3


def test_a_stopped_sweep_lets_its_trials_save_and_goes_on(folder):
    (folder / "attention_works").touch()
    arguments = ("--config.num_steps=14", "--config.pause=0.1")
    with start_sweep(folder, *arguments) as process:
        wait_until(lambda: list(folder.glob("out/*/metrics.jsonl")))
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped with 0 of 3 trials complete; the same command goes on from there" in stderr
    assert [row["status"] for row in table(folder)] == ["pending"] * 3
    assert num_starts(folder) == [1, 0, 0]
    (checkpoint,) = folder.glob("out/*/checkpoint")
    assert int(checkpoint.read_text()) == int(table(folder)[0]["steps"])
    assert run_sweep(folder, "--slots=3", *arguments).returncode == 0
    assert num_starts(folder) == [2, 1, 1]
    assert steps_trained(folder) == [list(range(1, 15))] * 3


def test_a_timeout_and_attempts_are_told_in_the_error_column(folder):
    arguments = ("--slots=3", "--timeout_minutes=0.1", "--retries=1", "--config.num_steps=12", "--config.pause=1.0")
    assert run_sweep(folder, *arguments).returncode == 1
    rows = table(folder)
    assert [row["status"] for row in rows] == ["failed"] * 3
    assert rows[0]["error"].startswith("timeout after 0.1 minutes; exit code 124")
    assert rows[1]["error"] == "attempt 2; config.model.mixer=attention | not today"
    assert num_starts(folder) == [1, 2, 1]
    (folder / "attention_works").touch()
    assert run_sweep(folder, "--slots=3", *arguments[3:]).returncode == 0
    assert steps_trained(folder) == [list(range(1, 13))] * 3


def test_a_workdir_has_one_sweep_at_a_time(folder):
    with start_sweep(folder, "--config.num_steps=100", "--config.pause=0.1") as process:
        wait_until(lambda: list(folder.glob("out/*/starts.txt")))
        second = run_sweep(folder)
        process.terminate()
        process.communicate(timeout=60)
    assert second.returncode == 1
    assert second.stderr == "error: --workdir=out: another sweep is running in it\n"


@pytest.mark.slow
def test_real_training_ends_in_the_table(tmp_path):
    (tmp_path / "text.txt").write_text("A sweep is a generator of command lines. " * 60)
    (tmp_path / "config.py").write_text(
        "from configs.lm import get_config as language_model\n"
        "def get_config(size='toy'):\n"
        "    config = language_model('tiny')\n"
        "    config.update_from_flattened_dict({'num_steps': 2, 'model.d_model': 16, 'model.num_layers': 1,\n"
        "        'data.sequence_length': 32, 'data.batch_size': 2, 'data.path': 'text.txt',\n"
        "        'data.tokenizer': 'bytes', 'model.ffn': 'mlp', 'model.mixer': 'attention',\n"
        "        'model.linear': 'dense', 'model.num_experts': 0})\n"
        "    return config\n"
        "def ablation(config):\n"
        "    yield {}\n"
        "    yield {'data.path': 'absent.txt'}\n"
    )
    done = run_sweep(tmp_path, program=("-m", "experiments.sweep"))
    assert done.returncode == 1
    complete, failed = table(tmp_path)
    assert (complete["status"], complete["steps"], complete["error"]) == ("complete", "2", ""), done.stderr
    assert 0 < float(complete["bits_per_byte"]) < 20
    assert failed["status"] == "failed"
    assert "config.data.path='absent.txt' does not exist" in failed["error"]
