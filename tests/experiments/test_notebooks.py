"""The notebooks: kept without outputs, and every cell of them runs, in tiny sizes."""

import ast
import json
import pathlib
import re
import sys

import matplotlib
import pytest
from matplotlib import pyplot

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def name(path):
    return path.stem


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_is_kept_without_outputs_and_its_cells_have_names(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert re.fullmatch("[a-z-]+", cell["id"]), f"{cell['id']}: a name in words is needed"
        assert not cell["metadata"], f"{cell['id']}: metadata"
        assert len(cell["source"]) <= 40, f"{cell['id']}: what is long belongs into mixkabrn_jax/interpret/"
    for cell in code_cells(path):
        assert not cell["outputs"], f"{cell['id']}: outputs; clear them before you commit"
        assert cell["execution_count"] is None, f"{cell['id']}: an execution count"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_links_of_a_notebook_lead_to_files(path):
    cells = json.loads(path.read_text())["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        assert (FOLDER / link).exists(), link


def run(path, monkeypatch):
    """Runs a notebook's cells one after another, as Jupyter does: they draw something, and all of it fits."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("QUICK", "1")
    pyplot.switch_backend("Agg")
    space = {}
    with matplotlib.rc_context():
        for cell in code_cells(path):
            exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), space)
        assert pyplot.get_fignums()
        for number in pyplot.get_fignums():
            pyplot.figure(number).canvas.draw()  # a legend that does not fit is found here
        pyplot.close("all")


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem.startswith("1")], ids=name)
def test_it_runs_to_its_end(path, monkeypatch):
    run(path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if not path.stem.startswith("1")], ids=name)
def test_the_others_run_to_their_ends(path, monkeypatch):
    run(path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_it_runs_in_jupyter(path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("QUICK", "1")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": FOLDER}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)


def test_a_function_that_no_notebook_uses_is_not_kept():
    used = "".join(path.read_text() for path in NOTEBOOKS)
    for path in sorted((ROOT / "mixkabrn_jax" / "interpret").glob("*.py")):
        own = path.read_text()
        for node in ast.parse(own).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert f"{path.stem}.{node.name}(" in used or own.count(f"{node.name}(") > 1, node.name
