"""Adapters of a language, on command lines, in the program in C and behind a server."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from mixkabrn_run import __main__ as commands
from mixkabrn_run.language import load
from mixkabrn_run.sampling import Sampling
from tests.run.compiler import needs_compiler
from tests.run.test_adapters import random_adapter
from tests.run.test_commands import run
from tests.run.test_completions import toy_file


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Of a model, and of two adapters beside it."""
    path = toy_file(tmp_path_factory.mktemp("run"))
    found = [path, path.with_name("plays.safetensors"), path.with_name("letters.safetensors")]
    for seed, adapter in enumerate(found[1:]):
        adapter.write_bytes(random_adapter(path.read_bytes(), seed))
    return found


def text_of(language):
    return "".join(language.complete("The toe", max_tokens=30, sampling=Sampling(0)))


@needs_compiler
def test_a_language_takes_on_adapters_and_stays_as_it_is(paths):
    base = load(paths[0])
    plays, letters = map(base.adapter, paths[1:])
    taught = base.adapted([(plays, 1.0)])
    assert len({text_of(base), text_of(taught), text_of(taught.adapted([(letters, 0.5)]))}) == 3
    assert text_of(taught.adapted([])) == text_of(base)
    session = base.session()
    base.read(base.tokenizer.encode("The"), session)
    moved = taught.restore(base.save(session))  # what was read stays; what comes is read with the adapter
    assert np.abs(taught.read([0], moved) - base.read([0], session)).max() > 1e-3
    for weight in (float("nan"), float("inf"), 1e39):
        with pytest.raises(ValueError, match=re.escape(f"weight={weight}: a number of float32 is needed")):
            base.adapted([(plays, weight)])
    with pytest.raises(ValueError, match=r"an adapter is for the model of SHA-256 \w{12}\.\.\., not \w{12}\.\.\."):
        base.adapted([(plays._replace(base="0" * 64), 1.0)])
    with pytest.raises(ValueError, match=r"toy\.safetensors: its format is 'mixkabrn-1'"):
        base.adapter(paths[0])


@needs_compiler
def test_all_commands_take_weighted_adapters_and_the_program_in_c_writes_the_same(paths, program, tmp_path):
    model, plays, letters = paths
    base = load(model)
    language = base.adapted([(base.adapter(plays), 1.0), (base.adapter(letters), -0.5)])
    options, drawing = [f"--adapter={plays}", f"--adapter={letters}:-0.5"], ["--max_tokens=30", "--temperature=0"]
    want = text_of(language)
    assert want != text_of(base)
    for backend in ("c", "numpy"):
        assert (
            run("complete", model, "--prompt=The toe", f"--backend={backend}", *options, *drawing).stdout == want + "\n"
        )
    in_c = subprocess.run(
        [program, options[0], model, "The toe", "30", options[1], "0"], capture_output=True, timeout=60
    )
    assert in_c.stdout.decode() == want + "\n"
    assert run("chat", model, *options, *drawing, input="The toe\n").stdout == f"> {want}\n> "
    (tmp_path / "text").write_text("The toe")
    scored = json.loads(run("score", model, tmp_path / "text", *options).stdout)
    assert scored["bits_per_byte"] == language.score(b"The toe")["bits_per_byte"]


def test_a_server_has_the_sum_each_adapter_and_the_model_by_names(paths, monkeypatch):
    model, plays, letters = paths
    http, served = pytest.importorskip("mixkabrn_run.serve"), {}
    monkeypatch.setattr(http, "run", lambda languages, **_: served.update(languages))
    arguments = ["serve", model, "--backend=numpy", f"--adapter={plays}", f"--adapter={letters}:0.5"]
    monkeypatch.setattr(sys, "argv", ["mixkabrn_run", *map(str, arguments)])
    assert commands.main() == 0
    assert list(served) == ["plays+letters", "toy", "plays", "letters"]
    base = load(model, "numpy")
    pairs = [(base.adapter(plays), 1.0), (base.adapter(letters), 0.5)]
    for name, found in zip(served, (pairs, [], pairs[:1], pairs[1:]), strict=True):
        assert text_of(served[name]) == text_of(base.adapted(found))
    monkeypatch.setattr(sys, "argv", [*sys.argv, f"--adapter={plays}"])
    assert commands.main() == 1


@needs_compiler
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{plays}:heavy", "--adapter={plays}:heavy: 'heavy' is no weight, and there is no such file"),
        ("{plays}:nan", "'nan' is no weight"),
        ("{plays}:", "'' is no weight"),
        ("{plays}.gone", "No such file|it cannot be read"),
        ("{plays}.gone:2", "No such file|it cannot be read"),
        ("{model}", "{model}: its format is "),
    ],
)
def test_what_is_no_adapter_is_an_error_of_one_line(paths, program, given, message):
    names = {"model": paths[0], "plays": paths[1]}
    option = f"--adapter={given.format(**names)}"
    in_c = subprocess.run([program, option, paths[0], "The"], capture_output=True, text=True, timeout=60)
    for done in (run("complete", paths[0], option), in_c):
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("error: ")
        assert any(part in done.stderr for part in message.format(**names).split("|"))
        assert done.stderr.count("\n") == 1
