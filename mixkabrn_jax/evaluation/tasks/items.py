"""Records of published sets as items: a context, its choices, and which of them is right.

A record is told by its fields; docs/metrics.md has the table. What cannot be read for sure is none, and says why.
"""

from collections.abc import Callable
from dataclasses import dataclass

_PASSAGES = ("context", "ctx", "passage", "article", "support")
_QUESTIONS = ("question", "question_stem", "query", "prompt", "goal")
_CHOICES = ("choices", "endings", "options")
_ANSWERS = ("answer", "label", "gold", "answerKey")
_DOMAINS = ("linguistics_term", "subject")  # of BLiMP and of MMLU


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
    ending: str = ""
    """What stands behind every choice, as in WinoGrande: then it alone is scored, behind context and choice."""

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """Contexts and continuations to be scored: a space stands before a continuation that has none, except at the
        start of a text."""
        if self.ending:
            pairs = [(self.context + choice, self.ending) for choice in self.choices]
        else:
            needs_space = self.context and not self.context[-1].isspace()
            pairs = [
                (self.context, " " * bool(needs_space and not choice[:1].isspace()) + choice) for choice in self.choices
            ]
        return [(context.encode(errors="replace"), text.encode(errors="replace")) for context, text in pairs]


def of_record(record: dict, place: str, domain: str) -> Item | str:
    """The item that a record holds, or why it holds none.

    Args:
        place: of the record, which becomes the item's id.
        domain: of its file; "" for the one that the record names, such as a subject of MMLU.
    """
    domain = domain or str(_first(record, _DOMAINS) or "")
    pair = record.get("sentence_good"), record.get("sentence_bad")
    if all(isinstance(sentence, str) for sentence in pair):
        return Item("", pair, 0, domain, place)
    try:
        return _choice(record, place, domain) or _last_word(record, place, domain)
    except _NoItemError as error:
        return str(error)


class _NoItemError(ValueError):
    """Why a record is no item."""


def _last_word(record, place, domain):
    """A text alone, as LAMBADA is published: beside a label, a URL or a title it is something else."""
    words = record["text"].rstrip().rsplit(None, 1) if isinstance(record.get("text"), str) else []
    if len(words) < 2:
        raise _NoItemError("neither choices, nor a minimal pair, nor a text of two words")
    if sum(value is not None for value in record.values()) > 1:
        raise _NoItemError("a text among other fields (last words are read, as in LAMBADA, from records of text alone)")
    return Item(words[0], (words[1],), 0, domain, place)


def _choice(record, place, domain):
    """None for a record without choices."""
    record, ending = _usual(record)
    choices, labels = _first(record, _CHOICES), None
    if choices is None:
        return None
    if isinstance(choices, dict):  # {"text": [...], "label": ["A", "B", ...]}
        choices, labels = choices.get("text"), choices.get("label")
    is_list = isinstance(choices, list) and all(isinstance(choice, str) and choice for choice in choices)
    if not is_list or len(choices) < 2:
        raise _NoItemError("no list of two choices or more")
    context = _context(record)
    field = next((name for name in _ANSWERS if record.get(name) is not None), "")
    answer = _index(field, record.get(field), choices, labels if isinstance(labels, list) else [])
    return Item(context, tuple(choices), answer, domain, place, ending)


def _context(record):
    """A passage and the question about it, with a line end between; one alone where the other is empty or missing."""
    parts = []
    for names in (_PASSAGES, _QUESTIONS):
        values = [record[name] for name in names if record.get(name) is not None]
        if not all(isinstance(value, str) for value in values):
            raise _NoItemError("a context that is no text (any of " + ", ".join(names) + ")")
        parts += [next(filter(None, values), "")] if values else []
    if not parts:
        raise _NoItemError("no context (any of " + ", ".join(_PASSAGES + _QUESTIONS) + ")")
    return "\n".join(filter(None, parts))


# Answers.


def _index(field, answer, choices, labels):
    """The index that an answer means: a label where there are any; else a number is the index, and a text a choice."""
    texts = [choice.strip() for choice in choices]
    answer = answer.strip() if isinstance(answer, str) else answer
    index = None
    if any(label == answer and type(label) is type(answer) for label in labels):
        index = labels.index(answer)
    elif isinstance(answer, str):
        index = _index_of_text(field, answer, texts) if not labels else texts.index(answer) if answer in texts else None
    elif isinstance(answer, int) and not isinstance(answer, bool):
        index = answer
        if str(answer) in labels and labels.index(str(answer)) != answer:
            raise _NoItemError(f"{field!r} is the index of one choice and the label of another (write a label as text)")
    if index is None or not 0 <= index < len(choices):
        raise _NoItemError("no answer among the choices (any of " + ", ".join(_ANSWERS) + ")")
    return index


