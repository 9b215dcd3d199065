"""Questions with one right answer, made by rule of the built-in corpus and of numbers: what a small model is tuned on.

`config.data.path` names their kinds, with commas between them; "" is all:

- `speaker`: "Who gave the address of 1862?" and "Abraham Lincoln", asked in eight ways;
- `year`: "When did Abraham Lincoln first address Congress?" and "1861", in eight ways;
- `century`: "In which century was this said: ...?", of a sentence of the addresses, and "19th";
- `word`: "Which word follows: The people of the United" and "States", of the beginning of a sentence;
- `arithmetic`: "What is 37+58?" and "95", as of the source synthetic.

A record is a function of its kind, split and number alone. The hash of a question decides which split it may be in, so
what is held out are questions: of `speaker` and `year` other ways to ask for facts that are taught.
"""

import functools
import re
from collections.abc import Callable, Iterator

from mixkabrn_jax.data import instructions
from mixkabrn_jax.data.config import SPLITS, DataConfig
from mixkabrn_jax.data.documents import Document, question
from mixkabrn_jax.data.sources import sotu, synthetic
from mixkabrn_jax.data.sources.family import Family
from mixkabrn_jax.data.sources.synthetic import Draws
from mixkabrn_jax.data.template import TEMPLATES

_OF_YEAR = (
    "Who gave the address of {}?",
    "Who addressed Congress in {}?",
    "Whose is the address of {}?",
    "Which president spoke in {}?",
    "In {}, who addressed Congress?",
    "Name the speaker of {}.",
    "The address of {} is by whom?",
    "Who spoke on the state of the Union in {}?",
)
_OF_NAME = (
    "When did {} first address Congress?",
    "In which year did {} first speak?",
    "Which year is the first address of {} from?",
    "What is the year of the first address of {}?",
    "{} first addressed Congress when?",
    "Name the year in which {} first spoke.",
    "When did Congress first hear {}?",
    "In what year was the first address of {}?",
)
_SENTENCE = re.compile(r"(?<=[.!?] )[A-Z][a-z]*(?:,? [A-Za-z]+){5,15}\.(?= [A-Z])")
_CENTURIES = ("18th", "19th", "20th", "21st")
_FEWEST_WORDS = 4
"""Of the beginning of a sentence."""


def speaker(draws: Draws) -> tuple[str, list[str]]:
    """(question, answers) about a year: any who spoke in it."""
    year = draws.choose(sorted(_speakers()))
    return draws.choose(_OF_YEAR).format(year), _speakers()[year]


def year(draws: Draws) -> tuple[str, list[str]]:
    """(question, answers) about a president."""
    name = draws.choose(sorted(_first_years()))
    return draws.choose(_OF_NAME).format(name), [_first_years()[name]]


def century(draws: Draws) -> tuple[str, list[str]]:
    """(question, answers) about a sentence; all centuries are as likely."""
    answer = draws.choose(_CENTURIES)
    return f"In which century was this said: {draws.choose(_sentences()[answer])}", [answer]


def word(draws: Draws) -> tuple[str, list[str]]:
    """(question, answers) about the beginning of a sentence."""
    words = draws.choose(_sentences()[draws.choose(_CENTURIES)]).rstrip(".").split()
    place = _FEWEST_WORDS + draws.below(len(words) - _FEWEST_WORDS)
    return f"Which word follows: {' '.join(words[:place])}", [words[place].rstrip(",")]


def arithmetic(draws: Draws) -> tuple[str, list[str]]:
    """(question, answers) about two numbers."""
    _, prompt, answer = synthetic.arithmetic(draws)
    return f"What is {prompt.removesuffix('=')}?", [answer]


TASKS: dict[str, Callable[[Draws], tuple[str, list[str]]]] = {
    function.__name__: function for function in (speaker, year, century, word, arithmetic)
}


@functools.cache
def _speakers():
    """{year: names}."""
    found: dict[int, list[str]] = {}
    for address in sotu.addresses():
        found.setdefault(address["year"], []).append(address["name"].replace("Mc ", "Mc"))
    return found


@functools.cache
def _first_years():
    """{name: year}."""
    return {name: str(year) for year, names in sorted(_speakers().items(), reverse=True) for name in names}


@functools.cache
def _sentences():
    """{century: sentences that more than one did not say}."""
    found: dict[str, dict[str, None]] = {name: {} for name in _CENTURIES}
    for address in sotu.addresses():
        found[_CENTURIES[(address["year"] - 1) // 100 - 17]].update(dict.fromkeys(_SENTENCE.findall(address["text"])))
    return {
        name: [one for one in own if not any(one in other for other in found.values() if other is not own)]
        for name, own in found.items()
    }


def record(name: str, split: str, number: int, template: str = "") -> Document:
    """The record of a kind, by its number from 0 in a split.

    Args:
        template: `config.data.template`.
    """
    attempt = 0
    while True:
        asked, answers = TASKS[name](Draws(f"quiz/{name}/{split}/{number}/{attempt}"))
        if synthetic.split_of_prompt(asked) == split:
            break
        attempt += 1
    about = name, f"{name}/{split}/{number}", tuple(answers)
    if template:
        return instructions.conversation([("user", asked), ("assistant", answers[0])], TEMPLATES[template], *about)
    return question(asked, answers[0], *about)


def documents(config: DataConfig, split: str | None) -> Iterator[Document]:
    """The records of a split, or of all, of the kinds that `config.data.path` names, one of each in turn.

    For training a question comes as often as it is drawn, elsewhere once.

    Raises: ValueError for an unknown kind.
    """
    names = [name.strip() for name in config.path.split(",") if name.strip()] or list(TASKS)
    for name in names:
        if name not in TASKS:
            raise ValueError(
                f"{name!r} is no kind of question: give some of {', '.join(TASKS)}, with commas between them"
            )
    for own in SPLITS if split is None else [split]:
        seen = set()
        for number in range(synthetic.NUM_RECORDS[own]):
            for name in dict.fromkeys(names):
                document = record(name, own, number, config.template)
                if own == "train" or document.prompt not in seen:
                    seen.add(document.prompt)
                    yield document


FAMILY = Family(
    built_in=documents, legal="made by this package of addresses in the public domain: Apache-2.0, as it is"
)
