"""A text says what the runs found, and a file of runs keeps all that a report needs of them."""

import csv
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.reporting import document, output, run_file, run_folders, statistics
from tests.experiments.run_folders import write

ROOT = Path(__file__).parents[2]
FINDINGS = ROOT / "FINDINGS.md"
RESULTS = ROOT / "experiments" / "results"


@pytest.fixture(scope="module")
def factorial(tmp_path_factory):
    """Retention and KAN on and off with two seeds each, in folders and in a file."""
    folder, rng = tmp_path_factory.mktemp("factorial"), np.random.default_rng(0)
    for (mixer, ffn), seed in itertools.product(itertools.product((0, 1), repeat=2), (0, 1)):
        bits = 1.5 - 0.1 * mixer + 0.02 * ffn + rng.normal(0, 0.001)
        changes = {"model__mixer": ("attention", "retention")[mixer], "model__ffn": ("mlp", "kan")[ffn]}
        write(folder / "runs" / f"{mixer}{ffn}-{seed}", bits, seed=seed, **changes)
    output.write(folder / "report", [str(folder / "runs")])
    (folder / "report" / "runs.jsonl").rename(folder / "found.jsonl")
    return folder


def test_a_file_of_runs_gives_the_report_that_their_folders_give(factorial, tmp_path):
    output.write(tmp_path, [str(factorial / "found.jsonl")])
    for path in (factorial / "report" / "tables").iterdir():
        if path.stem != "runs":  # which has paths
            assert (tmp_path / "tables" / path.name).read_bytes() == path.read_bytes()
    one, other = (run_folders.find([str(factorial / name)])[0] for name in ("runs", "found.jsonl"))
    assert [run.records for run in one] == [run.records for run in other]
    assert [run.config for run in one] == [run.config for run in other]
    assert [Path(run.path).parts[-2:] for run in one] == [Path(run.path).parts[-2:] for run in other]
    run_file.write(tmp_path / "again.jsonl", other)
    assert (tmp_path / "again.jsonl").read_bytes() == (factorial / "found.jsonl").read_bytes()


@pytest.mark.parametrize("text", ["", "{}\n{}\n", "not JSON\n", '{"path": "a"}\n3\n'])
def test_what_is_no_file_of_runs_is_named(tmp_path, text):
    (tmp_path / "wrong.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"--workdir=\S*wrong.jsonl is no file of runs, as a report's runs.jsonl is"):
        run_folders.find([str(tmp_path / "wrong.jsonl")])


def test_tables_of_a_text_are_those_of_the_report(factorial):
    text = "Before.\n\n<!-- effects of found | effect, bits per byte -->\n\n| old |\n| --- |\n\nAfter.\n"
    filled = document.fill(text, factorial)
    assert document.fill(filled, factorial) == filled
    head, _, *lines = filled.split("-->\n\n")[1].split("\n\n")[0].splitlines()
    assert filled.startswith(text.split("| old")[0])
    assert filled.endswith("|\n\nAfter.\n")
    assert document.fill(text.replace("| old |\n| --- |\n\n", ""), factorial) == filled
    assert [cell.strip() for cell in head.split("|")[1:-1]] == ["effect", "bits per byte"]
    with (factorial / "report" / "tables" / "effects.csv").open() as file:
        rows = list(csv.DictReader(file))
    for line, row in zip(lines, rows, strict=True):
        name, value = (cell.strip() for cell in line.split("|")[1:-1])
        assert name == row["effect"]
        assert float(value.split()[0]) == pytest.approx(float(row["bits per byte"]), abs=5e-5)


def test_files_side_by_side_and_how_they_rank(factorial, tmp_path):
    runs = run_folders.find([str(factorial / "found.jsonl")])[0]
    for name, kept in (("all", runs), ("one", [run for run in runs if run.seed == 0])):
        run_file.write(tmp_path / f"{name}.jsonl", kept)
    both = document.fill("<!-- effects of all one | effect, bits per byte -->\n", tmp_path)
    assert re.search(r"\| effect +\| +all \| +one \|", both)
    assert re.search(r"\| mixer: retention for attention \| -0\.\d+ ± 0\.0\d+ \| -0\.\d+ \|", both)
    ranks = document.fill("<!-- ranks of all one -->\n", tmp_path)
    assert re.search(r"\| rank correlation with all +\| +1.0000 \| +1.0000 \|\n$", ranks)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("<!-- effects of nothing -->", r"there is no \S*nothing.jsonl: a report leaves it as runs.jsonl"),
        ("<!-- effect of found -->", r"the report on found.jsonl has no 'effect': there are configurations, "),
        ("<!-- effects of found | bits -->", r"the table effects has no 'bits': there are effect, bits per byte, "),
        ("![](figures/found-none.png)", r"the report on found.jsonl has no 'none.png': there are configurations.png, "),
    ],
)
def test_what_is_not_there_is_named(factorial, line, error):
    with pytest.raises(ValueError, match=error):
        document.pictures(document.fill(f"{line}\n", factorial), factorial)


def test_a_figure_is_that_of_the_report(factorial, tmp_path):
    found = document.pictures("![words](figures/found-effects.png) and ![others](logo.png)", factorial)
    assert list(found) == ["figures/found-effects.png"]
    found["figures/found-effects.png"].draw(tmp_path / "effects.png")
    drawn = factorial / "report" / "figures" / "effects.png"
    assert (tmp_path / "effects.png").read_bytes() == drawn.read_bytes()


def test_ranks_correlate_as_spearman_has_it():
    assert statistics.spearman([1, 2, 3], [10, 20, 40]) == pytest.approx(1)
    assert statistics.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) without ties.
    x, y = [3, 1, 4, 2, 5], [1, 3, 4, 2, 5]
    assert statistics.spearman(x, y) == pytest.approx(1 - 6 * (4 + 4) / (5 * 24))
    # By hand of the ranks 1.5, 1.5, 3, 4.
    assert statistics.spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9**0.5)


@pytest.mark.parametrize("page", [FINDINGS, ROOT / "docs" / "recipe.md"], ids=lambda page: page.name)
def test_tables_are_what_the_kept_runs_say(page):
    text = page.read_text()
    assert document.fill(text, RESULTS) == text
    for path in document.pictures(text, RESULTS):
        assert (page.parent / path).exists()


def test_each_figure_in_the_words_of_the_findings_stands_in_their_tables():
    """A number with decimals is one of a table, rounded; other places say where theirs come from."""
    text = FINDINGS.read_text()
    lines = text.splitlines()
    there = [abs(float(number)) for line in lines if line.startswith("|") for number in re.findall(r"\d+\.\d+", line)]
    words = " ".join(line for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines() if line[:1] != "|")
    for number in re.findall(r"(?<![\w.-])\d+\.\d+(?![\w.]*\w)", words):
        digits = len(number.partition(".")[2])
        assert any(round(value, digits) == float(number) for value in there), number
