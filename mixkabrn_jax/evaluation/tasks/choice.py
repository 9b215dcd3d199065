"""One of several continuations is right: the model chooses the one that it finds likeliest.

Three kinds of records are read, from JSON Lines or Parquet, and told apart by their fields (`items`):

    {"context": ..., "choices": [...], "answer": 2}       and the columns of published sets
    {"sentence_good": ..., "sentence_bad": ...}           a minimal pair, as in BLiMP
    {"text": ...}                                         the last word of a text is wanted, as in LAMBADA
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from mixkabrn_jax.data import records, sources
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.data.sources.family import Family
from mixkabrn_jax.evaluation.score import Likelihood, Scorer
from mixkabrn_jax.evaluation.tasks.items import Item, of_record
from mixkabrn_jax.evaluation.tasks.options import Options, with_domains


def read(config: DataConfig, split: str | None, skipped: Skipped) -> Iterator[Item]:
    """The items of `config.path`, of a split or of all, found as those of any source; what is none is damage.

    Raises: ValueError without a path; else as `sources.read`.
    """
    if not config.path:
        raise ValueError("--tasks=choice needs --path=FILE: JSON Lines or Parquet with choices, minimal pairs or texts")
    yield from sources.read(config, split, skipped, _FAMILY)


def _items(file, config, skipped):
    del config
    for place, record in records.read(file, skipped):
        item = of_record(record, place, file.folder)
        if isinstance(item, Item):
            yield item
        else:
            skipped.damaged(item, place)


_FAMILY = Family(
    _items,
    layout="JSON Lines or Parquet of choices, of minimal pairs, or of texts in a field `text` alone, no plain text",
)


def run(scorer: Scorer, documents: Iterable[Item], options: Options) -> dict:
    """Of choices: `acc`, `acc_norm`, where nats are divided by the bytes of a choice, and `chance`, the `acc` of who
    guesses. A tie is not right.

    Of last words: `acc`, the share that greedy decoding would write, and `perplexity`, the exponential of the mean nats
    of a word. Always `acc_stderr`, the standard error of `acc`, which is NaN of one item, n, and `domains`, the same
    figures for each.

    Raises: ValueError where there is nothing to choose from, or items of both kinds.
    """
    sums: dict[str, Counter] = defaultdict(Counter)
    shots = b"".join(b"".join(shot.pairs()[shot.answer]) + b"\n\n" for shot in options.shots)
    stream = iter(documents)
    while batch := list(itertools.islice(stream, options.batch_size)):
        pairs = [(shots + context, text) for item in batch for context, text in item.pairs()]
        found = iter(scorer.loglikelihood(pairs))
        for item in batch:
            sums[item.domain].update(_judged(item, [next(found) for _ in item.choices]))
    if not sums:
        raise ValueError("choice: there are no items to choose in")
    if 0 < sum(own["last_words"] for own in sums.values()) < sum(own["n"] for own in sums.values()):
        raise ValueError("choice: last words and choices in one set")
    return with_domains(sums, _figures)


def _judged(item: Item, found: list[Likelihood]) -> dict[str, float]:
    """What an item adds to the sums."""
    if len(found) == 1:
        return {"n": 1, "last_words": 1, "right": found[0].is_greedy, "nats": found[0].nats}
    lengths = [len((item.ending or choice).encode(errors="replace")) for choice in item.choices]
    by_byte = [one.nats / length for one, length in zip(found, lengths, strict=True)]
    return {
        "n": 1,
        "right": _least([one.nats for one in found]) == item.answer,
        "right_norm": _least(by_byte) == item.answer,
        "chance": 1 / len(found),
    }


def _figures(sums: Counter) -> dict[str, float | int]:
    number, acc = sums["n"], sums["right"] / sums["n"]
    stderr = math.sqrt(acc * (1 - acc) / (number - 1)) if number > 1 else math.nan
    found = {"acc": acc, "acc_stderr": stderr}
    if sums["last_words"]:
        return {**found, "perplexity": math.exp(min(sums["nats"] / number, 709)), "n": number}
    return {**found, "acc_norm": sums["right_norm"] / number, "chance": sums["chance"] / number, "n": number}


def _least(values):
    """The index of the least; None of several that are as small: who cannot tell them apart has not chosen."""
    least = min(values)
    return values.index(least) if values.count(least) == 1 else None
