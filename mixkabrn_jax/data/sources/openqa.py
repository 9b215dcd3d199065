"""Open questions: NQ-open, TriviaQA and WebQuestions, told apart by the form of their records.

| domain | a record |
|---|---|
| nq_open | `question`, `answer`: a list |
| triviaqa | `question`, `answer`: an object of `value`, `aliases`, `normalized_aliases` |
| webquestions | `question`, `qText` or `utterance`; `answers`: a list, or `targetValue`: `(list (description Rome))` |

In JSON Lines, a JSON list or Parquet; TriviaQA's own files, too, with capitals in the names and a list in `Data`. The
first answer is the target; any of them is right.
"""

import re
from collections.abc import Iterator

from mixkabrn_jax.data import records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, question
from mixkabrn_jax.data.sources.family import Family

_DESCRIPTION = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^()"]+))\)')


def documents(file: File, config: DataConfig, skipped: Skipped) -> Iterator[Document]:
    """The questions of a file; one without an answer is damage."""
    del config
    for place, record in records.read(file, skipped, inside=("Data",)):
        texts = records.texts(record, place, skipped, "question|qText|utterance|Question")
        if texts is None:
            continue
        domain, answers = _answers(record)
        answers = tuple(dict.fromkeys(answer.strip() for answer in answers if _is_answer(answer)))
        if not answers:
            skipped.damaged("no list of answers in 'answer', 'answers' or 'targetValue'", place)
            continue
        yield question(texts[0], answers[0], domain, place, answers)


def _answers(record):
    """(set, answers that may be of any type)."""
    answer = record.get("answer", record.get("Answer"))
    if isinstance(answer, dict):
        names = ("value", "aliases", "normalized_aliases", "Value", "Aliases", "NormalizedAliases")
        return "triviaqa", [text for name in names for text in _listed(answer.get(name))]
    if isinstance(answer, list):
        return "nq_open", answer
    if isinstance(record.get("targetValue"), str):
        found = _DESCRIPTION.findall(record["targetValue"])
        return "webquestions", [re.sub(r"\\(.)", r"\1", quoted) or plain for quoted, plain in found]
    answers = record.get("answers")
    return "webquestions", answers if isinstance(answers, list) else []


def _listed(value):
    return value if isinstance(value, list) else [value]


def _is_answer(answer):
    # TriviaQA's test split, whose answers are secret, has this value on the hub.
    return isinstance(answer, str) and answer.strip() not in ("", "<unk>")


FAMILY = Family(
    documents,
    layout=".jsonl, .json or .parquet files of NQ-open, TriviaQA or WebQuestions",
    legal="NQ-open is CC BY-SA 3.0, WebQuestions CC BY 4.0; TriviaQA's questions belong to their authors, for research",
)
