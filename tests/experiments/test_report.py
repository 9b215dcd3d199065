"""A report says what its runs' folders say, whatever their order, and loses none of them silently."""

import csv
import html.parser
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.reporting import configurations, output, run_folders, tables
from experiments.reporting.statistics import Estimate
from mixkabrn_jax import runs
from mixkabrn_jax.models.language import count_parameters
from mixkabrn_jax.runs import metrics
from mixkabrn_jax.training import loop, utilisation
from tests import toy
from tests.experiments.run_folders import DATA, write

ROOT = Path(__file__).parents[2]
PLAIN = {"model__mixer": "attention", "model__ffn": "mlp", "model__linear": "dense", "model__num_experts": 0}
IDEAS = {"model__mixer": "retention", "model__ffn": "kan", "model__linear": "ternary", "model__num_experts": 4}
WIDTHS = {"model__mixer": {"attention": {"model__key_width": 10}}, "model__ffn": {"mlp": {"model__hidden_width": 84}}}


def settings(*changed, ideas=IDEAS):
    """The settings with some switches off, and the widths that make up for them."""
    values = ideas | {field: PLAIN[field] for field in changed}
    for field, value in list(values.items()):
        values |= WIDTHS.get(field, {}).get(value, {})
    return values


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """The full model, and each idea off in turn, three seeds each; one run is unfinished, one cannot be read."""
    folder, rng = tmp_path_factory.mktemp("sweep"), np.random.default_rng(0)
    for name, changed in {"full": [], **{field.partition("__")[2]: [field] for field in PLAIN}}.items():
        for seed in range(3):
            bits = 1.4 + 0.1 * (name == "mixer") + rng.normal(0, 0.002)
            write(folder / f"{name}-{seed}", bits, seed=seed, sizes=(len(name), 5, 7), **settings(*changed))
    write(folder / "late", 1.0, seed=3, stop_at=6, **settings())
    write(folder / "torn", 1.0, seed=4, **settings())
    (folder / "torn" / "config.json").write_text("{")
    (folder / "failed").mkdir()
    (folder / "failed" / "log.txt").write_text("error\n")
    return folder


def report(out, *folders, baseline=""):
    """Writes a report; its files by name."""
    output.write(out, [str(folder) for folder in folders], baseline)
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")}


@pytest.fixture(scope="module")
def files(ablation, tmp_path_factory):
    """The report on the ablation."""
    return report(tmp_path_factory.mktemp("report"), ablation)


def rows(files, name):
    return list(csv.DictReader(files[f"tables/{name}.csv"].decode().splitlines()))


def test_a_configuration_is_runs_that_differ_by_their_seed_alone(ablation, files):
    found = {row["configuration"]: row for row in rows(files, "configurations")}
    # A width that makes up for a switch is in no name.
    assert set(found) == {"base", "mixer=attention", "ffn=mlp", "linear=dense", "num_experts=0"}
    assert {row["seeds"] for row in found.values()} == {"3"}
    bits = [json.loads((ablation / f"mixer-{seed}/metrics.jsonl").read_text().splitlines()[-1]) for seed in range(3)]
    bits = np.array([record["bits_per_byte"] for record in bits])
    row = found["mixer=attention"]
    half = 4.3027 * bits.std(ddof=1) / np.sqrt(3)  # Student's table, two degrees of freedom
    assert float(row["bits per byte"]) == pytest.approx(bits.mean(), abs=1e-12)
    assert float(row["bits per byte high"]) - float(row["bits per byte low"]) == pytest.approx(2 * half, rel=1e-4)
    assert float(row["nats per token"]) == pytest.approx(2 * bits.mean(), abs=1e-12)
    # 12 steps of 8 windows of 16; records of 2 steps at 100, 200, ... 600 tokens a second; 6,000 flops a token.
    assert float(row["training tokens"]) == 12 * 8 * 16
    assert float(row["training flops"]) == 6000 * 12 * 8 * 16
    assert float(row["training seconds"]) == pytest.approx(sum(2 * 8 * 16 / (100 * i) for i in range(1, 7)))
    assert float(row["tokens per second"]) == 350


