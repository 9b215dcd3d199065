import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mixkabrn_jax.data.tokenizers import tokenizer_json

ROOT = Path(__file__).parents[2]
TEXT = "".join(f"the {word} of the {word}s\n" for word in ("union", "people", "citizen", "nation") * 50)


def run(*arguments):
    command = [sys.executable, "-m", "experiments.tokenize", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return finished.returncode, finished.stdout, finished.stderr


def test_a_tokenizer_is_trained_on_the_training_documents_and_written_whole(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(10):
        (tmp_path / "texts" / f"{i}.txt").write_text(TEXT if i < 9 else TEXT.replace("the", "zzz"))
    out = tmp_path / "tokenizer.json"
    arguments = ("--source=text", f"--path={tmp_path / 'texts'}", "--vocab_size=270", f"--out={out}")
    code, output, errors = run(*arguments)
    assert code == 0, errors
    last = json.loads(output.splitlines()[-1])
    tokenizer = tokenizer_json.read(out)
    assert list(last) == ["vocab_size", "bytes", "tokens", "bytes_per_token", "sha256"]
    assert last["vocab_size"] == tokenizer.vocab_size == 270
    assert last["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert last["bytes"] == 9 * len(TEXT)  # the last document is held out
    assert last["tokens"] == 9 * len(tokenizer.encode(TEXT.encode()))
    assert last["bytes_per_token"] == round(last["bytes"] / last["tokens"], 4)
    pieces = [tokenizer.piece(token) for token in range(270)]
    assert b"the" in pieces
    assert not [piece for piece in pieces if b"zz" in piece]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts", "tokenizer.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out=tokenizer.json is needed"),
        (["--out={}/tokenizer.txt"], "ends in .json"),
        (["--out={}/none/tokenizer.json"], "there is no folder"),
        (["--out={}/t.json", "--vocab_size=100"], "--vocab_size=100 must be 258 to 1000000"),
        (["--out={}/t.json", "--path={}/none"], "--path="),
        (["--out={}/t.json", "--source=words"], "--source='words' must be one of"),
    ],
)
def test_a_mistake_is_answered_in_one_line(entry, tmp_path, capsys, arguments, message):
    program = entry("tokenizer")  # which has the flags
    with pytest.raises(SystemExit) as ended:
        program.run(*(argument.format(tmp_path) for argument in arguments))
    assert capsys.readouterr().out == ""
    assert message in ended.value.code
    assert "\n" not in ended.value.code


def test_the_name_of_the_command_hides_no_module_of_python_from_its_neighbours():
    """Python looks beside a script that is run by its path before it looks among its own modules."""
    program = "import sys; sys.path.insert(0, 'experiments'); import tokenize, linecache; print(tokenize.NAME)"
    found = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1"
