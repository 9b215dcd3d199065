"""One word for one thing, and the field's: names that once stood for something that the field has a term for."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TERMS = {
    "scatter_sum": "reduce_scatter",
    "to_owners": "all_to_all",
    "from_owners": "all_to_all_back",
    "at_rest": "fully_sharded",
    "total_gradient": "psum_gradient",
    "gathered": "unsharded",
    "Together": "ErrorConsensus",
    "Largest": "AllReduceMax",
    "from_first": "broadcast_from_first",
    "leave": "shutdown",
    "claim": "create",
    "mark": "token",
    "update_rule": "optimizer",
    "rule": "optimizer",
    "Sums": "Totals",
    "Outside": "OutsideGrid",
    "quant_norm": "normalize_input",
    "kernels": "backend",
    "copied": "replicated",
    "first_exponent": "first_decay_exponent",
    "normalizes_input": "normalize_input",
    "grid_change": "compute_grid_update",
    "grid_changes": "compute_grid_update",
    "change_grid": "apply_grid_update",
    "change_grids": "apply_grid_update",
    "GridChange": "GridUpdate",
}
FOLDERS = ("mixkabrn_jax", "experiments", "configs", "examples", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def names(tree):
    """(name, line) of everything that a file defines, takes or calls, but for pytest's own `pytest.mark`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "pytest.mark":
            continue
        for field in ("id", "arg", "name", "attr"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value, getattr(node, "lineno", 0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_are_the_terms_of_the_field(path):
    found = {
        f"line {line}: {name}, which is {TERMS[name.strip('_')]}"
        for name, line in names(ast.parse(path.read_text()))
        if name.strip("_") in TERMS
    }
    assert not found, sorted(found)


@pytest.mark.parametrize("code", ["gathered = 1", "def f(rule): pass", "x.at_rest", "f(kernels=1)", "token.mark"])
def test_a_name_of_before_is_found_wherever_it_stands(code):
    assert any(name in TERMS for name, _ in names(ast.parse(code)))


def test_marks_of_pytest_are_no_names_of_ours():
    assert "mark" not in {name for name, _ in names(ast.parse("@pytest.mark.slow\ndef test(): pass"))}