def test_a_configuration_is_called_by_its_change_and_by_widths_where_there_is_no_other(tmp_path):
    write(tmp_path / "base", 1.5, model__expert_width=12)
    write(tmp_path / "grid", 1.4, model__expert_width=9, model__kan__grid__num_intervals=5)
    write(tmp_path / "degree", 1.6, model__expert_width=14, model__kan__grid__degree=2)
    found = configurations.arrange(run_folders.find([str(tmp_path)])[0])
    assert [one.name for one in found.configurations] == ["num_intervals=5", "base", "degree=2"]
    write(tmp_path / "sizes" / "one", 1.5, model__d_model=16, model__embedding_scale=4.0)
    write(tmp_path / "sizes" / "two", 1.4, model__d_model=32, model__embedding_scale=5.7)
    found = configurations.arrange(run_folders.find([str(tmp_path / "sizes")])[0])
    assert found.essential == ["model.d_model"]


def test_differences_are_of_runs_with_one_seed_and_only_the_true_one_is_found(ablation, files, tmp_path):
    found = {row["configuration"]: row for row in rows(files, "differences")}
    assert "base" not in found  # there is no plain counterpart
    assert {name for name, row in found.items() if float(row["Holm, bits per byte"]) < 0.05} == {"mixer=attention"}
    assert 0.09 < float(found["mixer=attention"]["bits per byte"]) < 0.11
    other = report(tmp_path, *ablation.glob("*-*"), baseline="model.mixer=attention")
    found = {row["configuration"]: row for row in rows(other, "differences")}
    assert "mixer=attention" not in found
    assert -0.11 < float(found["base"]["bits per byte"]) < -0.09


def test_every_run_that_does_not_count_is_named_with_the_reason(ablation, entry, capsys, tmp_path):
    shutil.copytree(ablation, tmp_path / "runs")
    shutil.copytree(ablation / "full-0", tmp_path / "runs" / "full-0-again")
    assert entry("report").run(f"--workdir={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}") == 0
    files = {f"tables/{path.name}": path.read_bytes() for path in (tmp_path / "out" / "tables").iterdir()}
    printed, page = capsys.readouterr().err, (tmp_path / "out" / "report.html").read_text()
    statuses = {Path(row["run"]).name: row["status"] for row in rows(files, "runs")}
    assert len(statuses) == 15 + 4
    assert statuses["late"] == "unfinished: step 6 of 12"
    assert statuses["torn"].startswith("config.json is not JSON")
    assert "holds no config.json" in statuses["failed"]
    assert statuses["full-0-again"] == f"the configuration and seed of {tmp_path / 'runs' / 'full-0'}"
    for name in ("late", "torn", "failed", "full-0-again"):
        assert f"{name}: " in printed
        assert f"{name} (" in page


def test_the_order_of_folders_does_not_matter_and_a_second_report_is_the_same(ablation, tmp_path):
    folders = [ablation / name for name in ("full-0", "full-1", "mixer-1", "mixer-0", "ffn-0")]
    first = report(tmp_path, *folders)
    second = report(tmp_path, *reversed(folders), folders[0])
    assert first == second
    assert {Path(name).suffix for name in first} == {".html", ".csv", ".md", ".png", ".jsonl"}


@pytest.fixture(scope="module")
def factorial(tmp_path_factory):
    """All sixteen combinations, two seeds each: retention is 0.02 better, and with experts 0.02 more."""
    folder = tmp_path_factory.mktemp("factorial")
    for number, is_off in enumerate(itertools.product((False, True), repeat=4)):
        changed = [field for field, off in zip(PLAIN, is_off, strict=True) if off]
        bits = 1.5 - 0.02 * (not is_off[0]) - 0.02 * (not is_off[0] and not is_off[3])
        for seed in range(2):
            write(folder / f"{number}-{seed}", bits + 0.001 * seed, seed=seed, **settings(*changed))
    return folder


