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
}
FILES = sorted(path for folder in ("mixkabrn_jax", "experiments", "configs") for path in (ROOT / folder).rglob("*.py"))


def names(tree):
    """(name, line) of everything that a file defines, takes or calls."""
    for node in ast.walk(tree):
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
