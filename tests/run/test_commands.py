"""The command lines of the runtime, and the program in C."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mixkabrn_run
from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.template import TEMPLATES
from mixkabrn_jax.runs import model_file
from mixkabrn_run.language import load
from mixkabrn_run.sampling import Sampling
from tests import toy
from tests.run.compiler import needs_compiler
from tests.run.test_language import PAIRS, TEXT


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    config = toy.model_config(linear="ternary", kan__spline_linear="ternary", quantization__embedding="int8")
    model = toy.make(config, vocab_size=PAIRS.vocab_size)
    path = tmp_path_factory.mktemp("run") / "toy.safetensors"
    path.write_bytes(model_file.to_bytes(model, PAIRS, toy.document()))
    return path


def run(*arguments, **options):
    command = [sys.executable, "-m", "mixkabrn_run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_both_runtimes_write_the_same_text_and_need_nothing_but_numpy(path):
    names = ("jax", "flax", "tokenizers", "safetensors", "mixkabrn_jax", "starlette", "uvicorn")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({names!r}))"
    code = (
        f"{blocked}; sys.argv[1:] = {['complete', str(path), '--prompt=The people', '--max_tokens=30', '--seed=3']!r}"
    )
    code += "; from mixkabrn_run.__main__ import main; raise SystemExit(main())"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert alone.returncode == 0, alone.stderr
    in_numpy = run("complete", path, "--prompt=The people", "--max_tokens=30", "--seed=3", "--backend=numpy")
    assert in_numpy.stdout == alone.stdout.decode()
    assert not in_numpy.stdout.startswith("The people")  # the continuation alone
    assert len(in_numpy.stdout) > 20


def test_without_a_compiler_the_model_runs_in_numpy(path, tmp_path):
    environment = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("CC", None)
    done = run("complete", path, "--max_tokens=3", env=environment)
    assert done.returncode == 0, done.stderr
    refused = run("complete", path, "--backend=c", env=environment)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: there is no C compiler")


def test_bits_per_byte_of_a_text(path, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT[:200])
    done = run("score", path, text)
    language = load(path, "numpy")
    scored = json.loads(done.stdout)
    assert scored.pop("tokens_per_second") > 0
    assert scored == language.score(text.read_bytes())
    assert scored["bytes"] == text.stat().st_size
    logits = language.read(language.tokenizer.encode("The"), language.session())
    assert abs(np.exp(np.float64(logits) - np.max(logits)).sum() - 1) > 1e-3  # logits, no logarithms of shares


def test_a_conversation_goes_on_where_it_was(path, tmp_path):
    kept, options = tmp_path / "kept", ["--max_tokens=5", "--seed=1"]
    in_one = run("chat", path, *options, input="Hello\nAnd then?\n")
    first = run("chat", path, *options, f"--conversation={kept}", input="Hello\n")
    second = run("chat", path, *options, f"--conversation={kept}", "--backend=numpy", input="And then?\n")
    assert second.stderr.startswith(f"going on from {kept}, ")
    assert first.stdout.rpartition("> ")[0] + second.stdout == in_one.stdout


def test_text_ends_before_a_stop_and_the_session_has_read_it(path):
    language = load(path)
    prompt = language.tokenizer.encode("The people")
    tokens = list(language._drawn(prompt, language.session(), 60, Sampling(), 3))
    whole = "".join(language.tokenizer.texts(tokens))
    stops, session = [whole[20:25], whole[10:13]], language.session()
    found = "".join(language.complete("The people", max_tokens=60, seed=3, stop=stops, session=session))
    assert found == whole.partition(stops[1])[0]
    number = session.position - 1 - len(prompt)
    ends = [stops[1].encode() in language.tokenizer.decode(tokens[:n]) for n in (number - 1, number)]
    assert ends == [False, True]
    np.testing.assert_array_equal(language.read([*prompt, *tokens[:number]], language.session()), session.logits)


def test_a_penalty_is_for_tokens_of_the_prompt_and_what_was_drawn(path):
    language, prompt = load(path), "The people"
    sampling = Sampling(temperature=0, repetition_penalty=100)
    tokens = [*language.tokenizer.encode(prompt)]
    for token in language._drawn([*tokens], language.session(), 30, sampling, 0):
        logits = language.read(tokens, language.session())
        seen = np.isin(np.arange(len(logits)), tokens)
        assert token == np.argmax(np.where(seen, np.where(logits > 0, logits / 100, logits * 100), logits))
        tokens.append(token)
    assert len(tokens) > 20


def test_the_command_ends_before_a_stop(path):
    options = ["--prompt=The people", "--max_tokens=60", "--seed=3", "--repetition_penalty=1.2"]
    whole = run("complete", path, *options).stdout
    for stop in (whole[10:13], whole[20:22]):
        escaped = stop.replace("\\", r"\\").replace("\n", r"\n").replace("\t", r"\t")
        assert run("complete", path, *options, f"--stop={escaped}").stdout == whole.partition(stop)[0] + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["complete", "missing"], "No such file"),
        (["score", "{path}", "missing"], "No such file"),
        (["complete", "{path}", "--stop="], "stop=['']: a list of texts is needed"),
        (["complete", "{path}", "--seed=-1"], "seed=-1: 0 to 4294967295 is needed"),
        (["complete", "{path}", "--max_tokens=-1"], "max_tokens=-1: 0 or more is needed"),
        (["complete", "{path}", "--threads=0"], "threads=0: 1 or more is needed"),
        (["chat", "{path}", "--repetition_penalty=0"], "repetition_penalty=0.0: 0.01 to 100 is needed"),
    ],
)
def test_what_cannot_be_is_an_error_of_one_line(path, arguments, message):
    done = run(*(argument.format(path=path) for argument in arguments))
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_package_imports_numpy_and_the_standard_library_alone():
    """But for serve.py, which stands on a library for servers, and which only its own command imports."""
    for path in Path(mixkabrn_run.__file__).parent.glob("*.py"):
        tree, found = ast.parse(path.read_text()), set()
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            found.update(name.partition(".")[0] for name in names)
        server = {"starlette", "uvicorn"} if path.name == "serve.py" else set()
        assert found - sys.stdlib_module_names <= {"numpy", "mixkabrn_run"} | server
        imported = (alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names)
        assert "serve" not in imported


def test_without_the_library_for_servers_one_line_says_what_is_missing(path):
    code = "import sys; sys.modules['uvicorn'] = None; from mixkabrn_run.__main__ import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", code, "serve", path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.fullmatch("error: serve needs (uvicorn|starlette): pip install starlette uvicorn\n", done.stderr)


@needs_compiler
@pytest.mark.parametrize("prompt", ["The people's 12 hopes", "don't they?  Café “naïve” 日本語 🎭", ""])
@pytest.mark.parametrize("temperature", ["0", "0.7"])
def test_the_program_in_c_writes_the_text_of_python(program, path, prompt, temperature):
    in_c = subprocess.run([program, path, prompt, "40", temperature, "9"], capture_output=True, timeout=60)
    assert in_c.returncode == 0, in_c.stderr
    options = ("--max_tokens=40", f"--temperature={temperature}", "--seed=9")
    assert run("complete", path, f"--prompt={prompt}", *options).stdout == in_c.stdout.decode(errors="replace")


@needs_compiler
def test_the_program_in_c_filters_and_penalizes_as_python(program, path):
    in_c = subprocess.run([program, path, "The", "40", "0.7", "9", "20", "0.9", "0.01", "1.5"], capture_output=True)
    filters = ("--top_k=20", "--top_p=0.9", "--min_p=0.01", "--repetition_penalty=1.5")
    in_python = run("complete", path, "--prompt=The", "--max_tokens=40", "--seed=9", *filters)
    assert in_python.stdout == in_c.stdout.decode(errors="replace")


@needs_compiler
@pytest.mark.parametrize("theirs", [tokenizers.Bytes(), tokenizers.Characters(" Tehoé")])
def test_the_program_in_c_knows_the_other_tokenizers(program, theirs, tmp_path):
    theirs.template = TEMPLATES["chat"]  # of which it makes nothing
    model = toy.make(toy.model_config(mixer="attention"), vocab_size=theirs.vocab_size)
    path = tmp_path / "toy.safetensors"
    path.write_bytes(model_file.to_bytes(model, theirs, toy.document()))
    in_c = subprocess.run([program, path, "Thé o", "20", "0.7", "1"], capture_output=True, timeout=60)
    want = run("complete", path, "--prompt=Thé o", "--max_tokens=20", "--seed=1")
    assert want.stdout == in_c.stdout.decode(errors="replace")
    refused = subprocess.run([program, path, "xyz"], capture_output=True, timeout=60)
    assert refused.returncode == int(theirs.name == "characters")


@needs_compiler
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-1"], "MAX_TOKENS=-1: 0 to 1e+09 is needed"),
        (["9", "hot"], "TEMPERATURE=hot: 0 to 1e+09 is needed, and nothing between 0 and 0.001"),
        (["9", "1e-9"], "TEMPERATURE=1e-9: "),
        (["9", "1", "5", "2", "0"], "TOP_P=0: "),
        (["9", "1", ""], "SEED=: 0 to 4.29497e+09 is needed"),
    ],
)
def test_the_program_in_c_refuses_numbers_out_of_range(program, path, given, message):
    done = subprocess.run([program, path, "x", *given], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@needs_compiler
def test_the_program_in_c_refuses_what_is_no_model(program, path, tmp_path):
    flipped = bytearray(path.read_bytes())
    flipped[-9] ^= 1
    for content in (b"", b"PK\x03\x04", b"{}" * 100, flipped):
        (tmp_path / "model").write_bytes(content)
        done = subprocess.run([program, tmp_path / "model", "x"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
    assert "SHA-256" in done.stderr