def test_effects_of_a_complete_factorial_are_what_was_put_in(factorial, tmp_path):
    files = report(tmp_path, factorial)
    found = {row["effect"]: float(row["bits per byte"]) for row in rows(files, "effects")}
    assert len(found) == 15
    true = {"mixer: retention for attention": -0.03, "num_experts: 4 for 0": -0.01, "mixer x num_experts": -0.01}
    for name, effect in found.items():
        assert effect == pytest.approx(true.get(name, 0.0), abs=1e-12), name
    assert "figures/effects.png" in files
    # The plain counterpart is what the others are compared with.
    assert len(rows(files, "differences")) == 15
    assert "Differences from mixer=attention,ffn=mlp,linear=dense,num_experts=0" in files["report.html"].decode()


def test_what_a_partial_factorial_lacks_is_said(factorial, tmp_path):
    shutil.copytree(factorial, tmp_path / "runs")
    for seed in range(2):
        shutil.rmtree(tmp_path / "runs" / f"5-{seed}")
    files = report(tmp_path / "out", tmp_path / "runs")
    assert "15 of the 16 combinations of 4 switches are there" in files["report.html"].decode()
    assert "tables/effects.csv" not in files


def test_sizes_of_one_family_are_fitted(tmp_path):
    for width in (16, 32, 64, 128):
        for mixer in ("retention", "attention"):
            bits = 1.0 + 2.0 * (width * 1000) ** -0.3 + (mixer == "attention")
            path = tmp_path / "runs" / f"{mixer}{width}"
            write(path, bits, sizes=(9, width * 1000, 9), model__d_model=width, model__mixer=mixer)
    files = report(tmp_path / "out", tmp_path / "runs")
    laws = {row["family"]: row for row in rows(files, "scaling")}
    assert set(laws) == {"mixer=attention", "mixer=retention"}
    assert float(laws["mixer=retention"]["c"]) == pytest.approx(0.3, rel=0.0076)  # of exponents 1.5% apart
    assert "figures/scaling.png" in files


def test_one_run_makes_a_report(ablation, tmp_path):
    files = report(tmp_path, ablation / "full-0")
    (row,) = rows(files, "configurations")
    assert row["bits per byte low"] == row["bits per byte high"] == ""
    assert {Path(name).stem for name in files} == {"report", "configurations", "learning_curves", "runs"}


def test_a_real_run_is_read_and_its_flops_are_those_of_its_model(tmp_path):
    config = toy.experiment(toy.write_text(tmp_path / "text.txt"), model__ffn="mlp", model__num_experts=0, num_steps=4)
    assert loop.train(loop.prepare(config, tmp_path / "run")) == 0
    (row,) = rows(report(tmp_path / "out", tmp_path / "run"), "configurations")
    intervals = {f"{metric} {end}" for metric in ("bits per byte", "nats per token") for end in ("low", "high")}
    assert {name for name, cell in row.items() if not cell} == intervals
    assert float(row["training tokens"]) == 4 * 8 * 16
    records = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert float(row["bits per byte"]) == records[-1]["bits_per_byte"]
    model, _, _ = runs.open(tmp_path / "run")
    flops = utilisation.model_flops_per_token(model, count_parameters(model), 16)
    assert float(row["training flops"]) == flops * 4 * 8 * 16


