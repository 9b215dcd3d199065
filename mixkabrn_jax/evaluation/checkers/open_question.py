"""Whether an answer to an open question is one of those that count, as SQuAD, TriviaQA and NQ-open decide it."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable

_ARTICLES = {"a", "an", "the"}


def words(text: str) -> list[str]:
    """The words that are compared: lower case, without punctuation and articles, whichever way Unicode writes them."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(sign for sign in text if sign not in string.punctuation and unicodedata.category(sign)[0] != "P")
    found = re.split(r"\s+", unicodedata.normalize("NFKC", text).strip())
    # Of "The The" something has to be left.
    return [word for word in found if word not in _ARTICLES and word] or [word for word in found if word]


def exact_match(answer: str, aliases: Iterable[str]) -> bool:
    """Whether an answer has the words of any alias, in their order. No words are no answer."""
    found = words(answer)
    return bool(found) and any(found == words(alias) for alias in aliases)


def f1(answer: str, aliases: Iterable[str]) -> float:
    """What an answer and an alias share: the harmonic mean of precision and recall of words, of the best alias."""
    return max((_f1(words(answer), words(alias)) for alias in aliases), default=0.0)


def _f1(answer, alias):
    shared = sum((Counter(answer) & Counter(alias)).values())
    return 2 * shared / (len(answer) + len(alias)) if shared else 0.0
