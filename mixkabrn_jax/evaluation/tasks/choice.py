"""One of several continuations is right: the model chooses the one that it finds likeliest.

Three kinds of records are read, from JSON Lines or Parquet, and told apart by their fields:

    {"context": ..., "choices": [...], "answer": 2}       also question, ctx; endings; label, gold; "C"
    {"sentence_good": ..., "sentence_bad": ...}           a minimal pair, as in BLiMP
    {"text": ...}                                         the last word of a text is wanted, as in LAMBADA
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mixkabrn_jax.data import records, sources
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.data.files import Patterns, walk
from mixkabrn_jax.data.sources.family import is_named, split_of
from mixkabrn_jax.evaluation.score import Scorer
from mixkabrn_jax.evaluation.tasks.options import Options

_CONTEXTS = ("context", "question", "ctx", "query", "prompt")
_CHOICES = ("choices", "endings", "options")
_ANSWERS = ("answer", "label", "gold", "answerKey")


@dataclass(frozen=True)
class Item:
    """A context and its continuations."""

    context: str
    choices: tuple[str, ...]
    """Of a last word that is wanted, it alone."""
    answer: int
    """The index of the right one."""
    domain: str
    id: str

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """Contexts and continuations to be scored: a space stands before a continuation that has none, except at the
        start of a text."""
        needs_space = self.context and not self.context[-1].isspace()
        return [
            (
                self.context.encode(errors="replace"),
                (" " * bool(needs_space and not choice[:1].isspace()) + choice).encode(errors="replace"),
            )
            for choice in self.choices
        ]


def read(config: DataConfig, split: str | None, skipped: Skipped) -> Iterator[Item]:
    """The items of `config.path`, of a split or of all; what is none is damage.

    Raises: ValueError without a path; FileNotFoundError; AbsentSplitError where no file is of the split.
    """
    if not config.path:
        raise ValueError("--tasks=choice needs --path=FILE: JSON Lines or Parquet with choices, minimal pairs or texts")
    splits = set()
    for file in walk(sources.root(config), skipped, Patterns(config.include, config.exclude)):
        own = split_of(file.name) or (split if is_named(file, config) else None)
        splits.add(own)
        if split is None or own == split:
            for place, record in records.read(file, skipped):
                item = of_record(record, place, file.folder)
                if isinstance(item, Item):
                    yield item
                else:
                    skipped.damaged(item, place)
    if split is not None and split not in splits:
        others = ", ".join(sorted(splits - {None})) or "none"
        raise sources.AbsentSplitError(
            f"config.data.path={config.path!r}: no files of the split {split!r}, only of {others}"
        )


def of_record(record: dict, place: str, domain: str) -> Item | str:
    """The item that a record holds, or why it holds none."""
    pair = record.get("sentence_good"), record.get("sentence_bad")
    if all(isinstance(sentence, str) for sentence in pair):
        return Item("", pair, 0, str(record.get("linguistics_term") or domain), place)
    choices = _first(record, _CHOICES)
    if choices is None:
        return _last_word(record.get("text"), place, domain)
    labels = None
    if isinstance(choices, dict):  # {"text": [...], "label": ["A", "B", ...]}
        choices, labels = choices.get("text"), choices.get("label")
    is_list = isinstance(choices, list) and all(isinstance(choice, str) and choice for choice in choices)
    if not is_list or len(choices) < 2:
        return "no list of two choices or more"
    context = _first(record, _CONTEXTS)
    if not isinstance(context, str):
        return "no context (any of " + ", ".join(_CONTEXTS) + ")"
    answer = _index(_first(record, _ANSWERS), labels, len(choices))
    if answer is None:
        return "no answer among the choices"
    return Item(context, tuple(choices), answer, domain, place)


def run(scorer: Scorer, documents: Iterable[Item], options: Options) -> dict[str, float | int]:
    """Of choices: `acc`, and `acc_norm`, where nats are divided by the bytes of a choice. A tie is not right.

    Of last words: `acc`, the share that greedy decoding would write, and `perplexity`, the exponential of the mean nats
    of a word. Always n.

    Raises: ValueError where there is nothing to choose from, or items of both kinds.
    """
    right = right_norm = number = 0
    nats, kinds = [], set()
    stream = iter(documents)
    while batch := list(itertools.islice(stream, options.batch_size)):
        pairs = [item.pairs() for item in batch]
        found = iter(scorer.loglikelihood(list(itertools.chain(*pairs))))
        for item in batch:
            own = [next(found) for _ in item.choices]
            kinds.add(len(own) == 1)
            if len(own) == 1:
                right += own[0].is_greedy
                nats.append(own[0].nats)
                continue
            lengths = [len(choice.encode(errors="replace")) for choice in item.choices]
            right += _least([one.nats for one in own]) == item.answer
            right_norm += _least([one.nats / length for one, length in zip(own, lengths, strict=True)]) == item.answer
        number += len(batch)
    if len(kinds) != 1:
        raise ValueError(
            "choice: " + ("last words and choices in one set" if kinds else "there are no items to choose in")
        )
    if nats:
        return {"acc": right / number, "perplexity": math.exp(min(math.fsum(nats) / number, 709)), "n": number}
    return {"acc": right / number, "acc_norm": right_norm / number, "n": number}


def _last_word(text, place, domain):
    words = text.rstrip().rsplit(None, 1) if isinstance(text, str) else []
    if len(words) < 2:
        return "neither choices, nor a minimal pair, nor a text of two words"
    return Item(words[0], (words[1],), 0, domain, place)


def _first(record, names):
    return next((record[name] for name in names if record.get(name) is not None), None)


def _index(answer, labels, number):
    """The index that an answer means: itself, its place among labels, a digit from 0, or a letter from A; or None."""
    if isinstance(labels, list) and answer in labels:
        return labels.index(answer)
    if isinstance(answer, str) and answer.strip().isdecimal():
        answer = int(answer)
    if isinstance(answer, str) and len(answer.strip()) == 1:
        answer = ord(answer.strip().upper()) - ord("A")
    is_index = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < number
    return answer if is_index else None


def _least(values):
    """The index of the least; None of several that are as small: who cannot tell them apart has not chosen."""
    least = min(values)
    return values.index(least) if values.count(least) == 1 else None
