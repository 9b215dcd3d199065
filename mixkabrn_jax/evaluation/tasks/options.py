"""How a task is asked, and how its documents come."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.evaluation.score import Likelihood


def _forget(*_):
    """Keeps no completion."""


@dataclass(frozen=True)
class Options:
    """What the command line says of tasks; each takes what concerns it."""

    shots: Sequence[Document] = ()
    """Documents of the training split that stand before each prompt as examples; of choice, items."""
    max_tokens: int = 0
    """That a completion may have; 0 for the task's own number."""
    temperature: float = 0.0
    """Of completions; 0 takes the most likely token."""
    seed: int = 0
    num_samples: int = 1
    """Programs that are written for each problem of code."""
    ks: Sequence[int] = (1, 10, 100)
    """The k of pass@k, of which those up to `num_samples` are reported."""
    allow_code: bool = False
    """Whether programs that the model wrote may be run, under guard."""
    batch_size: int = 256
    """Documents that are held at once."""
    keep: Callable[[Document, str, bool], None] = _forget
    """Takes each completion with the document that it answers and whether it is right."""


def batches(documents: Iterable[Document], options: Options, task: str) -> Iterator[list[Document]]:
    """Documents in lists, none held longer than needed.

    Raises: ValueError where there is none, or one that asks nothing.
    """
    stream, is_empty = iter(documents), True
    while batch := list(itertools.islice(stream, options.batch_size)):
        is_empty = False
        for document in batch:
            if not document.prompt_bytes or not document.target:
                raise ValueError(
                    f"{document.id}: {task} needs documents of a prompt and a target, this has one of them"
                )
        yield batch
    if is_empty:
        raise ValueError(f"{task}: there are no documents to be asked")


def prompt(document: Document, options: Options) -> bytes:
    """What is asked, behind the examples, with an empty line behind each."""
    return b"".join(shot.content + b"\n\n" for shot in options.shots) + document.prompt


def with_domains(sums: Mapping[str, Counter], figures: Callable[[Counter], dict]) -> dict:
    """The figures of all documents, with `domains`, those of each.

    Args:
        sums: over the documents of each domain, at least one.
        figures: that sums make.
    """
    whole: Counter = Counter()
    for own in sums.values():
        whole.update(own)  # Counter's + would lose what is no number
    return {**figures(whole), "domains": {name: figures(sums[name]) for name in sorted(sums)}}


def targets(scorer, documents: Sequence[Document], options: Options) -> list[Likelihood]:
    """What a model finds of each target behind its prompt and the examples: tells those apart that get none right."""
    return scorer.loglikelihood([(prompt(document, options), document.target) for document in documents])


def bits(sums: Mapping[str, float]) -> float:
    """Bits per byte, of sums with `nats` and `bytes`."""
    return sums["nats"] / math.log(2) / sums["bytes"]
