"""How well a model predicts text, whatever its tokenizer: bits per byte, and what else the same nats are called.

All figures are sums over documents, divided once. The headline leaves out what the separators behind documents cost, as
lm-evaluation-harness does, whose names the perplexities have. It is of whole documents whatever a run was trained on,
so that it can be compared; what stands behind the prompts, which some runs learn alone, has a figure of its own.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.evaluation.score import Piece, Scorer
from mixkabrn_jax.evaluation.tasks.options import Options

FIRST_BYTES = 16
"""Of a document are the first bin of positions; each further one is twice as wide as all before it."""
_WHITE = re.compile(r"\s+")


@dataclasses.dataclass
class _Totals:
    """Over the documents of a domain."""

    documents: int = 0
    nats: float = 0.0
    target_nats: float = 0.0
    separator_nats: float = 0.0
    windowed_nats: float = 0.0
    bytes: int = 0
    target_bytes: int = 0
    tokens: int = 0
    words: int = 0

    def figures(self) -> dict[str, float | int]:
        num_bytes = max(self.bytes, 1)
        return {
            "bits_per_byte": self.nats / math.log(2) / num_bytes,
            "target_bits_per_byte": self.target_nats / math.log(2) / max(self.target_bytes, 1),
            "bits_per_byte_with_end": (self.nats + self.separator_nats) / math.log(2) / num_bytes,
            "windowed_bits_per_byte": self.windowed_nats / math.log(2) / num_bytes,
            "token_perplexity": _exp(self.nats / max(self.tokens, 1)),
            "word_perplexity": _exp(self.nats / max(self.words, 1)),
            "byte_perplexity": _exp(self.nats / num_bytes),
            "nats": self.nats,
            "bytes": self.bytes,
            "target_bytes": self.target_bytes,
            "tokens": self.tokens,
            "n": self.documents,
        }


def run(scorer: Scorer, documents: Iterable[Document], options: Options | None = None) -> dict:
    """The figures of all documents; with `domains`, those of each, and `positions`, by bytes from a document's start.

    The headline is that of the state carried through whole documents; the windowed figure sees a window at a time, as
    in training. For attention the two are one.

    Args:
        documents: read twice where the model carries a state.
    Raises: ValueError where there is none, or where the second reading gives others than the first.
    """
    del options
    sums: dict[str, _Totals] = defaultdict(_Totals)
    carried, windowed = _Positions(scorer), _Positions(scorer)
    for piece in scorer.pieces(_counted(documents, sums)):
        own = sums[piece.document.domain]
        nats, target_nats = carried.add(piece)
        own.nats += nats
        own.target_nats += target_nats
        own.tokens += len(piece.tokens_T)
        own.separator_nats += piece.separator_nats or 0.0
    if not sums:
        raise ValueError("bits_per_byte: there are no documents to score")
    if scorer.carries:
        again: dict[str, _Totals] = defaultdict(_Totals)
        for piece in scorer.pieces(_counted(documents, again), windowed=True):
            sums[piece.document.domain].windowed_nats += windowed.add(piece)[0]
        if {name: one.bytes for name, one in again.items()} != {name: one.bytes for name, one in sums.items()}:
            raise ValueError("bits_per_byte: documents are read twice, and came out different the second time")
    else:
        windowed = carried
        for own in sums.values():
            own.windowed_nats = own.nats
    whole = _Totals(*(sum(values) for values in zip(*map(dataclasses.astuple, sums.values()), strict=True)))
    domains = {name: sums[name].figures() for name in sorted(sums)}
    return {**whole.figures(), "domains": domains, "positions": _positions(carried, windowed)}


class _Positions:
    """Nats and bytes by how far into its document a token stands."""

    def __init__(self, scorer):
        self._num_bytes_W = scorer.tokenizer.num_bytes_W
        self._at = 0
        self.nats, self.bytes = np.zeros(64), np.zeros(64)

    def add(self, piece: Piece) -> tuple[float, float]:
        """Takes the next piece and returns (its nats, those of them that stand behind the prompt of its document)."""
        nats_T = piece.nats_T.astype(np.float64)
        bytes_T = self._num_bytes_W[piece.tokens_T]
        end_T = self._at + np.cumsum(bytes_T, dtype=np.int64)
        start_T = end_T - bytes_T
        # frexp gives the exponent e of x = m 2^e with m in [1/2, 1): 0 for 0, 4 for 8 to 15, 5 for 16 to 31.
        bin_T = np.maximum(np.frexp(start_T)[1] - int(math.log2(FIRST_BYTES)), 0)
        self.nats += np.bincount(bin_T, nats_T, minlength=64)
        self.bytes += np.bincount(bin_T, bytes_T, minlength=64)
        self._at = 0 if piece.separator_nats is not None or not len(end_T) else int(end_T[-1])
        # No token is of both, as a prompt and its target are encoded apart.
        return float(nats_T.sum()), float(nats_T[start_T >= piece.document.prompt_bytes].sum())


def _positions(carried, windowed):
    """One dict for each bin that has bytes."""
    return [
        {
            "from": FIRST_BYTES << (index - 1) if index else 0,
            "to": FIRST_BYTES << index,
            "bits_per_byte": float(carried.nats[index] / math.log(2) / carried.bytes[index]),
            "windowed_bits_per_byte": float(windowed.nats[index] / math.log(2) / windowed.bytes[index]),
            "bytes": int(carried.bytes[index]),
        }
        for index in map(int, np.flatnonzero(carried.bytes))
    ]


def _counted(documents: Iterable[Document], sums: dict[str, _Totals]) -> Iterator[Document]:
    """The documents, whose bytes and words are counted on their way.

    Words are the pieces that white space leaves, empty ones at the ends included: `len(re.split(r"\\s+", text))`, as
    lm-evaluation-harness counts them.
    """
    is_first, ends_white = True, False
    for document in documents:
        own, text = sums[document.domain], document.content.decode(errors="replace")
        gaps = sum(1 for _ in _WHITE.finditer(text))
        own.words += gaps - (ends_white and text[:1].isspace()) + is_first
        own.bytes += len(document.content)
        own.target_bytes += len(document.target)
        own.documents += not document.continues
        is_first = not document.continues
        ends_white = document.continues and text[-1:].isspace()
        yield document


def _exp(value):
    """exp, and infinity where a float ends."""
    return math.exp(value) if value < 709 else math.inf
