r"""AMPS (Hendrycks et al. 2021): exercises of Khan Academy, and five million problems that Mathematica made.

`khan/<exercise>/<timestamp>.json`, of the domain "khan", and `mathematica/<topic>/<task>/<number>.txt`, whose domain is
the topic. The set has no splits. A file of Mathematica is one document, whichever number of `Answer:` blocks it has:
they are several forms of one answer, so the first is the target and each counts as right. (The authors' loader repeats
the problem with each of them.)
"""

import re
from collections.abc import Iterator

from mixkabrn_jax.data import detection, records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import PART_BYTES, Document, Skipped, question
from mixkabrn_jax.data.sources.family import Family, folders_of
from mixkabrn_jax.data.sources.math import boxed

_ANSWER_LINE = re.compile(r"^Answer:[ \t]*$", re.MULTILINE)
_ANSWER = re.compile(r"^Answer:", re.MULTILINE)


def documents(file: File, config: DataConfig, skipped: Skipped) -> Iterator[Document]:
    """The problem or problems of a file."""
    if file.plain_name.lower().endswith(".txt"):
        yield from _mathematica(file, config, skipped)
    else:
        yield from _khan(file, skipped)


def _khan(file, skipped):
    for place, record in records.read(file, skipped):
        # Hints lead to the answer step by step, and the last one says it.
        steps = next((steps for steps in (_steps(record.get(name)) for name in ("hints", "solution")) if steps), [])
        record = {**record, "hints": "\n".join(steps), "solution": ""}
        texts = records.texts(record, place, skipped, "question|problem", "hints|solution")
        if texts is not None:
            yield question(*texts, "khan", place, (boxed(steps[-1]) or steps[-1],))


def _steps(value):
    values = value if isinstance(value, list) else [value]
    return [step.strip() for step in values if isinstance(step, str) and step.strip()]


def _mathematica(file, config, skipped):
    content = file.stream.read(PART_BYTES)
    if file.stream.peek(1):
        skipped.damaged(f"longer than {PART_BYTES} bytes: no problem of Mathematica's", file.name)
        return
    if reason := detection.another_format(content[: detection.HEAD_BYTES]):
        skipped.damaged(reason, file.name)
        return
    text = skipped.decoded(content, file.name).decode().removeprefix("\ufeff").replace("\r\n", "\n")
    # Steps have lines that begin so, too: such a line is a heading only where no line is one alone.
    heading = _ANSWER_LINE if _ANSWER_LINE.search(text) else _ANSWER
    problem, *answers = (block.strip() for block in heading.split(text))
    problem = problem.removeprefix("Problem:").strip()
    answers = [answer for answer in answers if answer]
    lacks = [f"no {name}: block" for name, block in (("Problem", problem), ("Answer", answers)) if not block]
    if lacks:
        skipped.damaged(", ".join(lacks), f"{file.name}:1")
        return
    # With steps, in tasks that end in `_w_steps`, the answer is what they box at their end.
    finals = tuple(dict.fromkeys(boxed(answer) or answer for answer in answers))
    yield question(problem, answers[0], _topic(folders_of(file, config)), file.name, finals)


def _topic(folders):
    """The folder below `mathematica`; where no folder is called that, the one above the task's."""
    if "mathematica" in folders[:-1]:
        return folders[len(folders) - folders[::-1].index("mathematica")]
    return folders[-2] if len(folders) > 1 else "mathematica"


FAMILY = Family(
    documents,
    split_of=lambda _: None,
    layout="khan/<exercise>/<timestamp>.json and mathematica/<topic>/<task>/<number>.txt",
    legal="AMPS holds exercises of Khan Academy, which are for non-commercial use: do not pass them on",
)
