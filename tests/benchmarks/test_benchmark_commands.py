"""The commands that measure answer at once where nothing is to be measured."""

import operator
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults, scaling

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["benchmarks.faults", "benchmarks.run", "benchmarks.scaling"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_needs_no_jax(module, flag):
    program = (
        "import runpy, sys; sys.modules['jax'] = None; sys.argv = sys.argv[1:]; "
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, module, flag], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m {module}" in done.stdout


@pytest.mark.parametrize("axis", scaling.AXES)
def test_every_point_of_a_curve_is_an_experiment(axis):
    from benchmarks.cases import models

    for changes in scaling.AXES[axis].values():
        of = models.experiment(**changes)
        for name, value in changes.items():
            assert operator.attrgetter(name)(of) == value


def test_without_a_peer_the_table_of_faults_stays(monkeypatch, tmp_path):
    table = tmp_path / "faults.md"
    table.write_text("what was measured")
    monkeypatch.setattr(faults, "RESULTS", tmp_path)
    monkeypatch.setattr(faults, "PEERS", ("torchscale-that-nobody-has", "jax"))
    monkeypatch.setattr(sys, "argv", ["faults"])
    with pytest.raises(SystemExit, match="error: not installed: torchscale-that-nobody-has; "):
        faults.main()
    assert table.read_text() == "what was measured"


def test_a_module_that_a_peer_lacks_is_no_verdict_and_leaves_the_table(monkeypatch, tmp_path):
    from benchmarks.laws import kan, retention, ternary
    from benchmarks.laws.verdict import Law, Verdict

    def broken():
        raise ModuleNotFoundError("No module named 'zeta'")

    monkeypatch.setattr(faults, "RESULTS", tmp_path)
    monkeypatch.setattr(faults, "PEERS", ("jax",))
    monkeypatch.setattr(sys, "argv", ["faults"])
    for part in (kan, retention):
        monkeypatch.setattr(part, "LAWS", ())
    monkeypatch.setattr(ternary, "LAWS", (Law("bitnet", "three levels", broken, lambda: Verdict(True, "3 levels")),))
    with pytest.raises(SystemExit, match="error: a peer lacks a module"):
        faults.main()
    assert not list(tmp_path.iterdir())
