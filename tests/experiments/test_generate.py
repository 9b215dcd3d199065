import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.inference.generate import generate
from mixkabrn_jax.inference.sampling import Sampling
from mixkabrn_jax.runs import workdir
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.training import optimizer, step
from tests import toy

ROOT = Path(__file__).parents[2]
TOKENIZER = tokenizers.Characters("\n abcdefghäö—")


def run(*arguments):
    command = [sys.executable, "-m", "experiments.generate", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return finished.returncode, finished.stdout, finished.stderr


@pytest.fixture
def trained(tmp_path):
    """(a run's workdir, its model), untrained."""
    changes = {"ffn": "mlp", "num_experts": 0}
    model = toy.make(toy.model_config(**changes), vocab_size=TOKENIZER.vocab_size)
    config = toy.experiment("text.txt", **{f"model__{field}": value for field, value in changes.items()})
    workdir.create(tmp_path, config, TOKENIZER, {})
    adamw = optimizer.make(optimizer.OptimizerConfig(**config["optimizer"]), config["num_steps"])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(0, step.parts(step.init(model, adamw)), {})
    checkpoints.close()
    return tmp_path, model


def test_the_command_prints_the_prompt_and_what_the_model_makes_of_it(trained):
    directory, model = trained
    code, output, errors = run(f"--workdir={directory}", "--prompt=äb—", "--max_tokens=20", "--seed=3", "--top_k=5")
    assert code == 0, errors
    prompt = np.concatenate([[TOKENIZER.separator], TOKENIZER.encode("äb—".encode())])[None]
    sampling = Sampling(temperature=0.7, top_k=5)
    tokens = [int(token_B[0]) for token_B in generate(model, prompt, max_tokens=20, sampling=sampling, seed=3)]
    if TOKENIZER.separator in tokens:
        tokens = tokens[: tokens.index(TOKENIZER.separator)]
    assert output == "äb—" + TOKENIZER.decode(tokens) + "\n"
    assert len(tokens) > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=/nowhere"], "error: /nowhere does not exist: a directory that training wrote is needed"),
        ([], "--workdir"),
        (["--workdir={}", "--temperature=-1"], "temperature=-1.0: 0 or more is needed"),
        (["--workdir={}", "--prompt=xyz"], "character 'x' at position 0 of --prompt"),
    ],
)
def test_a_mistake_is_answered_in_one_line(entry, trained, capsys, arguments, message):
    program = entry("generate")
    with pytest.raises(SystemExit) as ended:
        program.run(*(argument.format(trained[0]) for argument in arguments))
    assert capsys.readouterr().out == ""
    assert message in ended.value.code
    assert "\n" not in ended.value.code
