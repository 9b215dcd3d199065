"""The letters at the end of arrays' names are those of README's legend, one meaning each."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / "mixkabrn_jax").rglob("*.py"))
EINSUMS = {"einsum", "_dot"}


def legend():
    """(letter, meaning) of every entry of README's list."""
    section = (ROOT / "README.md").read_text().split("### The shape is in the name", 1)[1].split("\n#", 1)[0]
    lines = next(paragraph for paragraph in section.split("\n\n") if " · " in paragraph)
    entries = " ".join(lines.split()).split(" · ")
    matches = [re.fullmatch(r"`([A-Z])`(?: and `([A-Z])`)? (.+)", entry) for entry in entries]
    assert all(matches), [entry for entry, match in zip(entries, matches, strict=True) if not match]
    return [(letter, match[3]) for match in matches for letter in match.groups()[:2] if letter]


def letters_of(name):
    """Those of `x_BTD` and `keys_E11`, none of a constant such as `ROWS_MAX`."""
    start, _, suffix = name.rpartition("_")
    is_suffix = re.fullmatch(r"[A-Z0-9]*[A-Z][A-Z0-9]*", suffix) and re.search("[a-z]", start)
    return re.findall("[A-Z]", suffix) if is_suffix else []


def names(node):
    """Whatever a node of the syntax tree names: variables, attributes, arguments, fields, keywords of a call."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, (ast.arg, ast.keyword)) and node.arg:
        yield node.arg


def letters(node):
    for name in names(node):
        yield from letters_of(name)
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in EINSUMS:
        subscripts = node.args[0] if node.args else None
        if isinstance(subscripts, ast.Constant) and isinstance(subscripts.value, str):
            yield from re.findall("[A-Z]", subscripts.value.upper())


def used():
    """Each letter and one place where it is used."""
    places = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            for letter in letters(node):
                places.setdefault(letter, f"{path.relative_to(ROOT).as_posix()}:{node.lineno}")
    return places


def test_every_letter_has_one_entry_and_every_entry_is_used():
    known = [letter for letter, _ in legend()]
    assert len(set(known)) == len(known), f"twice in the legend: {sorted({x for x in known if known.count(x) > 1})}"
    unknown = {letter: place for letter, place in used().items() if letter not in known}
    assert not unknown, f"not in README's legend: {unknown}"
    unused = set(known) - set(used())
    assert not unused, f"in README's legend and nowhere else: {sorted(unused)}"


@pytest.mark.parametrize(
    ("code", "want"),
    [
        ("x_BTD = 1", "BTD"),
        ("self.bias_E", "E"),
        ("def f(rows_R1, *, _x_CD): pass", "RCD"),
        ("f(mask_BT=1)", "BT"),
        ("jnp.einsum('td,de->te', a, b)", "DETTE"),
        ("BLOCK_BYTES = _GATE_TEMPERATURE = x_", ""),
        ("init_state(x_2, to_int8)", ""),
    ],
)
def test_letters_are_read_from_names_and_einsums(code, want):
    found = [letter for node in ast.walk(ast.parse(code)) for letter in letters(node)]
    assert set(found) == set(want)
