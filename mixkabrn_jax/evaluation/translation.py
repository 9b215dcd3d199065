"""How near translations come to the given ones: chrF and BLEU by sacrebleu, beside the source text as it is."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

NUM_RESAMPLES = 1000


class Translated(NamedTuple):
    """A sentence, its translation as given, and as a model wrote it."""

    domain: str
    source: str
    reference: str
    hypothesis: str


def score(translated: Sequence[Translated]) -> dict:
    """Figures of all sentences, with `domains`, those of each.

    `chrf` (Popović 2015) and `bleu` (Papineni et al. 2002, as Post 2018 has it) of the whole set, 0 to 100; `low` and
    `high` of each, between which 95% of sets lie that are drawn from the same sentences with replacement, as sacrebleu
    estimates them; `copy_chrf` and `copy_bleu`, of the source left as it is; `exact_match`, the share of sentences that
    are the reference; `n`.

    Raises: ImportError where sacrebleu is not installed.
    """
    by_domain = defaultdict(list)
    for one in translated:
        by_domain[one.domain].append(one)
    return {**_figures(translated), "domains": {name: _figures(by_domain[name]) for name in sorted(by_domain)}}


def require_sacrebleu() -> None:
    """Raises: ImportError where `score` would."""
    _metrics()


def _metrics():
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise ImportError("chrF and BLEU are computed by sacrebleu: pip install sacrebleu") from error
    return {"chrf": CHRF(), "bleu": BLEU()}


def _figures(translated):
    found = {}
    _, sources, references, hypotheses = zip(*translated, strict=True)
    for name, metric in _metrics().items():
        score, low, high = _with_interval(metric, hypotheses, references)
        found |= {name: score, f"{name}_low": low, f"{name}_high": high}
        found[f"copy_{name}"] = metric.corpus_score(sources, [references]).score
    exact = sum(one.hypothesis == one.reference for one in translated)
    return {**found, "exact_match": exact / len(translated), "n": len(translated)}


def _with_interval(metric, hypotheses, references):
    found = metric.corpus_score(hypotheses, [references], n_bootstrap=NUM_RESAMPLES)
    # What is public of the resamples is what sacrebleu's command line prints; of a score of 0 it is nothing.
    told = json.loads(found.format(width=4, signature=metric.get_signature().format(), is_json=True))
    mean, half = told.get("confidence_mean", 0.0), told.get("confidence_var", 0.0)
    return found.score, round(mean - half, 4), round(mean + half, 4)
