"""Whole sentences: a table of kinds, each of which draws one in both languages."""

from collections.abc import Callable
from typing import NamedTuple

from mixkabrn_jax.data.sources.english_german import clauses, measures, phrases
from mixkabrn_jax.data.sources.english_german.clauses import AUXILIARIES, BE, Adverbial
from mixkabrn_jax.data.sources.english_german.lexicon import ADJECTIVES, ANYTHING, EVENTS, LIVING, PERSONS, THINGS
from mixkabrn_jax.data.sources.english_german.phrases import ACCUSATIVE, NOMINATIVE, PRONOUNS
from mixkabrn_jax.data.sources.synthetic import Draws


class Sentence(NamedTuple):
    """A sentence in both languages."""

    english: str
    german: str
    pairs: tuple[str, ...] = ()
    """Those of words that may be held out."""


_MATRIX = (
    ("think", "thinks", "that", ("glaube", "glaubt", "glauben"), "dass"),
    ("know", "knows", "that", ("weiß", "weiß", "wissen"), "dass"),
    ("say", "says", "that", ("sage", "sagt", "sagen"), "dass"),
    ("hope", "hopes", "that", ("hoffe", "hofft", "hoffen"), "dass"),
    ("ask", "asks", "whether", ("frage", "fragt", "fragen"), "ob"),
)
_CONJUNCTIONS = (("because", "weil"), ("although", "obwohl"))
_PARTS_OF_DAY = (("morning", "morgens"), ("afternoon", "nachmittags"), ("evening", "abends"))
_WAS = (("was", "wurde"), ("was", "wurde"), ("were", "wurden"))


def main_clause(draws: Draws) -> Sentence:
    """A statement, a question, or what somebody or something is like."""
    if not draws.below(5):
        subject, english, german, pairs = _quality(draws)
        return _sentence(f"{subject.english} {english}", f"{subject.german[NOMINATIVE]} {german}", pairs)
    clause = clauses.draw(draws)
    if not draws.below(5):
        return _sentence(clause.english("question"), clause.german("question"), clause.pairs, "?")
    order = "fronted" if clause.time and draws.below(2) else "main"
    return _sentence(clause.english(order), clause.german(order), clause.pairs)


def _quality(draws, subject=None):
    """(somebody or something, is young, ist jung, pairs of words)."""
    if subject is None:
        subject = phrases.draw(draws, ANYTHING)
    adjective = draws.choose(ADJECTIVES[subject.noun.kind])
    pairs = (*subject.pairs, f"{adjective.english} {subject.noun.english}")
    german = f"{AUXILIARIES['sein'][subject.person]} {adjective.german}"
    return subject, f"{BE[subject.person]} {adjective.english}", german, pairs


def two_clauses(draws: Draws) -> Sentence:
    """A main clause with a subordinate one, which may stand first."""
    english, german = draws.choose(_CONJUNCTIONS)
    main, other = clauses.draw(draws), clauses.draw(draws)
    pairs = main.pairs + other.pairs
    if draws.below(2):
        english = f"{english} {other.english()}, {main.english()}"
        return _sentence(english, f"{german} {other.german('final')}, {main.german('inverted')}", pairs)
    return _sentence(
        f"{main.english()} {english} {other.english()}", f"{main.german()}, {german} {other.german('final')}", pairs
    )


def thought(draws: Draws) -> Sentence:
    """What somebody thinks, says or asks."""
    base, third, english, verbs, german = draws.choose(_MATRIX)
    subject = draws.choose(PRONOUNS) if draws.below(2) else phrases.draw(draws, PERSONS, phrases.KNOWN)
    clause = clauses.draw(draws)
    finite = third if subject.person == 1 else base
    return _sentence(
        f"{subject.english} {finite} {english} {clause.english()}",
        f"{subject.german[NOMINATIVE]} {verbs[subject.person]}, {german} {clause.german('final')}",
        subject.pairs + clause.pairs,
    )


def relative_clause(draws: Draws) -> Sentence:
    """What somebody or something is like, of whom a clause tells more."""
    if draws.below(2):
        subject = phrases.draw(draws, LIVING, phrases.KNOWN)
        clause = clauses.draw(draws, phrases.relative_pronoun(subject, NOMINATIVE))
        english, german, pairs = clause.english(), clause.german("final"), clause.pairs
    else:
        clause = clauses.draw(draws, cases=ACCUSATIVE)
        subject = phrases.draw(draws, clauses.TAKEN[clause.verb.takes], phrases.KNOWN)
        pronoun = phrases.relative_pronoun(subject, ACCUSATIVE)
        pairs = clause._replace(objects=(subject,)).pairs
        clause = clause._replace(objects=())
        english = f"{pronoun.english} {clause.english()}"
        german = f"{pronoun.german[ACCUSATIVE]} {clause.german('final')}"
    _, is_so, ist_so, more = _quality(draws, subject)
    return _sentence(
        f"{subject.english} {english} {is_so}", f"{subject.german[NOMINATIVE]}, {german}, {ist_so}", pairs + more
    )


