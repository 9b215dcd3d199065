import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.inference import beam
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a run's workdir, its model), untrained."""
    tmp_path = tmp_path_factory.mktemp("run")
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


@pytest.fixture
def printed(entry, trained, capsys):
    """What a command line prints; flags that may be repeated are those of this one alone."""
    program = entry("generate")

    def run(*arguments):
        flags.FLAGS.unparse_flags()
        program.run(f"--workdir={trained[0]}", *arguments)
        return capsys.readouterr().out

    return run


def test_prompts_side_by_side_are_lines_of_json_with_the_text_that_each_has_alone(printed, tmp_path):
    prompts, options = ["äb—", "", "hfh gaba"], ("--max_tokens=12", "--repetition_penalty=1.1")
    (tmp_path / "prompts").write_text("\n".join(prompts))
    output = printed(*options, f"--prompts={tmp_path / 'prompts'}", "--seed=5", "--seed=6", "--seed=7")
    found = [json.loads(line) for line in output.splitlines()]
    assert [(line["prompt"], line["seed"]) for line in found] == list(zip(prompts, (5, 6, 7), strict=True))
    for line in found:
        alone = printed(*options, f"--prompt={line['prompt']}", f"--seed={line['seed']}")
        assert alone == line["prompt"] + line["text"] + "\n"
    for arguments in (("--prompt=a", "--prompt=b"), ("--prompt=a", "--seed=1", "--seed=2")):
        found = [json.loads(line) for line in printed(*options, *arguments).splitlines()]
        assert len({line["text"] for line in found}) == 2


def test_text_ends_before_a_stop(printed):
    options = ("--max_tokens=40", "--seed=3", "--prompt=ab", "--temperature=1")
    whole = printed(*options).removeprefix("ab").removesuffix("\n")
    stop = whole[4:6]
    want = whole.partition(stop)[0]
    assert printed(*options, f"--stop={stop}", "--stop=not there") == "ab" + want + "\n"
    assert json.loads(printed(*options, f"--stop={stop}", "--prompt=c").splitlines()[0])["text"] == want
    assert printed(*options, r"--stop=\n") == "ab" + whole.partition("\n")[0] + "\n"
    assert "\n" in whole
    assert len(want) > 2


def test_beams_print_the_best_hypothesis(printed, trained):
    prompt = np.concatenate([[TOKENIZER.separator], TOKENIZER.encode("äb".encode())])[None]
    options = {"num_beams": 3, "max_tokens": 6, "stop_token": TOKENIZER.separator}
    best, *others = beam.search(trained[1], prompt, **options)[0]
    assert printed("--prompt=äb", "--max_tokens=6", "--beams=3") == "äb" + TOKENIZER.decode(best.tokens) + "\n"
    assert len(others) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=/nowhere"], "error: /nowhere does not exist: a directory that training wrote is needed"),
        ([], "--workdir"),
        (["--workdir={}", "--temperature=-1"], "temperature=-1.0: 0, or 0.001 and more, is needed"),
        (["--workdir={}", "--prompt=xyz"], "character 'x' at position 0 of --prompt"),
        (["--workdir={}", "--prompt=a", "--prompt=x"], "character 'x' at position 0 of prompt 2"),
        (["--workdir={}", "--stop="], "stop=['']: a list of texts is needed"),
        (["--workdir={}", "--prompt=a", "--prompt=b", "--stop="], "stop: an empty text would stop everything"),
        (["--workdir={}", "--seed=-1"], "seed=-1: 0 to 4294967295 is needed"),
        (["--workdir={}", "--prompt=a", "--prompt=b", "--seed=1", "--seed=2", "--seed=3"], "each of the 2 prompts"),
        (["--workdir={}", "--prompts=/nowhere"], "--prompts=/nowhere: there is no such file"),
        (["--workdir={}", "--prompts={}/config.json", "--prompt=a"], "config.json: together with --prompt"),
        (["--workdir={}", "--repetition_penalty=0"], "repetition_penalty=0.0: 0.01 to 100 is needed"),
        (["--workdir={}", "--beams=2", "--top_p=0.5"], "--top_p=0.5: --beams=2 draws nothing"),
        (["--workdir={}", "--length_penalty=1"], "--length_penalty=1.0: this is of a beam search"),
        (["--workdir={}", "--beams=2", "--length_penalty=-1"], "length_penalty=-1.0: 0 or more is needed"),
    ],
)
def test_a_mistake_is_answered_in_one_line(entry, trained, capsys, arguments, message):
    program = entry("generate")
    with pytest.raises(SystemExit) as ended:
        program.run(*(argument.format(trained[0]) for argument in arguments))
    assert capsys.readouterr().out == ""
    assert message in ended.value.code
    assert "\n" not in ended.value.code
