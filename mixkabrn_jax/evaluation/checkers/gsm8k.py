"""Whether a solution of a grade-school problem (GSM8K) ends with the right number."""

import re

from mixkabrn_jax.evaluation.checkers import math

_SIGNED = r"[-\u2212]?(?:\$\s?)?[-\u2212]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_MARKED = re.compile(rf"####\s*({_SIGNED})")
# A hyphen behind a digit, a letter or a bracket is a minus between two numbers or part of a word.
_ANY = re.compile(rf"(?<![\w)\].$]){_SIGNED}|\d[\d,]*(?:\.\d+)?")


def final_answer(text: str, *, flexible: bool = True) -> str | None:
    """The number behind the first `####` of a solution: what a model goes on with after that is not asked.

    Args:
        flexible: takes the last number of all where none is marked so.
    """
    if marked := _MARKED.search(text):
        return _plain(marked[1])
    numbers = _ANY.findall(text) if flexible else []
    return _plain(numbers[-1]) if numbers else None


def _plain(text):
    return re.sub(r"[\s$,]", "", text).replace("\u2212", "-").replace("--", "-")


def equivalent(answer: str | None, reference: str | None) -> bool:
    """Whether two numbers are equal: 18, 18.00 and 18.; what is no number is equal to nothing."""
    values = [math.number(_plain(text)) if text else None for text in (answer, reference)]
    return None not in values and values[0] == values[1]
