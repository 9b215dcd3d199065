"""What a model still knows of a pair that it saw so and so far back: accuracy against distance."""

from collections import Counter
from collections.abc import Iterable

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.evaluation.tasks.options import Options, batches, bits, targets

DOMAIN = "recall/"
"""Documents of associative recall are of the domains `recall/16`, with their distance."""


def distance_of(document: Document) -> int | None:
    """How far back in a document of recall its answer stands; None of other documents."""
    distance = document.domain.removeprefix(DOMAIN)
    return int(distance) if document.domain.startswith(DOMAIN) and distance.isdecimal() else None


def run(scorer, documents: Iterable[Document], options: Options) -> dict[str, float | int]:
    """The share of targets that greedy decoding would write: accuracy, accuracy@distance for each, and n.

    Raises: ValueError where no document is one of recall.
    """
    right, asked, sums = Counter(), Counter(), Counter()
    wanted = (document for document in documents if distance_of(document) is not None)
    for batch in batches(wanted, options, "recall"):
        for document, found in zip(batch, targets(scorer, batch, Options()), strict=True):
            sums.update(nats=found.nats, bytes=len(document.target))
            asked[distance_of(document)] += 1
            right[distance_of(document)] += found.is_greedy
    by_distance = {f"accuracy@{distance}": right[distance] / asked[distance] for distance in sorted(asked)}
    accuracy = right.total() / asked.total()
    return {"accuracy": accuracy, **by_distance, "target_bits_per_byte": bits(sums), "n": asked.total()}
