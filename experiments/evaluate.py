"""Scores a trained model: python -m experiments.evaluate --workdir=runs/tiny

Bits per byte of the text that the run held out, by domain and overall; other text with --source and --path, other tasks
with --tasks. A table for people, then one line of JSON.
"""

import sys
from contextlib import contextmanager
from pathlib import Path

from absl import flags

from experiments import command_line
from experiments.evaluating import table

_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained run")
_TASKS = flags.DEFINE_list("tasks", ["bits_per_byte"], "what is asked, with commas between: bits_per_byte, choice, ...")
_SOURCE = flags.DEFINE_string(
    "source", "", "source of other documents, as config.data.source; text where only a path is given"
)
_PATH = flags.DEFINE_string("path", "", "file, archive or folder of other documents")
_SPLIT = flags.DEFINE_enum(
    "split",
    None,
    ["train", "validation", "test"],
    "the split to ask of; the task's own, all of --path, or what the run held out if not given",
)
_LIMIT = flags.DEFINE_integer("limit", 0, "score so many documents, the first ones; 0 for all", lower_bound=0)
_PROMPTS = flags.DEFINE_multi_string("prompts", [], "text to continue, shown with what follows; may be given again")
_MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", 0, "tokens of a completion; 0 for the task's own, 100 for prompts", lower_bound=0
)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "of completions; 0 takes the most likely token each time")
_SEED = flags.DEFINE_integer("seed", 0, "of completions: the same seed gives the same text", lower_bound=0)
_SHOTS = flags.DEFINE_integer("shots", 0, "examples of the training split before each prompt", lower_bound=0)
_SAMPLES = flags.DEFINE_integer("num_samples", 1, "programs written for each problem of code", lower_bound=1)
_ALLOW_CODE = flags.DEFINE_bool("allow_code", False, "run programs that the model wrote, in a guarded process")
_PICTURES = flags.DEFINE_string("pictures", "", "folder for bits per byte by position and by domain, as PNG")
_HTML = flags.DEFINE_string("html", "", "page that shows the first document with what each token costs, in colours")
command_line.require("workdir", "runs/tiny")


def main():
    with command_line.user_errors():
        _check_flags()
        scorer, data = _open()
        results = _describe(scorer)
    for name in dict.fromkeys(_TASKS.value):  # each once
        found = results["tasks"][name] = {}
        with _keeping_errors(found, name):
            found.update(_ask(name, scorer, data))
            table.print_task(name, found)
    with _keeping_errors(results, "--pictures"):
        if _PICTURES.value and "error" not in results["tasks"]["bits_per_byte"]:
            _draw(Path(_PICTURES.value), results["tasks"]["bits_per_byte"], scorer)
    with _keeping_errors(results, "--html"):
        if _HTML.value:
            _write_page(Path(_HTML.value), scorer, data)
    print(table.line(results))
    return int(any("error" in found for found in (results, *results["tasks"].values())))


def _check_flags():
    """Says what makes no sense, and makes the folders that are named: now, and not once all is scored."""
    # Imported only here and below, so that a flag of the wrong kind is answered at once: JAX comes with them.
    from mixkabrn_jax.evaluation.tasks import TASKS

    if not _TASKS.value:
        raise ValueError(f"--tasks= names no task; there are {', '.join(TASKS)}")
    for name in _TASKS.value:
        if name not in TASKS:
            raise ValueError(f"--tasks={name}: there is no such task; there are {', '.join(TASKS)}")
    if _SHOTS.value and not any(TASKS[name].takes_shots for name in _TASKS.value):
        takers = ", ".join(name for name, task in TASKS.items() if task.takes_shots)
        raise ValueError(f"--shots={_SHOTS.value}: examples stand before the prompts of {takers} alone")
    if _PICTURES.value:
        if "bits_per_byte" not in _TASKS.value:
            raise ValueError(
                f"--pictures={_PICTURES.value}: they are of the task bits_per_byte, which is not in --tasks"
            )
        _make_folder(f"--pictures={_PICTURES.value}", Path(_PICTURES.value))
    if _HTML.value:
        page = Path(_HTML.value)
        _make_folder(f"--html={page}", page.parent)
        if page.is_dir():
            raise ValueError(f"--html={page} is a folder: name the page, such as {page / 'first.html'}")


