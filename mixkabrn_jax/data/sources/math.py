r"""MATH (Hendrycks et al. 2021): competition problems with solutions in LaTeX, whose answer stands in `\boxed{}`.

`MATH/{train,test}/<subject>/<id>.json`, or the same records (`problem`, `solution`, `type` or `subject`) in Parquet,
JSON Lines or a JSON list. The domain is the subject.
"""

import re
from collections.abc import Iterator

from mixkabrn_jax.data import records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, question
from mixkabrn_jax.data.sources.family import Family, folders_of

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_SIGN = re.compile(r"\\.|[{}]", re.DOTALL)


def documents(file: File, config: DataConfig, skipped: Skipped) -> Iterator[Document]:
    """The problems of a file; one whose solution has no boxed answer is damage."""
    for place, record in records.read(file, skipped):
        texts = records.texts(record, place, skipped, "problem", "solution")
        if texts is None:
            continue
        problem, solution = texts
        answer = boxed(solution)
        if not answer:
            skipped.damaged("no boxed answer in 'solution'", place)
            continue
        subject = record.get("type") or record.get("subject")
        domain = subject if isinstance(subject, str) else folders_of(file, config)[-1]
        yield question(problem, solution, domain, place, (answer,))


def boxed(text: str) -> str:
    r"""What stands in the last `\boxed{...}` or `\fbox{...}` of a text, or behind one without braces; "" for none.

    Dollar signs around the whole are left off.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return ""
    inside = text[boxes[-1].end() :]
    if inside.startswith("{"):
        end = closing(inside, 0)
        answer = "" if end is None else inside[1:end]
    else:
        # `\boxed 5$`: TeX would take one sign, people mean all up to the end of the formula.
        line = inside.partition("\n")[0]
        answer = line.partition("$")[0] if "$" in line else line.partition(" ")[0].rstrip(".,;")
    answer = answer.strip()
    return answer[1:-1].strip() if re.fullmatch(r"\$[^$]*\$", answer) else answer


def closing(text: str, at: int) -> int | None:
    r"""Where the brace that opens here is closed; None where it is not. `\{` is a sign, no brace."""
    depth = 0
    for found in _SIGN.finditer(text, at):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if found[0] == "}" and depth == 0:
            return found.start()
    return None


FAMILY = Family(
    documents,
    folders_in_split=1,
    layout="MATH/{train,test}/<subject>/<id>.json, or .parquet, .jsonl, .json with problem and solution",
    legal="MATH is under a takedown by the owner of its problems: use a copy of your own, and do not pass it on",
)