def _index_of_text(field, answer, texts):
    """That of the choice that a text equals; else it is a letter from A, or a number from 0.

    It may equal one choice and name another. Sets that give the text call it `answer` and those that give a number as
    text call it `label` (HellaSwag); a capital letter is called `answer` too (RACE, MMLU-Pro).
    """
    named = None
    if answer.isdecimal() and len(answer) < 4:  # no list is longer
        named = int(answer)
    elif len(answer) == 1 and answer.isascii() and answer.isalpha():
        named = ord(answer.upper()) - ord("A")
    if answer not in texts:
        return named
    if named is not None and named < len(texts) and texts[named] != answer and (field != "answer" or answer.isupper()):
        raise _NoItemError(f"{field!r} is the text of one choice and names another (give the index, a number from 0)")
    return texts.index(answer)


# Published sets.


def _usual(record):
    """(the record of a published set in the usual form, what stands behind its choices); any other as it is."""
    question = record.get("question")
    if (
        isinstance(question, dict) and "stem" in question
    ):  # ARC, OpenBookQA, CommonsenseQA as their authors publish them
        record = record | {"question": question["stem"], "choices": question.get("choices")}
    choices = _first(record, _CHOICES)
    if isinstance(choices, list) and choices and all(isinstance(choice, dict) for choice in choices):
        columns = {name: [choice.get(name) for choice in choices] for name in ("text", "label")}
        return record | {"choices": columns}, ""
    if choices is not None:
        return record, ""
    for name, columns, first, edit in _COLUMNS:
        if name in record and all(column in record for column in columns):
            labels = [str(first + place) for place in range(len(columns))]
            return edit(record | {"choices": {"text": [record[column] for column in columns], "label": labels}})
    return _boolq(record), ""


def _as_it_is(record):
    return record, ""


def _boolq(record):
    """Its answer is true or false, or a label, 1 for yes; its questions have no question mark."""
    question, answer, label = (record.get(name) for name in ("question", "answer", "label"))
    # Other sets have passages and questions too, and their answers are texts.
    is_yes_or_no = isinstance(answer, bool) or (answer is None and isinstance(label, int))
    if not (is_yes_or_no and isinstance(question, str) and "passage" in record):
        return record
    record = record | {"question": question.removesuffix("?") + "?", "choices": ["no", "yes"]}
    return record if answer is None else record | {"answer": int(answer)}


_CONNECTORS = {"cause": "because", "effect": "therefore"}


def _copa(record):
    """The premise goes on with a connector, as its `question` says, and a choice in lower case behind it."""
    premise, connector = record["premise"], _CONNECTORS.get(str(record.get("question")))
    texts = record["choices"]["text"]
    if not all(isinstance(text, str) and text for text in (premise, *texts)):
        raise _NoItemError("no text in 'premise', 'choice1' or 'choice2'")
    if connector:
        premise = f"{premise.strip().removesuffix('.')} {connector}"
        texts = [text[0].lower() + text[1:] for text in texts]
    return record | {"context": premise, "question": None, "choices": record["choices"] | {"text": texts}}, ""


def _winogrande(record):
    """The choices fill a gap, and what stands behind it is scored: the partial evaluation of Trinh and Le (2018)."""
    context, *endings = str(record["sentence"]).split("_")
    if len(endings) != 1 or not endings[0]:
        raise _NoItemError("no sentence with one gap, '_', and something behind it")
    return record | {"context": context}, endings[0]


def _sciq(record):
    return record | {"answer": 0}, ""


# (a column that tells the set, those of its choices, the label of the first of them, what else makes it usual)
_COLUMNS: tuple[tuple[str, tuple[str, ...], int, Callable[[dict], tuple[dict, str]]], ...] = (
    ("goal", ("sol1", "sol2"), 0, _as_it_is),  # PIQA
    ("premise", ("choice1", "choice2"), 0, _copa),
    ("sentence", ("option1", "option2"), 1, _winogrande),
    ("context", ("answerA", "answerB", "answerC"), 1, _as_it_is),  # Social IQa
    ("context", ("answer0", "answer1", "answer2", "answer3"), 0, _as_it_is),  # Cosmos QA
    ("question", ("correct_answer", "distractor1", "distractor2", "distractor3"), 0, _sciq),
)


def _first(record, names):
    return next((record[name] for name in names if record.get(name) is not None), None)
