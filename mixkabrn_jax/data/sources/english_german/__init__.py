"""English sentences with their German translations, made by rule: parallel text in miniature that needs no download.

A synchronous grammar writes both sides at once: noun phrases in four cases, clauses whose verbs stand second, first or
last in German, separable verbs, numbers, times of day, dates and prices in words. One English sentence has one
translation, and no other sentence has the same.

A pair is a function of its split and number alone. The hash of the English sentence decides which split it may be in,
so no two splits share one. An eighth of all pairs of an adjective and its noun, and of a verb and its object, stand in
no sentence for training: what has such a pair is of the domain "new", where the words are known and not their company.
"""

import hashlib
from typing import NamedTuple

from mixkabrn_jax.data.sources.english_german import sentences
from mixkabrn_jax.data.sources.synthetic import Draws, split_of_prompt

LANGUAGES = ("en", "de")
NUM_PAIRS = {"train": 30_000, "validation": 500, "test": 1_000}
"""By split."""
NEW = "new"


class Pair(NamedTuple):
    """A sentence and its translation."""

    domain: str
    """One of `sentences.KINDS`, or `NEW`."""
    english: str
    german: str


def pair(split: str, number: int) -> Pair:
    """The pair of a number from 0 in a split."""
    attempt = 0
    while True:
        domain, sentence = sentences.draw(Draws(f"en-de/{split}/{number}/{attempt}"))
        is_new = any(map(_is_held_out, sentence.pairs))
        if split_of_prompt(sentence.english) == split and not (is_new and split == "train"):
            return Pair(NEW if is_new else domain, sentence.english, sentence.german)
        attempt += 1


def _is_held_out(words):
    return hashlib.sha256(words.encode()).digest()[0] % 8 == 0