class Page(html.parser.HTMLParser):
    """What a page loads, and how its tags nest."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.tags, self._open = [], set(), []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "wbr"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_the_page_holds_all_of_it_and_needs_no_script(ablation, files):
    text = files["report.html"].decode()
    page = Page(text)
    assert all(link.startswith("data:image/png;base64,") for link in page.loads)
    assert len(page.loads) == sum(name.startswith("figures/") for name in files) > 3
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import", text)
    assert f"python -m experiments.report --workdir={ablation} --out=" in text


def wrong(folder, ablation, kind):
    """Arguments that cannot be answered, and the sentence that says why."""
    if kind == "missing":
        return ["--workdir=nowhere"], "--workdir=nowhere: there is no such folder; a run's, or a sweep's, is needed"
    if kind == "empty":
        folder.mkdir()
        return [f"--workdir={folder}"], f"--workdir={folder} is no run and holds none: one with a config.json is needed"
    if kind == "unfinished":
        late = ablation / "late"
        return [f"--workdir={late}"], f"none of these runs is finished: {late} (unfinished: step 6 of 12)"
    if kind == "data":
        other = write(folder, 1.0, data=DATA | {"validation": "100 targets, SHA-256 cc33"})
        sentence = (
            f"{other} is validated on 100 targets, SHA-256 cc33, {ablation / 'full-0'} on 100 targets, SHA-256 bb22"
        )
        sentence += ", so their losses do not compare: report on them apart"
        return [f"--workdir={ablation / 'full-0'}", f"--workdir={other}"], sentence
    if kind == "tokenizer":
        other = write(folder, 1.0, tokenizer="bpe")
        sentence = f"{other} has another tokenizer than {ablation / 'full-0'}, so their losses do not compare: "
        return [f"--workdir={ablation / 'full-0'}", f"--workdir={other}"], sentence + "report on them apart"
    if kind == "baseline":
        sentence = "--baseline=ffn=swiglu fits none of base, mixer=attention"
        folders = [f"--workdir={ablation / name}" for name in ("full-0", "mixer-0")]
        return [*folders, "--baseline=ffn=swiglu"], sentence
    sentence = "--baseline=rate=1: 'rate=1' is not field=value of a field in which these configurations differ: "
    sentence += "model.mixer, model.ffn, model.linear, model.num_experts"
    return [f"--workdir={ablation / 'full-0'}", "--baseline=rate=1"], sentence


@pytest.mark.parametrize("kind", ["missing", "empty", "unfinished", "data", "tokenizer", "baseline", "field"])
def test_what_cannot_be_reported_on_is_said_in_one_line(kind, ablation, entry, tmp_path):
    arguments, sentence = wrong(tmp_path / "zzz", ablation, kind)
    with pytest.raises(SystemExit) as ended:
        entry("report").run(*arguments, f"--out={tmp_path / 'out'}")
    assert ended.value.code == f"error: {sentence}"
    assert not (tmp_path / "out").exists()


def test_a_baseline_has_to_be_one_configuration(factorial):
    design = configurations.arrange(run_folders.find([str(factorial)])[0])
    with pytest.raises(ValueError, match=r"--baseline=ffn=mlp,linear=dense,num_experts=4 fits 2 configurations"):
        configurations.baseline(design, "ffn=mlp,linear=dense,num_experts=4")
    assert configurations.baseline(design, "base") is design.base
    assert configurations.baseline(design, "ffn=mlp").name == "ffn=mlp"  # a name goes before fields


def test_several_folders_may_follow_one_flag(ablation, tmp_path):
    folders = [str(ablation / name) for name in ("full-0", "mixer-0", "ffn-0")]
    command = [sys.executable, "-m", "experiments.report", f"--workdir={folders[0]}", *folders[1:]]
    done = subprocess.run([*command, f"--out={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(tmp_path / "report.html")
    assert len(done.stdout.splitlines()) == 2 + 3 + 1


def test_cells_are_read_by_people_and_by_programs():
    columns = [tables.Column("a|b"), tables.Column("loss", "+.2f", has_interval=True), tables.Column("n", ",d")]
    rows = [
        ["<x>", Estimate(1.0, 0.5, 1.5, 0.1, 3), 1234],
        [None, None, None],
        ["y", Estimate(1.0, 0.5, 3.0, None, 3), 1],
    ]
    table = tables.Table("t", columns, rows)
    assert tables.to_csv(table) == "a|b,loss,loss low,loss high,n\n<x>,1.0,0.5,1.5,1234\n,,,,\ny,1.0,0.5,3.0,1\n"
    assert tables.to_markdown(table).splitlines()[2] == "| \\<x> |           +1.00 ± 0.50 | 1,234 |"
    narrow = tables.to_markdown(tables.Table("t", [tables.Column("p", ".2g"), tables.Column("q")], [[None, "1"]]))
    assert narrow.splitlines()[1] == "| --: | --- |"
    assert '<td>&lt;x&gt;</td><td class="number">+1.00 ± 0.50</td>' in tables.to_html(table)
    assert "+1.00 (+0.50 to +3.00)" in tables.to_html(table)
