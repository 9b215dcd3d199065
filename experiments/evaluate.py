"""Scores a trained model: python -m experiments.evaluate --workdir=runs/tiny

Bits per byte of the text that the run held out, by domain and overall; other text with --source and --path, other tasks
with --tasks. A table for people, then one line of JSON.
"""

import json
import math
import sys
import time
from pathlib import Path

from absl import flags

from experiments import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained run")
_TASKS = flags.DEFINE_list("tasks", ["bits_per_byte"], "what is asked, with commas between: bits_per_byte, choice, ...")
_SOURCE = flags.DEFINE_string(
    "source", "", "source of other documents, as config.data.source; text where only a path is given"
)
_PATH = flags.DEFINE_string("path", "", "file, archive or folder of other documents")
_SPLIT = flags.DEFINE_string(
    "split", "", "train, validation or test; empty for the task's own, all of --path, or what the run held out"
)
_LIMIT = flags.DEFINE_integer("limit", 0, "score so many documents, the first ones; 0 for all", lower_bound=0)
_PROMPTS = flags.DEFINE_multi_string("prompts", [], "text to continue, shown with what follows; may be given again")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 0, "tokens of a completion; 0 for the task's own, 100 for prompts")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "of completions; 0 takes the most likely token each time")
_SEED = flags.DEFINE_integer("seed", 0, "of completions: the same seed gives the same text")
_SHOTS = flags.DEFINE_integer("shots", 0, "examples of the training split before each prompt", lower_bound=0)
_SAMPLES = flags.DEFINE_integer("num_samples", 1, "programs written for each problem of code", lower_bound=1)
_ALLOW_CODE = flags.DEFINE_bool("allow_code", False, "run programs that the model wrote, in a guarded process")
_PICTURES = flags.DEFINE_string("pictures", "", "folder for bits per byte by position and by domain, as PNG")
_HTML = flags.DEFINE_string("html", "", "page that shows the first document with what each token costs, in colours")
command_line.require("workdir", "runs/tiny")


class Documents:
    """The documents of one task, read anew each time; what is left out is counted, and progress is told."""

    def __init__(self, read, limit: int, shots=()):
        """
        Args:
            read: of a `Skipped`, the documents.
            limit: documents, 0 for all.
            shots: documents that are examples, of which none may be asked.
        """
        self._read, self._limit, self._shots = read, limit, {shot.id for shot in shots}
        self.skipped = None

    def __iter__(self):
        from mixkabrn_jax.data.documents import Skipped

        self.skipped = Skipped()
        number = num_bytes = 0
        told = time.monotonic()
        for document in self._read(self.skipped):
            if self._limit and number == self._limit:
                return
            if document.id in self._shots:
                raise ValueError(
                    f"--shots={len(self._shots)}: {document.id} would be an example and be asked as well: --path has "
                    "to hold a training split beside what is asked"
                )
            yield document
            number += not getattr(document, "continues", False)
            num_bytes += len(getattr(document, "content", b""))
            if time.monotonic() - told > 10:
                told = time.monotonic()
                print(f"  {number:,} documents, {num_bytes:,} bytes ...", file=sys.stderr, flush=True)


def main():
    with command_line.user_errors():
        results = evaluate()
    print(json.dumps(_finite(results), allow_nan=False))


