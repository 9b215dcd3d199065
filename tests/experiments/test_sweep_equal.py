"""Trials are made equal by their widths, and what is counted is what a model really has and its file really holds."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import lm, sweeps
from experiments.sweeping import equal, results, trials
from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.models.language import count_parameters
from mixkabrn_jax.runs import metrics, model_file
from mixkabrn_jax.runs.config import flatten
from mixkabrn_jax.runs.moved import nested
from mixkabrn_jax.training.experiment import Experiment
from tests import toy

# ml_collections loads a config file in a way that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = Path(__file__).parents[2]
SWEEPS = trials.generators(str(ROOT / "configs" / "lm.py"))
CORNERS = dict(enumerate(lm.ablation(lm.get_config())))
FEW = (0, 6, 9, 15)  # of the corners: each idea is on twice and off twice
BASE = lm.get_config("nano").to_dict()


def corners(fast):
    return [pytest.param(number, marks=() if number in fast else pytest.mark.slow) for number in CORNERS]


def changed(config, *overrides):
    fields = flatten(config)
    for each in overrides:
        assert each.keys() <= fields.keys()
        fields |= each
    return nested(fields)


def equalised(overrides, quantity, base=BASE):
    """The config of a trial with its widths."""
    config = changed(base, overrides)
    return changed(config, equal.equalise(config, base, quantity))


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        pytest.param(quantity, number, marks=() if quantity == "active_parameters" else pytest.mark.slow)
        for quantity in trials.QUANTITIES
        for number in CORNERS
    ],
)
def test_every_corner_of_the_ablation_is_equal_within_a_hundredth(quantity, number):
    base = lm.get_config("tiny").to_dict()  # nano in float32 is too coarse for equal bytes
    found, target = (equal.count(each)[quantity] for each in (equalised(CORNERS[number], quantity, base), base))
    assert found == pytest.approx(target, rel=0.01)


@pytest.mark.parametrize("number", corners(FEW))
def test_what_is_counted_is_what_the_model_has_and_its_file_holds(number):
    config = equalised(CORNERS[number], "active_parameters")
    counted = equal.count(config)
    tokenizer = tokenizers.Bytes()
    model = Experiment.from_dict(config).new_model(tokenizer.vocab_size)
    parameters = count_parameters(model)
    assert counted["total_parameters"] == parameters["total"]
    assert counted["active_parameters"] == parameters["active"]
    for quantity, rounding in (("file_bytes", ""), ("int8_file_bytes", "int8")):
        parts = model_file.describe(model_file.to_bytes(model, tokenizer, config, rounding=rounding))
        assert counted[quantity] == sum(part["bytes"] for kind, part in parts.items() if kind != "tokenizer")


@pytest.mark.slow
def test_whole_files_of_equal_bytes_differ_by_their_headers_alone():
    base, tokenizer, lengths = lm.get_config("tiny").to_dict(), tokenizers.Bytes(), []
    base = changed(base, {"data.tokenizer": "bytes"})
    for overrides in CORNERS.values():
        config = equalised(overrides, "file_bytes", base)
        experiment = Experiment.from_dict(config)
        model = toy.make(experiment.model, vocab_size=tokenizer.vocab_size)
        lengths.append(len(model_file.to_bytes(model, tokenizer, config)))
    assert max(lengths) / min(lengths) < 1.03


def test_feed_forwards_come_first_and_heads_follow_by_as_little_as_helps():
    off = {**sweeps.OFF["mixer"], **sweeps.OFF["ffn"]}
    assert equal.equalise(BASE, BASE, "flops") == {}
    assert equal.equalise(changed(BASE, {"model.ffn": "mlp"}), BASE, "flops") == {"model.expert_width": 56}
    assert set(equal.equalise(changed(BASE, off), BASE, "active_parameters")) == {"model.expert_width"}
    coarse = changed(BASE, {"model.kan.grid.num_intervals": 8})
    widths = equal.equalise(coarse, BASE, "active_parameters")
    assert widths.keys() - {"model.expert_width"} <= {"model.key_width", "model.value_width"}
    assert sum(abs(widths.get(f"model.{name}_width", 16) - 16) for name in ("key", "value")) <= 4


def test_dense_feed_forwards_beside_experts_keep_their_proportion():
    base = changed(BASE, {"model.first_dense_layers": 1})
    widths = equal.equalise(changed(base, {"model.ffn": "mlp"}), base, "active_parameters")
    assert widths["model.hidden_width"] == 3 * widths["model.expert_width"]


def test_a_model_of_wider_numbers_is_narrowed_in_proportion():
    widths = equal.equalise(changed(BASE, sweeps.PLAIN), BASE, "file_bytes")
    assert widths["model.d_model"] < 16
    assert widths["model.embedding_scale"] == pytest.approx(widths["model.d_model"] ** 0.5, abs=0.1)
    assert widths["model.hidden_width"] > widths["model.d_model"]


def test_what_widths_cannot_reach_is_answered_with_the_nearest():
    many_heads = changed(BASE, {"model.num_heads": 32, "model.linear": "dense"})
    with pytest.raises(ValueError, match=r"no widths give 2\d,\d+ file_bytes within 1%: the nearest is [\d,]+, by {"):
        equal.equalise(many_heads, BASE, "file_bytes")


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_says_what_it_is_read_by_and_yields_what_training_takes(name):
    sweep, config = SWEEPS[name], lm.get_config("tiny")
    assert sweep.metrics[0] == "bits_per_byte"
    assert sweep.equal in ("none", *trials.QUANTITIES)
    found = [json.dumps(changed(config.to_dict(), overrides)) for overrides in sweep(config)]
    assert len(set(found)) == len(found)
    for each in found:
        Experiment.from_dict(json.loads(each) | {"mesh": config.mesh.to_dict()})


def test_the_ablation_goes_from_all_ideas_to_the_plain_model_through_all_that_lies_between():
    assert len(CORNERS) == 16
    assert CORNERS[0] == {}
    assert CORNERS[15] == sweeps.PLAIN
    rates = list(lm.learning_rate(lm.get_config()))
    assert all(sum(corner.items() <= trial.items() for trial in rates) >= 5 for corner in CORNERS.values())


def test_the_ladder_has_the_sizes_it_is_named_for():
    for number, overrides in enumerate(lm.parameters(lm.get_config())):
        total = equal.count(changed(lm.get_config("tiny").to_dict(), overrides))["total_parameters"]
        assert total == pytest.approx((0.1e6, 0.3e6, 1e6, 3e6)[number // 2], rel=0.04)


SWEEP = """
from configs import lm
from configs.sweeps import sweep

