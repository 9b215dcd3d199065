"""What README and docs promise: links lead somewhere, commands, flags and fields exist, and code runs."""

import ast
import importlib
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
from collections import Counter
from xml.etree import ElementTree

import pytest
from ml_collections import ConfigDict

from configs import lm

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "FINDINGS.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
OURS = ("benchmarks", "configs", "docs", "examples", "experiments", "mixkabrn_jax", "tests")


def name(path):
    return path.relative_to(ROOT).as_posix()


def prose(path):
    """A document without its blocks of code."""
    return FENCE.sub("", path.read_text())


def blocks(path, *languages):
    return [code for language, code in FENCE.findall(path.read_text()) if language in languages]


def inline(path):
    """What stands between single backticks, with line breaks in it closed."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(path))]


def anchors(path):
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(path):
    """Lists of words, one for each command line that runs a module of ours."""
    code = [*blocks(path, "", "bash"), *inline(path)]
    lines = "\n".join(code).replace("\\\n", " ").splitlines()
    split = [
        shlex.split(line.replace("...", ""), comments=True) for line in lines if "python" in line and " -m " in line
    ]
    words = [line[line.index("-m") + 1 :] for line in split if "-m" in line]
    return [line for line in words if line[0].split(".")[0] in OURS]


def flags_of(module, seen=()):
    """Names of the flags that a module defines, or one of ours that it imports."""
    tree = ast.parse(source_of(module).read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            is_flag = node.func.attr.startswith("DEFINE_") or node.func.attr == "add_argument"
            if is_flag and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value.lstrip("-"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("benchmarks", "experiments"):
            for imported in (f"{node.module}.{alias.name}" for alias in node.names):
                if source_of(imported).is_file() and imported not in seen:
                    found |= flags_of(imported, (*seen, imported))
    return found


def source_of(module):
    return ROOT / (module.replace(".", "/") + ".py")


def fields():
    """Every field and section of configs/lm.py by its dotted name."""

    def walk(config, prefix):
        for key, value in config.items():
            yield f"{prefix}{key}", value
            if isinstance(value, ConfigDict):
                yield from walk(value, f"{prefix}{key}.")

    return dict(walk(lm.get_config(), ""))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_to_files_and_headings_that_are_there(path):
    text = prose(path)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{name(path)}: there is no {link}"
        assert not anchor or anchor in anchors(target), f"{name(path)}: {name(target)} has no heading for #{anchor}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_run_modules_that_are_there_with_flags_and_fields_that_they_have(path):
    known = fields()
    for module, *arguments in commands(path):
        assert source_of(module).is_file(), f"{name(path)}: there is no module {module}"
        flags = flags_of(module)
        for argument in arguments:
            if not argument.startswith("--"):
                continue
            flag, _, value = argument.removeprefix("--").partition("=")
            if flag.startswith("config."):
                field = flag.removeprefix("config.")
                assert field in known, f"{name(path)}: configs/lm.py declares no {field}"
                if isinstance(known[field], (bool, int, float)):
                    assert isinstance(ast.literal_eval(value), type(known[field])), argument
                continue
            assert flag in flags, f"{name(path)}: {module} has no flag --{flag}, but {sorted(flags)}"
            if flag == "config" and value != "C":
                file, _, size = value.partition(":")
                assert runpy.run_path(ROOT / file)["get_config"](*([size] if size else [])), value


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_fields_files_and_targets_that_are_named_are_there(path):
    known = fields()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in inline(path):
        for field in re.findall(r"(?<![\w/])config\.([a-z]\w*(?:\.\w+)*)", code):
            assert field in known or field == "json", f"{name(path)}: configs/lm.py declares no {field}"
        if re.fullmatch(rf"({'|'.join(OURS)})/[\w./-]*", code):
            file, _, _ = code.partition(":")
            assert (ROOT / file).exists(), f"{name(path)}: there is no {file}"
        if target := re.fullmatch(r"make (?:\w+=\S+ )?([\w-]+)", code):
            assert target[1] in targets, f"{name(path)}: the Makefile has no {target[1]}"


def test_the_readme_is_of_one_length_and_in_one_order():
    words = len(prose(README).split())
    assert 900 <= words <= 1200, f"{words} words besides code"
    headings = re.findall(r"^#+ (.*)$", prose(README), re.MULTILINE)
    assert headings == [
        "MixKABRN",
        "Two commands",
        "Results",
        "Everyday use",
        "Map",
        "The shape is in the name",
        "Why to trust it",
        "More",
    ]


@pytest.mark.parametrize("path", [README, ROOT / "docs" / "layers.md", ROOT / "docs" / "models.md"], ids=name)
def test_code_imports_what_is_there(path):
    for node in ast.walk(ast.parse("\n".join(blocks(path, "python")))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


def test_the_notebook_of_the_readme_has_twelve_lines():
    (code,) = blocks(README, "python")
    assert len(code.splitlines()) <= 12


@pytest.mark.slow
def test_the_page_of_single_layers_runs_and_its_kan_layer_learns():
    space = {}
    for code in blocks(ROOT / "docs" / "layers.md", "python"):
        exec(compile(code, "docs/layers.md", "exec"), space)
    assert space["value"] < 0.5 * space["y_R1"].var()


def test_the_picture_is_what_its_script_draws(tmp_path):
    script = ROOT / "docs" / "figures" / "block.py"
    # Fonts are found anew: the user's list of them outlives the environment that wrote it, and may lack some.
    subprocess.run(
        [sys.executable, script, f"--out={tmp_path / 'block.svg'}"],
        env={**os.environ, "MPLCONFIGDIR": str(tmp_path)},
        check=True,
    )
    drawn, kept = (
        Counter(element.tag for element in ElementTree.parse(path).iter())
        for path in (tmp_path / "block.svg", script.with_suffix(".svg"))
    )
    assert drawn == kept, f"draw it again: {sys.executable} {name(script)}"
