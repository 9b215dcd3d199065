"""Scores a trained model: python -m experiments.evaluate --workdir=runs/tiny

Bits per byte of the text that the run held out, by domain and overall; other text with --source and --path, other tasks
with --tasks. A table for people, then one line of JSON.
"""

import dataclasses
import sys
from contextlib import contextmanager
from pathlib import Path

from absl import flags

from experiments import command_line, source_flags
from experiments.evaluating import table

_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained run, or the file of a model")
_TASKS = flags.DEFINE_list("tasks", ["bits_per_byte"], "what is asked, with commas between: bits_per_byte, choice, ...")
_SOURCE = flags.DEFINE_string(
    "source", "", "source of other documents, as config.data.source; text where only a path is given"
)
_PATH = flags.DEFINE_string("path", "", "file, archive or folder of other documents")
_CHOICE = source_flags.define_choice()
_SPLIT = flags.DEFINE_enum(
    "split",
    None,
    ["train", "validation", "test"],
    "the split to ask of; the task's own, all of --path, or what the run held out if not given",
)
_LIMIT = flags.DEFINE_integer(
    "limit", 0, "score the first so many documents, of whatever domain; 0 for all", lower_bound=0
)
_PROMPTS = flags.DEFINE_multi_string("prompts", [], "text to continue, shown with what follows; may be given again")
_MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", 0, "tokens of a completion; 0 for the task's own, 100 for prompts", lower_bound=0
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.0, "of completions; 0 takes the most likely token each time", lower_bound=0
)
_SEED = flags.DEFINE_integer("seed", 0, "of completions: the same seed gives the same text", lower_bound=0)
_SHOTS = flags.DEFINE_integer("shots", 0, "examples of the training split before each prompt", lower_bound=0)
_SAMPLES = flags.DEFINE_integer("num_samples", 1, "programs written for each problem of code", lower_bound=1)
_ALLOW_CODE = flags.DEFINE_bool("allow_code", False, "run programs that the model wrote, in a guarded process")
_COMPLETIONS = flags.DEFINE_string(
    "completions", "", "JSON Lines to write: each completion with its document's id, prompt, reference and verdict"
)
_OF_SOME_TASKS = {
    "shots": _SHOTS,
    "num_samples": _SAMPLES,
    "allow_code": _ALLOW_CODE,
    "completions": _COMPLETIONS,
    "max_tokens": _MAX_TOKENS,
    "temperature": _TEMPERATURE,
    "seed": _SEED,
}
_OF_PROMPTS = ("max_tokens", "temperature", "seed")
_PICTURES = flags.DEFINE_string("pictures", "", "folder for bits per byte by position and by domain, as PNG")
_HTML = flags.DEFINE_string("html", "", "page that shows the first document with what each token costs, in colours")
command_line.require("workdir", "runs/tiny")


def main():
    results, tasks, asked, read_page = {"workdir": _WORKDIR.value}, {}, {}, None
    if _LIMIT.value:
        results["limit"] = _LIMIT.value
    with command_line.user_errors():
        from experiments.evaluating.documents import read_run

        _check_flags()
        run, completions = read_run(Path(_WORKDIR.value)), _completions()
    for name in dict.fromkeys(_TASKS.value):  # each once
        with _keeping_errors(tasks.setdefault(name, {}), name):
            asked[name] = _prepare(name, run, completions)
    with _keeping_errors(results, "--html"):
        if _HTML.value:
            read_page = _page_reader(run)
    with command_line.user_errors():
        scorer = _open()
        results |= _describe(run, scorer)
    results["tasks"] = tasks
    for name, (documents, options) in asked.items():
        with _keeping_errors(tasks[name], name):
            tasks[name] |= _ask(name, scorer, documents, options)
            table.print_task(name, tasks[name], f"first {_LIMIT.value}" if documents.is_cut else "overall")
    with _keeping_errors(results, "--pictures"):
        if _PICTURES.value and "error" not in tasks["bits_per_byte"]:
            _draw(Path(_PICTURES.value), tasks["bits_per_byte"], scorer)
    with _keeping_errors(results, "--html"):
        if read_page:
            _write_page(Path(_HTML.value), scorer, read_page)
    with _keeping_errors(results, "--completions"):
        completions.require_whole()
    print(table.line(results))
    return int(any("error" in found for found in (results, *tasks.values())))


def _check_flags():
    """Says what makes no sense, and makes the folders that are named: now, and not once all is scored."""
    # Imported only here and below, so that a flag of the wrong kind is answered at once: JAX comes with them.
    from mixkabrn_jax.evaluation.tasks import TASKS

    if not _TASKS.value:
        raise ValueError(f"--tasks= names no task; there are {', '.join(TASKS)}")
    for name in _TASKS.value:
        if name not in TASKS:
            raise ValueError(f"--tasks={name}: there is no such task; there are {', '.join(TASKS)}")
    for name, holder in _OF_SOME_TASKS.items():
        takers = [task for task in TASKS if name in TASKS[task].takes]
        is_of_prompts = _PROMPTS.value and name in _OF_PROMPTS
        if holder.value != holder.default and not (is_of_prompts or {*takers} & {*_TASKS.value}):
            others = " and of --prompts" if name in _OF_PROMPTS else ""
            raise ValueError(f"--{name}={holder.value} is of the tasks {', '.join(takers)}{others} alone")
    for name, holder in _CHOICE.items():
        if holder.value and not (_PATH.value or _SOURCE.value):
            raise ValueError(f"--{name}={holder.value} goes with --path: what the run held out is read as it was then")
    _check_outputs()


