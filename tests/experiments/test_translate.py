"""The command that translates: lines from everywhere, and scores of what a run held out."""

import json
import sys

import pytest

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.sources import parallel
from mixkabrn_jax.inference import beam, completion
from mixkabrn_jax.inference.sampling import Sampling
from mixkabrn_jax.runs import workdir
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.training import optimizer, step
from tests import toy

TOKENIZER = tokenizers.Bytes()
ROWS = [("one", "eins"), ("two", "zwei"), ("three", "drei"), ("four", "vier")] * 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(the workdir of a run on a pair of its own, its model), untrained."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "pair.tsv").write_text("en\tde\n" + "".join(f"{english}\t{german}\n" for english, german in ROWS))
    changes = {"ffn": "mlp", "num_experts": 0}
    model = toy.make(toy.model_config(**changes), vocab_size=TOKENIZER.vocab_size)
    changes = {f"model__{field}": value for field, value in changes.items()}
    config = toy.experiment(directory / "pair.tsv", data__source="parallel", **changes)
    workdir.create(directory / "run", config, TOKENIZER, {})
    adamw = optimizer.make(optimizer.OptimizerConfig(**config["optimizer"]), config["num_steps"])
    with Checkpoints(directory / "run" / "checkpoints") as checkpoints:
        checkpoints.save(0, step.parts(step.init(model, adamw)), {})
    return directory, model


@pytest.fixture
def translated(entry, trained, capsys):
    """What the command prints, in lines."""
    program = entry("translate")

    def run(*arguments, direction="en-de"):
        program.run(f"--workdir={trained[0] / 'run'}", f"--direction={direction}", *arguments)
        return capsys.readouterr().out.splitlines()

    return run


def written(model, *texts, direction="en-de"):
    """What the model writes behind the prompts of these texts, in a line each."""
    prompts = [parallel.prompt(direction, text).encode() for text in texts]
    options = {"max_tokens": 12, "sampling": Sampling(0.0), "seeds": [0] * len(texts)}
    found = completion.complete(model, TOKENIZER, prompts, **options)
    return [" ".join(text.decode(errors="replace").splitlines()) for text in found]


def test_lines_come_from_flags_from_a_file_and_from_standard_input(translated, trained, tmp_path, monkeypatch):
    one, two = written(trained[1], "one", "two ä")
    assert translated("--max_tokens=12", "--text=one", "--text=two ä") == [one, two]
    assert one != two
    path = tmp_path / "lines.txt"
    path.write_text("\ufeffone\n\n two ä\n")  # a byte order mark is no letter
    assert translated("--max_tokens=12", f"--path={path}") == [one, "", two]
    with path.open() as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        assert translated("--max_tokens=12") == [one, "", two]
    [back] = written(trained[1], "one", direction="de-en")
    assert translated("--max_tokens=12", "--text=one", direction="de-en") == [back] != [one]


def test_beams_give_the_best_hypothesis(translated, trained):
    prompts = [completion.encode(TOKENIZER, parallel.prompt("en-de", text).encode(), "") for text in ("one", "three")]
    tokens_BT, mask_BT = completion.pad(prompts)
    options = {"num_beams": 3, "max_tokens": 12, "stop_token": TOKENIZER.separator, "mask": mask_BT}
    best = [found[0] for found in beam.search(trained[1], tokens_BT, **options)]
    want = [" ".join(TOKENIZER.decode(found.tokens).splitlines()) for found in best]
    assert translated("--max_tokens=12", "--beams=3", "--text=one", "--text=three") == want


def test_what_was_held_out_is_scored_in_one_direction(translated, trained):
    sacrebleu = pytest.importorskip("sacrebleu")
    *people, last = translated("--score", "--max_tokens=12")
    found = json.loads(last)
    assert (found["direction"], found["split"], found["n"]) == ("en-de", "validation", 2)
    sources, references = ["three", "four"], ["drei", "vier"]
    assert found["chrf"] == sacrebleu.corpus_chrf(written(trained[1], *sources), [references]).score
    assert found["copy_chrf"] == sacrebleu.corpus_chrf(sources, [references]).score
    assert found["chrf_low"] <= found["chrf"] <= found["chrf_high"]
    assert any(line.split()[:1] == ["chrf"] for line in people)
    assert json.loads(translated("--score", "--max_tokens=12", "--limit=1")[-1])["n"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--direction=en-fr", "--text=a"], "error: --direction=en-fr: the run has learnt en-de,de-en"),
        (["--text=a", "--path=x"], "error: --text and --path: give one of them"),
        (["--path=nowhere.txt"], "error: --path=nowhere.txt: there is no such file"),
        (["--text=a", "--limit=3"], "error: --limit=3 is of --score alone"),
        (["--direction="], "--direction=en-de is needed"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(translated, arguments, message):
    with pytest.raises(SystemExit) as ended:
        translated(*arguments)
    assert str(ended.value).startswith(message) or message in str(ended.value)


def test_without_sacrebleu_the_score_says_what_to_install(translated, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(SystemExit) as ended:
        translated("--score")
    assert str(ended.value) == "error: chrF and BLEU are computed by sacrebleu: pip install sacrebleu"


def test_nothing_held_out_is_told(translated):
    pytest.importorskip("sacrebleu")
    with pytest.raises(SystemExit, match="--direction=en-de: nothing of --split=test is to be translated so"):
        translated("--score", "--split=test")