def _make_folder(flag, path):
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{flag}: {path} cannot be made a folder ({error.strerror})") from error


def _open():
    """(a scorer of the run's model, `config["data"]` of the run)."""
    from mixkabrn_jax import runs
    from mixkabrn_jax.evaluation.score import Scorer

    model, tokenizer, config = runs.open(_WORKDIR.value)
    return Scorer(model, tokenizer, config["data"]["sequence_length"]), config["data"]


def _describe(scorer):
    """What there is to say before any task: sizes, and the samples that are asked for."""
    from mixkabrn_jax.evaluation.size import sizes

    results = {"workdir": _WORKDIR.value, **sizes(scorer.model, scorer.sequence_length), "tasks": {}}
    table.print_sizes(results)
    if _PROMPTS.value:
        results["samples"] = _samples(scorer)
    return results


@contextmanager
def _keeping_errors(found, name):
    """Around one of the things asked for: its error is said and stands in `found`, and the others go on."""

    def answer(sentence):
        found["error"] = sentence.removeprefix(f"{name}: ")
        print(f"error: {name}: {found['error']}", file=sys.stderr, flush=True)

    with command_line.user_errors("config.data." if _PATH.value else "", answer):
        yield


def _ask(name, scorer, data):
    """The figures of a task."""
    from experiments.evaluating.documents import Documents, Wanted, reader, shots
    from mixkabrn_jax.data.sources import NoDocumentsError
    from mixkabrn_jax.evaluation.tasks import TASKS
    from mixkabrn_jax.evaluation.tasks.options import Options

    task, wanted = TASKS[name], Wanted(_SOURCE.value, _PATH.value, _SPLIT.value)
    options = Options(
        shots=shots(task, data, wanted, _SHOTS.value),
        max_tokens=_MAX_TOKENS.value,
        temperature=_TEMPERATURE.value,
        seed=_SEED.value,
        num_samples=_SAMPLES.value,
        allow_code=_ALLOW_CODE.value,
    )
    documents = Documents(reader(task, data, wanted), _LIMIT.value, options.shots)
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        found = task.run(scorer, documents, options)
    except ValueError as error:
        if not documents.skipped.counts or isinstance(error, NoDocumentsError):  # which says so itself
            raise
        raise ValueError(f"{error}; left out were {documents.skipped}") from error
    if documents.skipped.counts:
        print(f"left out: {documents.skipped}", file=sys.stderr)
    return found


def _samples(scorer):
    """Each prompt with what the model writes behind it, printed as well."""
    import os

    prompts = [os.fsencode(prompt) for prompt in _PROMPTS.value]
    how = {"temperature": _TEMPERATURE.value, "seed": _SEED.value}
    texts = [text.decode(errors="replace") for text in scorer.complete(prompts, _MAX_TOKENS.value or 100, **how)]
    for prompt, text in zip(_PROMPTS.value, texts, strict=True):
        print(f"\n> {prompt}{text}")
    return [{"prompt": prompt, "text": text} for prompt, text in zip(_PROMPTS.value, texts, strict=True)]


def _draw(folder, found, scorer):
    from mixkabrn_jax.evaluation import pictures

    pictures.bits_by_position(found["positions"], folder / "bits_by_position.png", both=scorer.carries)
    pictures.bits_by_domain(found["domains"], found["bits_per_byte"], folder / "bits_by_domain.png")
    print(f"pictures: {folder}/bits_by_position.png, bits_by_domain.png")


def _write_page(path, scorer, data):
    from experiments.evaluating.documents import Wanted, reader
    from mixkabrn_jax.data.documents import Skipped
    from mixkabrn_jax.evaluation import pictures
    from mixkabrn_jax.evaluation.tasks import TASKS

    read = reader(TASKS["bits_per_byte"], data, Wanted(_SOURCE.value, _PATH.value, _SPLIT.value))
    pictures.text_in_colours(scorer.pieces(read(Skipped())), scorer.tokenizer, path)
    print(f"page: {path}")


if __name__ == "__main__":
    command_line.run(main)