def number(draws: Draws) -> Sentence:
    """A number alone, of things in a place, or of somebody's years."""
    # Small ones are as likely as large ones. Before a noun it is "ein" that numbers with a one at their end have.
    found = draws.below(10 ** (1 + draws.below(4)))
    kind = draws.below(3)
    if kind and (found < 2 or found % 100 == 1):
        found += 2
    if kind == 0:
        return Sentence(measures.english_number(found), measures.german_number(found))
    if kind == 1:
        thing, place = draws.choose(THINGS), clauses.where(draws)
        counted = phrases.inflected(thing, "p", ACCUSATIVE)
        return _sentence(
            f"there are {measures.english_number(found)} {thing.english_plural} {place.english}",
            f"{place.german} gibt es {measures.german_number(found)} {counted}",
            place.pairs,
        )
    found = 2 + found % 98
    subject = phrases.draw(draws, PERSONS, phrases.KNOWN, is_plural=False)
    return _sentence(
        f"{subject.english} is {measures.english_number(found)} years old",
        f"{subject.german[NOMINATIVE]} ist {measures.german_number(found)} Jahre alt",
        subject.pairs,
    )


def time(draws: Draws) -> Sentence:
    """What time it is, when an event begins or ends, or when somebody does something."""
    clock = 1 + draws.below(12), 5 * draws.below(12)
    english, german = measures.english_time(*clock), measures.german_time(*clock)
    kind = draws.below(3)
    if kind == 0:
        return _sentence(f"it is {english}", f"es ist {german}")
    if kind == 1:
        clause = clauses.draw(draws, cases="")._replace(place=Adverbial(f"at {english}", f"um {german}"))
        return _sentence(clause.english(), clause.german(), clause.pairs)
    event, ereignis = _event(draws)
    day = draws.below(3)
    if day == 0:
        return _sentence(f"{event} at {english}", f"{ereignis} um {german}")
    if day == 1:
        weekday, tag = _of_both(draws, measures.WEEKDAYS)
        return _sentence(f"{event} on {weekday} at {english}", f"{ereignis} am {tag} um {german}")
    part, tageszeit = draws.choose(_PARTS_OF_DAY)
    return _sentence(f"{event} at {english} in the {part}", f"{ereignis} {tageszeit} um {german}")


def date(draws: Draws) -> Sentence:
    """Which day it is, when an event begins or ends, or when somebody was born."""
    month, monat = _of_both(draws, measures.MONTHS)
    day = 1 + draws.below(28 if month == "February" else 30)
    english, german = f"the {measures.english_ordinal(day)} of {month}", measures.german_ordinal(day)
    weekday, tag = _of_both(draws, measures.WEEKDAYS)
    kind = draws.below(4)
    if kind == 0:
        return _sentence(f"today is {weekday}, {english}", f"heute ist {tag}, der {german}e {monat}")
    if kind == 1:
        year = 1900 + draws.below(120)
        subject = draws.choose(PRONOUNS) if draws.below(2) else phrases.draw(draws, PERSONS, phrases.KNOWN)
        was, wurde = _WAS[subject.person]
        return _sentence(
            f"{subject.english} {was} born on {english} {year}",
            f"{subject.german[NOMINATIVE]} {wurde} am {german}en {monat} {year} geboren",
            subject.pairs,
        )
    event, ereignis = _event(draws)
    if kind == 2:
        return _sentence(f"{event} on {english}", f"{ereignis} am {german}en {monat}")
    return _sentence(f"{event} on {weekday}, {english}", f"{ereignis} am {tag}, dem {german}en {monat}")


def _event(draws):
    """(the concert begins, das Konzert beginnt)."""
    event = phrases.noun_phrase(draws.choose(phrases.KNOWN[0]), None, draws.choose(EVENTS))
    verb, verb_german = draws.choose((("begins", "beginnt"), ("ends", "endet")))
    return f"{event.english} {verb}", f"{event.german[NOMINATIVE]} {verb_german}"


def _of_both(draws, names):
    """One in both languages."""
    return draws.choose(list(zip(*names, strict=True)))


def price(draws: Draws) -> Sentence:
    """What something costs, or what somebody paid for it."""
    euros, cents = 2 + draws.below(10 ** (1 + draws.below(2))), 5 * draws.below(20)
    english, german = f"{measures.english_number(euros)} euros", f"{measures.german_number(euros)} Euro"
    if cents:
        english, german = (
            f"{english} and {measures.english_number(cents)} cents",
            f"{german} und {measures.german_number(cents)} Cent",
        )
    thing = phrases.draw(draws, THINGS, phrases.KNOWN)
    if draws.below(2):
        costs, kostet = ("cost", "kosten") if thing.person == 2 else ("costs", "kostet")
        return _sentence(
            f"{thing.english} {costs} {english}", f"{thing.german[NOMINATIVE]} {kostet} {german}", thing.pairs
        )
    subject = draws.choose(PRONOUNS) if draws.below(2) else phrases.draw(draws, PERSONS, phrases.KNOWN)
    hat = AUXILIARIES["haben"][subject.person]
    return _sentence(
        f"{subject.english} paid {english} for {thing.english}",
        f"{subject.german[NOMINATIVE]} {hat} {german} für {thing.german[ACCUSATIVE]} bezahlt",
        subject.pairs + thing.pairs,
    )


def _sentence(english, german, pairs=(), end="."):
    """With a capital letter and a full stop."""
    return Sentence(*(text[0].upper() + text[1:] + end for text in (english, german)), pairs)


KINDS: dict[str, tuple[Callable[[Draws], Sentence], ...]] = {
    "sentences": (main_clause,) * 3,
    "clauses": (two_clauses, thought, relative_clause),
    "numbers": (number,),
    "times": (time,),
    "dates": (date,),
    "prices": (price,),
}
"""By domain; each function is as likely as another."""
_CHOICES = [(name, make) for name, makes in KINDS.items() for make in makes]


def draw(draws: Draws) -> tuple[str, Sentence]:
    """(domain, sentence)."""
    name, make = draws.choose(_CHOICES)
    return name, make(draws)