def _check_outputs():
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
    if _COMPLETIONS.value:
        kept = Path(_COMPLETIONS.value)
        _make_folder(f"--completions={kept}", kept.parent)
        if kept.exists():  # it might be a set
            raise ValueError(f"--completions={kept} is there already: name a new file, such as completions.jsonl")


def _make_folder(flag, path):
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{flag}: {path} cannot be made a folder ({error.strerror})") from error


def _completions():
    from experiments.evaluating.completions import Completions

    return Completions(Path(_COMPLETIONS.value))


def _open():
    """A scorer of the run's model."""
    from mixkabrn_jax import runs
    from mixkabrn_jax.evaluation.score import Scorer

    model, tokenizer, config = runs.open(_WORKDIR.value)
    return Scorer(model, tokenizer, config["data"]["sequence_length"])


def _describe(run, scorer):
    """What there is to say before any task: sizes, and the samples that are asked for."""
    from mixkabrn_jax.models.size import sizes
    from mixkabrn_jax.runs.model import of_config

    # By the config: what was read from a file has its codes multiplied out.
    results = sizes(of_config(run.config, run.tokenizer.vocab_size), scorer.sequence_length)
    table.print_sizes(results)
    if _PROMPTS.value:
        results["samples"] = _samples(scorer)
    return results


@contextmanager
def _keeping_errors(found, name):
    """Around one of the things asked for: its error is said and stands in `found`, and the others go on."""

    def answer(sentence):
        sentence = sentence.removeprefix(f"{name}: ")
        found["error"] = "; ".join([*([found["error"]] if "error" in found else []), sentence])
        print(f"error: {name}: {sentence}", file=sys.stderr, flush=True)

    with command_line.user_errors("config.data." if _PATH.value else "", answer):
        yield


def _wanted():
    from experiments.evaluating.documents import Wanted

    choice = {field: holder.value for field, holder in _CHOICE.items()}
    return Wanted(_SOURCE.value, _PATH.value, _SPLIT.value, choice)


def _prepare(name, run, completions):
    """(the documents of a task, the options): all that can be wrong with them is found before the model is loaded."""
    from experiments.evaluating.documents import Documents, reader, shots
    from mixkabrn_jax.evaluation.tasks import TASKS
    from mixkabrn_jax.evaluation.tasks.options import Options

    task = TASKS[name]
    options = Options(
        max_tokens=_MAX_TOKENS.value,
        temperature=_TEMPERATURE.value,
        seed=_SEED.value,
        num_samples=_SAMPLES.value,
        allow_code=_ALLOW_CODE.value,
    )
    if _COMPLETIONS.value:
        options = dataclasses.replace(options, keep=completions.of(name))
    if task.check:
        task.check(options)
    options = dataclasses.replace(options, shots=shots(task, run, _wanted(), _SHOTS.value))
    return Documents(reader(task, run, _wanted()), _LIMIT.value, options.shots), options


def _ask(name, scorer, documents, options):
    """The figures of a task."""
    from mixkabrn_jax.data.sources import NoDocumentsError
    from mixkabrn_jax.evaluation.tasks import TASKS

    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        found = TASKS[name].run(scorer, documents, options)
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

    by_position, by_domain = folder / "bits_by_position.png", folder / "bits_by_domain.png"
    with _naming(by_position):
        pictures.bits_by_position(found["positions"], by_position, both=scorer.carries)
    with _naming(by_domain):
        pictures.bits_by_domain(found["domains"], found["bits_per_byte"], by_domain)
    print(f"pictures: {folder}/bits_by_position.png, bits_by_domain.png")


def _page_reader(run):
    from experiments.evaluating.documents import reader
    from mixkabrn_jax.evaluation.tasks import TASKS

    return reader(TASKS["bits_per_byte"], run, _wanted())


def _write_page(path, scorer, read):
    from mixkabrn_jax.data.documents import Skipped
    from mixkabrn_jax.evaluation import pictures

    with _naming(path):
        pictures.text_in_colours(scorer.pieces(read(Skipped())), scorer.tokenizer, path)
    print(f"page: {path}")


@contextmanager
def _naming(path):
    """Around what writes a file: an error of a full disk names none."""
    try:
        yield
    except OSError as error:
        raise error if error.filename else OSError(error.errno, error.strerror, str(path)) from error


if __name__ == "__main__":
    command_line.run(main)