def get_config(size="nano"):
    return lm.get_config(size)

@sweep(metrics=("bits_per_byte", "max_load"), equal="active_parameters")
def mine(config):
    yield {}
    yield {"model.ffn": "mlp"}

@sweep(metrics=(), equal="parameters")
def misnamed(config):
    yield {}
"""


def test_the_sweep_of_the_docs_is_one(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sweeps.md").read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    sweep = trials.generators(str(tmp_path / "mine.py"))["top_k"]
    assert sweep.metrics == ("bits_per_byte", "max_load")
    base = trials.resolve(f"{tmp_path}/mine.py:nano", {})[0]
    assert [list(each.values()) for each in sweep(ConfigDict(base))] == [[1], [2], [3], [4]]


@pytest.fixture
def config_file(tmp_path):
    (tmp_path / "mine.py").write_text(SWEEP)
    return f"{tmp_path}/mine.py:nano"


def dry_run(entry, config_file, *arguments):
    return entry("sweep").run(f"--config={config_file}", "--sweep=mine", "--workdir=out", "--dry_run", *arguments)


def test_widths_stand_in_the_command_line_and_the_quantity_beside_it(entry, config_file, capsys):
    assert dry_run(entry, config_file) == 0
    output, errors = capsys.readouterr()
    assert output.splitlines()[1].endswith(" --config.model.ffn=mlp --config.model.expert_width=56")
    assert [line.partition(": ")[2] for line in errors.splitlines()] == ["40,608 active_parameters (+0.00%)"] * 2
    dry_run(entry, config_file, "--equal=none")
    output, errors = capsys.readouterr()
    assert output.splitlines()[1].endswith(" --config.model.ffn=mlp")
    assert not errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep=misnamed"], "error: --sweep=misnamed: equal='parameters': none or one of ('total_parameters', "),
        (["--config.model.expert_width=-3"], "error: --sweep=mine: trial 1, {}: config.model.expert_width=-3: at lea"),
        (["--config.model.num_layers=0"], "error: --sweep=mine: trial 1, {}: config.model.num_layers=0: at least 1"),
    ],
)
def test_what_cannot_be_made_equal_is_one_line(entry, config_file, arguments, message):
    with pytest.raises(SystemExit) as ended:
        dry_run(entry, config_file, *arguments)
    assert ended.value.code.startswith(message)
    assert "\n" not in ended.value.code


def test_tables_have_what_a_sweep_is_read_by_and_the_flops_that_are_equal(tmp_path):
    trial = trials.Trial(
        "a", {}, 4, tmp_path, (), ("bits_per_byte", "max_load"), trials.Equality("flops", 1.5e9, 1.5e9)
    )
    file = metrics.MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.write(4, "train", {"loss": 3.0, "tokens_per_second": 100.0, "max_load": 1.25, "bits_per_byte": 5.0})
    file.write(4, "validation", {"loss": 2.0, "bits_per_byte": 4.0, "parameters": 3, "active_parameters": 2})
    file.close()
    row = results.read(trial)
    assert row.columns()["bits_per_byte"] == 4.0
    assert list(row.columns())[-3:] == ["max_load", "flops", "error"]
    assert results.markdown([row]).splitlines()[2].endswith("|     1.25 | 1.500e+09 |       |")


@pytest.mark.slow
def test_a_trials_command_line_alone_gives_the_tables_number_to_the_last_bit(tmp_path, config_file):
    text = toy.write_text(tmp_path / "text.txt", 400)
    settings = [f"--config.data.path={text}", "--config.num_steps=4", "--config.data.sequence_length=32"]

    def run(*command):
        return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    sweep = ["-m", "experiments.sweep", f"--config={config_file}", "--sweep=mine", f"--workdir={tmp_path / 'out'}"]
    run(*sweep, *settings)
    line = shlex.split(run(*sweep, *settings, "--dry_run").splitlines()[1])
    (workdir,) = (Path(word.partition("=")[2]) for word in line if word.startswith("--workdir="))
    run(*(f"--workdir={tmp_path / 'alone'}" if word.startswith("--workdir=") else word for word in line[1:]))

    def numbers(folder):
        of_time = ("per_second", "utilisation", "memory")
        return [
            {name: value for name, value in record.items() if not any(part in name for part in of_time)}
            for record in metrics.read(folder / "metrics.jsonl")
        ]

    assert numbers(workdir) == numbers(tmp_path / "alone")
    assert len(numbers(workdir)) >= 2
