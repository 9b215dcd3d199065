"""Translates line by line: python -m experiments.translate --workdir=runs/translation --direction=en-de < english.txt

The lines are those of --text, of a file, --path=english.txt, or of the standard input. With --score those that the run
held out are translated, and chrF and BLEU with their intervals are printed beside those of the source text as it is;
the last line is the same in JSON.
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from experiments import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a run on parallel text, or the file of a model")
_DIRECTION = flags.DEFINE_string("direction", None, "from which language to which, as in config.data.directions")
_TEXT = flags.DEFINE_multi_string("text", None, "a line to translate, may be repeated")
_PATH = flags.DEFINE_string("path", None, "file of lines to translate; without, standard input is read")
_BEAMS = flags.DEFINE_integer("beams", 1, "width of the search; 1 takes the most likely token each time", lower_bound=1)
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 128, "tokens of a translation at most", lower_bound=1)
_SCORE = flags.DEFINE_bool("score", False, "translate what the run held out, and say how near it comes")
_SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "of --score")
_LIMIT = flags.DEFINE_integer("limit", 1000, "of --score: the first so many sentences; 0 for all", lower_bound=0)
command_line.require("workdir", "runs/translation")
command_line.require("direction", "en-de")

_LINES = 256
"""That are translated together, where they do not come from a keyboard."""


def main():
    with command_line.user_errors():
        _check_flags()
        held_out = _held_out() if _SCORE.value else None
        translate = _translator()
        if held_out:
            _print_score(held_out, translate)
            return
        for lines in _batches():
            for text in translate(lines):
                print(text, flush=True)


def _check_flags():
    """Raises: ValueError for flags that do not go together."""
    given = [flag.name for flag in (_TEXT, _PATH, _SCORE) if flag.value]
    if len(given) > 1:
        raise ValueError(f"--{given[0]} and --{given[1]}: give one of them")
    for flag in (_SPLIT, _LIMIT):
        if flag.present and not _SCORE.value:
            raise ValueError(f"--{flag.name}={flag.value} is of --score alone")
    if _PATH.value is not None and not Path(_PATH.value).is_file():
        raise FileNotFoundError(f"--path={_PATH.value}: there is no such file")


def _batches() -> Iterator[list[str]]:
    """Lines to be translated, as many at a time as are to wait for each other."""
    if _TEXT.value:
        yield _TEXT.value
        return
    size = 1 if _PATH.value is None and sys.stdin.isatty() else _LINES
    with open(
        _PATH.value or sys.stdin.fileno(), encoding="utf-8-sig", errors="replace", closefd=bool(_PATH.value)
    ) as lines:
        while batch := list(itertools.islice(lines, size)):
            yield batch


def _translator():
    """A function from lines to their translations, a line each; of a blank one a blank one.

    Raises: ValueError for a direction that the run did not learn; as `runs.open`.
    """
    from mixkabrn_jax import runs
    from mixkabrn_jax.data.config import DataConfig
    from mixkabrn_jax.data.sources.parallel import prompt
    from mixkabrn_jax.inference import completion
    from mixkabrn_jax.inference.sampling import Sampling
    from mixkabrn_jax.runs.config import build

    model, tokenizer, config = runs.open(_WORKDIR.value)
    parts = build(DataConfig, config["data"], "config.data", is_complete=False).components
    learnt = [part.directions for _, part in parts if part.family == "parallel"]
    if _DIRECTION.value not in ",".join(learnt).split(","):
        raise ValueError(f"--direction={_DIRECTION.value}: the run has learnt {', '.join(learnt) or 'no translation'}")

    def translate(lines):
        prompts = [prompt(_DIRECTION.value, line).encode() for line in lines if line.strip()]
        how = {"max_tokens": _MAX_TOKENS.value}
        if _BEAMS.value > 1:
            found = completion.search(model, tokenizer, prompts, num_beams=_BEAMS.value, **how)
        else:
            greedy = {"sampling": Sampling(0.0), "seeds": [0] * len(prompts)}
            found = completion.complete(model, tokenizer, prompts, **greedy, **how)
        texts = (" ".join(text.decode(errors="replace").splitlines()) for text in found)
        return [next(texts) if line.strip() else "" for line in lines]

    return translate


def _held_out():
    """[(document, source text)] of what is to be scored.

    Raises: ValueError where there is nothing; ImportError without sacrebleu; as `documents.reader`.
    """
    from experiments.evaluating.documents import Wanted, read_run, reader
    from mixkabrn_jax.data.documents import Skipped
    from mixkabrn_jax.data.sources.parallel import source_text
    from mixkabrn_jax.evaluation import translation
    from mixkabrn_jax.evaluation.tasks import TASKS

    translation.require_sacrebleu()
    read = reader(TASKS["bits_per_byte"], read_run(Path(_WORKDIR.value)), Wanted("", "", _SPLIT.value, {}))
    asked = ((document, source_text(document, _DIRECTION.value)) for document in read(Skipped()))
    found = list(itertools.islice((pair for pair in asked if pair[1] is not None), _LIMIT.value or None))
    if not found:
        raise ValueError(f"--direction={_DIRECTION.value}: nothing of --split={_SPLIT.value} is to be translated so")
    return found


def _print_score(held_out, translate):
    from experiments.evaluating import table
    from mixkabrn_jax.evaluation.translation import Translated, score

    written = translate([source for _, source in held_out])
    translated = [
        Translated(document.domain, source, document.target.decode(errors="replace"), hypothesis)
        for (document, source), hypothesis in zip(held_out, written, strict=True)
    ]
    found = score(translated)
    table.print_task(f"{_DIRECTION.value}, {_SPLIT.value}", found, "overall")
    print(table.line({"direction": _DIRECTION.value, "split": _SPLIT.value, "beams": _BEAMS.value, **found}))


if __name__ == "__main__":
    command_line.run(main)
