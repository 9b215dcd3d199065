"""Clauses in both languages, whose parts German puts into another order in each kind of clause."""

from typing import NamedTuple

from mixkabrn_jax.data.sources.english_german import phrases
from mixkabrn_jax.data.sources.english_german.lexicon import ANYTHING, GOODS, LIVING, PERSONS, PLACES, VERBS, Verb
from mixkabrn_jax.data.sources.english_german.phrases import ACCUSATIVE, DATIVE, NOMINATIVE, PRONOUNS, Phrase
from mixkabrn_jax.data.sources.synthetic import Draws

AUXILIARIES = {
    "haben": ("habe", "hat", "haben"),
    "sein": ("bin", "ist", "sind"),
    "should": ("sollte", "sollte", "sollten"),
    "can": ("kann", "kann", "können"),
    "will": ("werde", "wird", "werden"),
}
"""By the person of the subject; the English ones are the same for all."""
TENSES = ("present", "present", "past", "past", "should", "can", "will")
BE = ("am", "is", "are")


class Adverbial(NamedTuple):
    """When, where or with whom."""

    english: str
    german: str
    pairs: tuple[str, ...] = ()


TIMES = {
    "present": [Adverbial("today", "heute"), Adverbial("now", "jetzt"), Adverbial("often", "oft")],
    "past": [Adverbial("yesterday", "gestern"), Adverbial("last week", "letzte Woche")],
    "future": [Adverbial("tomorrow", "morgen"), Adverbial("soon", "bald"), Adverbial("next year", "nächstes Jahr")],
}
"""By tense; the modal verbs have the last."""
TAKEN = {"anything": ANYTHING, "goods": GOODS}
"""By `Verb.takes`."""
_PREPOSITIONS = (("in", "in"), ("behind", "hinter"), ("in front of", "vor"), ("next to", "neben"))


class Clause(NamedTuple):
    """A subject, a verb and what it takes."""

    subject: Phrase
    verb: Verb
    tense: str
    """present, past (in German the perfect), or a modal verb: should, can, will."""
    objects: tuple[Phrase, ...] = ()
    """In the cases of the verb and their order."""
    time: Adverbial | None = None
    place: Adverbial | None = None

    @property
    def pairs(self) -> tuple[str, ...]:
        """Those of words that may be held out."""
        own = tuple(f"{self.verb.english} {thing.noun.english}" for thing in self.objects)
        return sum((part.pairs for part in (self.subject, *self.objects, *_some(self.place))), own)

    def english(self, order: str = "main") -> str:
        """The clause, in one of the orders of `german`; "final" and "inverted" are as "main" here."""
        if self.tense in ("present", "past"):
            helper = "did" if self.tense == "past" else "does" if self.subject.person == 1 else "do"
            third = self.verb.third if self.subject.person == 1 else self.verb.english
            finite = self.verb.past if self.tense == "past" else third
        else:
            helper, finite = self.tense, f"{self.tense} {self.verb.english}"
        begins = [self.subject.english, finite]
        if order == "question":
            begins = [helper, self.subject.english, self.verb.english]
        words = [*begins, *(thing.english for thing in self.objects), *(one.english for one in _some(self.place))]
        times = [one.english for one in _some(self.time)]
        return " ".join([*times, *words] if order == "fronted" else [*words, *times])

    def german(self, order: str = "main") -> str:
        """The clause with its finite verb second ("main"; "fronted", behind the time; "inverted", behind what comes
        before the clause), first ("question") or last ("final")."""
        finite, end, final = self._german_verb()
        subject, times = self.subject.german[NOMINATIVE], [one.german for one in _some(self.time)]
        things = [thing.german[case] for thing, case in zip(self.objects, self.verb.cases, strict=False)]
        rest = [*things, *(one.german for one in _some(self.place))]
        words = {
            "main": [subject, finite, *times, *rest, end],
            "fronted": [*times, finite, subject, *rest, end],
            "inverted": [finite, subject, *times, *rest, end],
            "question": [finite, subject, *times, *rest, end],
            "final": [subject, *times, *rest, final],
        }[order]
        return " ".join(word for word in words if word)

    def _german_verb(self):
        """(its finite form, what stands at the end of a main clause, what stands at that of a subordinate one)."""
        verb, person = self.verb, self.subject.person
        if self.tense == "present":
            finite = (verb.german[:-2] + "e", verb.third_german, verb.german)[person]
            return finite, verb.prefix, verb.prefix + finite
        if self.tense == "past":
            finite, end = AUXILIARIES[verb.auxiliary][person], verb.participle
        else:
            finite, end = AUXILIARIES[self.tense][person], verb.prefix + verb.german
        return finite, end, f"{end} {finite}"


def _some(adverbial):
    return () if adverbial is None else (adverbial,)


def draw(draws: Draws, subject: Phrase | None = None, cases: str | None = None) -> Clause:
    """A clause about a subject, or about one that is drawn, with a verb whose objects have these cases, or any verb."""
    verb = draws.choose([verb for verb in VERBS if cases in (None, verb.cases)])
    if subject is None:
        subject = draws.choose(PRONOUNS) if not draws.below(3) else phrases.draw(draws, LIVING)
    objects = []
    if verb.cases[:1] == DATIVE:
        objects.append(phrases.draw(draws, LIVING, phrases.KNOWN))
    if verb.cases[-1:] == ACCUSATIVE:
        objects.append(phrases.draw(draws, TAKEN[verb.takes], phrases.ANY_OR_NONE))
    tense = draws.choose(TENSES)
    time = draws.choose(TIMES.get(tense, TIMES["future"])) if not draws.below(3) else None
    place = _place(draws) if not draws.below(4) else None
    return Clause(subject, verb, tense, tuple(objects), time, place)


def _place(draws):
    """In a place, for somebody or with somebody."""
    if draws.below(2):
        return where(draws)
    person = phrases.draw(draws, PERSONS, phrases.KNOWN)
    english, german, case = draws.choose((("with", "mit", DATIVE), ("for", "für", ACCUSATIVE)))
    return Adverbial(f"{english} {person.english}", f"{german} {person.german[case]}", person.pairs)


def where(draws: Draws) -> Adverbial:
    """In, behind, in front of or next to a place."""
    english, german = draws.choose(_PREPOSITIONS)
    place = phrases.draw(draws, PLACES, phrases.KNOWN, is_plural=False)
    found = f"{german} {place.german[DATIVE]}"
    found = found.replace("in dem ", "im ", 1) if german == "in" else found
    return Adverbial(f"{english} {place.english}", found, place.pairs)
