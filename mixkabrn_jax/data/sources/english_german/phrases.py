"""Noun phrases in both languages, the German one in its four cases."""

from collections.abc import Sequence
from typing import NamedTuple

from mixkabrn_jax.data.sources.english_german.lexicon import ADJECTIVES, PERSONS, Adjective, Noun
from mixkabrn_jax.data.sources.synthetic import Draws

NOMINATIVE, ACCUSATIVE, DATIVE, GENITIVE = CASES = "nadg"
_COLUMNS = "mfnp"
"""Of the tables: masculine, feminine, neuter, plural."""
_DEFINITE = {
    "n": ("der", "die", "das", "die"),
    "a": ("den", "die", "das", "die"),
    "d": ("dem", "der", "dem", "den"),
    "g": ("des", "der", "des", "der"),
}
_STRONG = {
    "n": ("er", "e", "es", "e"),
    "a": ("en", "e", "es", "e"),
    "d": ("em", "er", "em", "en"),
    "g": ("es", "er", "es", "er"),
}
"""Endings of dieser and jeder, and of adjectives behind a word that has none."""
_BARE = (("m", NOMINATIVE), ("n", NOMINATIVE), ("n", ACCUSATIVE))
"""Where ein and mein have no ending."""
_RELATIVE = _DEFINITE | {"d": ("dem", "der", "dem", "denen")}


class Determiner(NamedTuple):
    """What begins a noun phrase."""

    english: str
    german: str
    """Without its ending."""
    declension: str
    """definite, strong (dieser), mixed (ein) or none (drei)."""


def _determiners(declension, table):
    return [Determiner(*line.split(), declension) for line in table.strip().splitlines()]


_THE = Determiner("the", "", "definite")
_POSSESSIVE = _determiners("mixed", "my mein\nhis sein\nher ihr\nour unser")
_NO = Determiner("no", "kein", "mixed")
_ONE = [*[Determiner("a", "ein", "mixed")] * 4, Determiner("every", "jed", "strong")]
_NUMBERS = _determiners("none", "two zwei\nthree drei\nfour vier\nten zehn")
# Determiners of one and of several.
KNOWN = tuple([*[_THE] * 3, Determiner(this, "dies", "strong"), *_POSSESSIVE] for this in ("this", "these"))
"""What is known already."""
ANY = KNOWN[0] + _ONE, KNOWN[1] + _NUMBERS
ANY_OR_NONE = [*ANY[0], _NO], [*ANY[1], _NO]


class Phrase(NamedTuple):
    """A noun phrase, or a pronoun."""

    english: str
    german: dict[str, str]
    """By case."""
    person: int
    """Of the verb: 0 as for I, 1 as for he, 2 as for we and they."""
    column: str = ""
    """Of the tables, by which a relative pronoun agrees."""
    noun: Noun | None = None
    """None of a pronoun."""
    pairs: tuple[str, ...] = ()
    """Those of words that may be held out."""


def _pronoun(english, german, person):
    return Phrase(english, {NOMINATIVE: german}, person)


PRONOUNS = [
    _pronoun("I", "ich", 0),
    _pronoun("he", "er", 1),
    _pronoun("she", "sie", 1),
    _pronoun("we", "wir", 2),
    _pronoun("they", "sie", 2),
]


def inflected(noun: Noun, column: str, case: str) -> str:
    """The German noun."""
    if column == "p":
        return noun.german_plural + "n" * (case == DATIVE and noun.german_plural[-1] not in "ns")
    if case != GENITIVE or column == "f":
        return noun.german
    return noun.german + ("s" if noun.german.endswith(("er", "el", "en", "ig", "um", "o")) else "es")


def noun_phrase(determiner: Determiner, adjective: Adjective | None, noun: Noun, *, is_plural: bool = False) -> Phrase:
    """The phrase of these words."""
    column = "p" if is_plural else noun.gender
    words = [adjective.english] if adjective else []
    words.append(noun.english_plural if is_plural else noun.english)
    article = "an" if determiner.english == "a" and words[0][0] in "aeiou" else determiner.english
    german = {}
    for case in CASES:
        beginning, ending = _determined(determiner, column, case)
        german[case] = " ".join(
            [beginning, *([adjective.stem + ending] if adjective else []), inflected(noun, column, case)]
        )
    pairs = (f"{adjective.english} {noun.english}",) if adjective else ()
    return Phrase(" ".join([article, *words]), german, 2 if is_plural else 1, column, noun, pairs)


def _determined(determiner, column, case):
    """(a determiner with its ending, the ending of an adjective behind it)."""
    place = _COLUMNS.index(column)
    strong = _STRONG[case][place]
    # Each gender and case is told once: by the determiner where it has an ending, else by the adjective.
    weak = "e" if case in "na" and column != "p" and not (case == ACCUSATIVE and column == "m") else "en"
    if determiner.declension == "definite":
        return _DEFINITE[case][place], weak
    if determiner.declension == "none":
        return determiner.german, strong
    if determiner.declension == "mixed" and (column, case) in _BARE:
        return determiner.german, strong
    return determiner.german + strong, weak


def relative_pronoun(phrase: Phrase, case: str) -> Phrase:
    """Who, that: what a clause about a phrase begins with."""
    german = {each: forms[_COLUMNS.index(phrase.column)] for each, forms in _RELATIVE.items()}
    return Phrase("who" if phrase.noun.kind == "person" and case == NOMINATIVE else "that", german, phrase.person)


def draw(draws: Draws, nouns: Sequence[Noun], determiners=ANY, *, is_plural: bool | None = None) -> Phrase:
    """A noun phrase, perhaps with an adjective, and perhaps with its owner.

    Args:
        determiners: of one and of several: `KNOWN`, `ANY`, `ANY_OR_NONE`.
        is_plural: None draws it.
    """
    noun = draws.choose(nouns)
    if is_plural is None:
        is_plural = not draws.below(3)
    determiner = draws.choose(determiners[is_plural])
    adjective = draws.choose(ADJECTIVES[noun.kind]) if draws.below(2) else None
    phrase = noun_phrase(determiner, adjective, noun, is_plural=is_plural)
    if determiner is not _THE or noun.kind == "person" or draws.below(3):
        return phrase
    owner = draw(draws, PERSONS, KNOWN, is_plural=False)
    german = {case: f"{text} {owner.german[GENITIVE]}" for case, text in phrase.german.items()}
    return phrase._replace(
        english=f"{phrase.english} of {owner.english}", german=german, pairs=phrase.pairs + owner.pairs
    )
