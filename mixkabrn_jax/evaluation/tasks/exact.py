"""Questions with one right answer: the model writes one, and a checker says whether it is right.

A small model gets none right for a long time. Hence the bits per byte of the targets stand beside, which fall from the
first step on.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.template import TEMPLATES
from mixkabrn_jax.evaluation.checkers import gsm8k, math, open_question
from mixkabrn_jax.evaluation.tasks.options import Options, batches, bits, prompt, targets, with_domains


@dataclass(frozen=True)
class Exact:
    """A kind of question: how a completion is read and judged."""

    name: str
    is_right: Callable[[str, tuple[str, ...]], bool]
    """Of a completion and the answers that count."""
    stop: tuple[bytes, ...]
    max_tokens: int
    f1: Callable[[str, tuple[str, ...]], float] | None = None

    def __call__(self, scorer, documents: Iterable[Document], options: Options) -> dict:
        """Asks each document: exact_match, with `f1` where partly right counts, target_bits_per_byte and n; and
        `domains`, the same figures for each.

        Raises: ValueError for documents that are no questions.
        """
        sums: dict[str, Counter] = defaultdict(Counter)
        number = 0
        for batch in batches(documents, options, self.name):
            answers = [_answers(document, self.name) for document in batch]
            prompts = [prompt(document, options) for document in batch]
            # A seed of their own for each batch, so that no two share their luck.
            how = options.max_tokens or self.max_tokens, self.stop, options.temperature, options.seed + number
            completions = [text.decode(errors="replace") for text in scorer.complete(prompts, *how)]
            found = targets(scorer, batch, options)
            for document, target, *judged in zip(batch, found, completions, answers, strict=True):
                right, f1 = self.is_right(*judged), self.f1(*judged) if self.f1 else 0.0
                num_bytes = len(document.target)
                sums[document.domain].update(n=1, right=right, f1=f1, nats=target.nats, bytes=num_bytes)
                options.keep(document, judged[0], right)
            number += len(batch)
        return with_domains(sums, self._figures)

    def _figures(self, sums):
        found = {"exact_match": sums["right"] / sums["n"]}
        if self.f1:
            found["f1"] = sums["f1"] / sums["n"]
        return {**found, "target_bits_per_byte": bits(sums), "n": sums["n"]}


def _answers(document, name):
    if not document.answers:
        raise ValueError(f"{document.id}: {name} needs documents with answers, and this has none")
    return document.answers


def _is_right_number(completion, answers):
    found = gsm8k.final_answer(completion)
    return any(gsm8k.equivalent(found, answer) for answer in answers)


def _is_right_formula(completion, answers):
    found = math.final_answer(completion)
    return any(math.equivalent(found, answer) for answer in answers)


def _is_right_line(completion, answers):
    return _line(completion) in answers


def _line(completion):
    return completion.strip().partition("\n")[0]


# Solutions of MATH have empty lines: what ends them is the next question, or the end of the document.
_NEXT = (b"\nQuestion:",)
GSM8K = Exact("gsm8k", _is_right_number, _NEXT, 320)
MATH = Exact("math", _is_right_formula, _NEXT, 640)
QUIZ = Exact("quiz", _is_right_line, (b"\n", *(template.stop.encode() for template in TEMPLATES.values())), 16)
OPEN_QUESTIONS = Exact(
    "openqa",
    lambda completion, answers: open_question.exact_match(_line(completion), answers),
    (b"\n",),
    48,
    lambda completion, answers: open_question.f1(_line(completion), answers),
)