def _finite(value):
    """JSON knows no infinity: a perplexity that a float cannot hold becomes null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate() -> dict:
    """What the last line says, after a table for people was printed."""
    from mixkabrn_jax import runs
    from mixkabrn_jax.evaluation.score import Scorer
    from mixkabrn_jax.evaluation.size import sizes
    from mixkabrn_jax.evaluation.tasks import TASKS

    for name in _TASKS.value:
        if name not in TASKS:
            raise ValueError(f"--tasks={name}: there is no such task; there are {', '.join(TASKS)}")
    if _SHOTS.value and not any(TASKS[name].takes_shots for name in _TASKS.value):
        takers = ", ".join(name for name, task in TASKS.items() if task.takes_shots)
        raise ValueError(f"--shots={_SHOTS.value}: examples stand before the prompts of {takers} alone")
    model, tokenizer, config = runs.open(_WORKDIR.value)
    scorer = Scorer(model, tokenizer, config["data"]["sequence_length"])
    results = {"workdir": _WORKDIR.value, **sizes(model, scorer.sequence_length), "tasks": {}}
    _print_sizes(results)
    if _PROMPTS.value:
        results["samples"] = _samples(scorer)
    for name in _TASKS.value:
        task = TASKS[name]
        options = _options(task, config["data"])
        documents = Documents(_reader(task, config["data"]), _LIMIT.value, options.shots)
        print(f"{name} ...", file=sys.stderr, flush=True)
        results["tasks"][name] = found = task.run(scorer, documents, options)
        if documents.skipped.counts:
            print(f"left out: {documents.skipped}", file=sys.stderr)
        _print_task(name, found)
    if _PICTURES.value and "bits_per_byte" in results["tasks"]:
        _draw(Path(_PICTURES.value), results["tasks"]["bits_per_byte"], scorer)
    if _HTML.value:
        _write_page(Path(_HTML.value), scorer, _reader(TASKS["bits_per_byte"], config["data"]))
    return results


def _reader(task, section):
    """A function of a `Skipped` that gives the documents of a task: those of --source and --path, else of its own
    source, else of the run. Says what the law says of them."""
    from mixkabrn_jax.data import sources

    if not (_PATH.value or _SOURCE.value or task.source or task.read):
        config = _data_config(section)
        read, split = _of_run, _SPLIT.value or "validation"
    else:
        # What a task reads itself is of no source.
        source = "auto" if task.read else _SOURCE.value or task.source or "auto"
        path = task.path if task.path and not _SOURCE.value else _PATH.value
        changes = {"source": source, "path": path, "mixture": "", "validation_path": "", "text_column": ""}
        config = _data_config(section, include="", exclude="", **changes)
        read, split = task.read or sources.read, _SPLIT.value or task.split or None
    for _, component in config.components:
        if legal := sources.FAMILIES[component.family].legal:
            print(f"{component.family}: {legal}", file=sys.stderr)
    return lambda skipped: read(config, split, skipped)


def _of_run(config, split, skipped):
    """What a run of this config trained on, held out, or left alone as a test."""
    from mixkabrn_jax.data import sources
    from mixkabrn_jax.data.splitting import Split

    for _, component in config.components:
        if split == "test":  # which no run reads
            found = sources.read_splits(component, skipped, test=True)
            yield from (document for name, document in found if name == "test")
            continue
        parts = Split(component)
        yield from (document for name, document in parts if name == split)
        skipped.add(parts.skipped)


def _data_config(section, **changes):
    from mixkabrn_jax.data.config import DataConfig
    from mixkabrn_jax.runs.config import build

    return build(DataConfig, section | changes, "config.data", is_complete=False)


def _options(task, section):
    import itertools

    from mixkabrn_jax.data import sources
    from mixkabrn_jax.data.documents import Skipped
    from mixkabrn_jax.evaluation.tasks.options import Options

    shots = ()
    if _SHOTS.value and task.takes_shots:
        changes = {"path": _PATH.value, "mixture": "", "validation_path": ""}
        config = _data_config(section, source=_SOURCE.value or task.source, **changes)
        shots = tuple(itertools.islice(sources.read(config, "train", Skipped()), _SHOTS.value))
    return Options(
        shots=shots,
        max_tokens=_MAX_TOKENS.value,
        temperature=_TEMPERATURE.value,
        seed=_SEED.value,
        num_samples=_SAMPLES.value,
        allow_code=_ALLOW_CODE.value,
    )


def _samples(scorer):
    """Each prompt with what the model writes behind it, printed as well."""
    import os

    prompts = [os.fsencode(prompt) for prompt in _PROMPTS.value]
    how = {"temperature": _TEMPERATURE.value, "seed": _SEED.value}
    texts = [text.decode(errors="replace") for text in scorer.complete(prompts, _MAX_TOKENS.value or 100, **how)]
    for prompt, text in zip(_PROMPTS.value, texts, strict=True):
        print(f"\n> {prompt}{text}")
    return [{"prompt": prompt, "text": text} for prompt, text in zip(_PROMPTS.value, texts, strict=True)]


def _print_sizes(results):
    parameters, stored = results["parameters"], results["parameter_bytes"]
    counts = ", ".join(f"{count:,} {kind}" for kind, count in parameters.items())
    print(f"parameters: {counts}; {stored['stored']:,} bytes, {stored['packed']:,} with packed codes")
    print(f"state: {results['state_bytes']:,} bytes")


def _print_task(name, found):
    print(f"\n{name}")
    rows = {domain or "(no domain)": figures for domain, figures in found.get("domains", {}).items()}
    if len(rows) > 1 or "bits_per_byte" in found:
        rows = {**(rows if len(rows) > 1 else {}), "overall": found}
        columns = ["bits_per_byte", "windowed_bits_per_byte", "bits_per_byte_with_end", "word_perplexity", "bytes", "n"]
        width = max(map(len, rows))
        print("  " + " " * width, *(f"{column:>{len(column)}}" for column in columns), sep="  ")
        for row, figures in rows.items():
            print(f"  {row:<{width}}", *(f"{_figure(figures[column]):>{len(column)}}" for column in columns), sep="  ")
    else:
        for metric, value in found.items():
            print(f"  {metric:<24} {_figure(value)}")


def _figure(value):
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if value < 1e5 else f"{value:.3e}"


def _draw(folder, found, scorer):
    from mixkabrn_jax.evaluation import pictures

    folder.mkdir(parents=True, exist_ok=True)
    pictures.bits_by_position(found["positions"], folder / "bits_by_position.png", both=scorer.carries)
    pictures.bits_by_domain(found["domains"], found["bits_per_byte"], folder / "bits_by_domain.png")
    print(f"pictures: {folder}/bits_by_position.png, bits_by_domain.png")


def _write_page(path, scorer, read):
    from mixkabrn_jax.data.documents import Skipped
    from mixkabrn_jax.evaluation import pictures

    pictures.text_in_colours(scorer.pieces(read(Skipped())), scorer.tokenizer, path)
    print(f"page: {path}")


if __name__ == "__main__":
    command_line.run(main)
