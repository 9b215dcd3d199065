"""chrF and BLEU of translations, as sacrebleu computes them, with intervals and beside the source as it is."""

import numpy as np
import pytest

sacrebleu = pytest.importorskip("sacrebleu")

from mixkabrn_jax.evaluation import translation  # noqa: E402
from mixkabrn_jax.evaluation.translation import Translated  # noqa: E402

SENTENCES = [
    Translated("en-de/a", "The dog sleeps.", "Der Hund schläft.", "Der Hund schläft."),
    Translated("en-de/a", "I see a cat.", "Ich sehe eine Katze.", "Ich sehe einen Katze."),
    Translated("en-de/b", "Berlin is a city.", "Berlin ist eine Stadt.", "Ist Berlin groß?"),
]


def test_figures_are_those_of_sacrebleu():
    found = translation.score(SENTENCES)
    sources, references, written = zip(*(one[1:] for one in SENTENCES), strict=True)
    assert found["chrf"] == sacrebleu.corpus_chrf(written, [references]).score
    assert found["bleu"] == sacrebleu.corpus_bleu(written, [references]).score
    assert found["copy_chrf"] == sacrebleu.corpus_chrf(sources, [references]).score
    assert found["copy_bleu"] == sacrebleu.corpus_bleu(sources, [references]).score
    assert (found["exact_match"], found["n"]) == (pytest.approx(1 / 3), 3)
    assert found["copy_chrf"] < found["chrf"] < 100


def test_domains_have_figures_of_their_own():
    found = translation.score(SENTENCES)
    assert {name: one["n"] for name, one in found["domains"].items()} == {"en-de/a": 2, "en-de/b": 1}
    of_a = translation.score(SENTENCES[:2])
    assert found["domains"]["en-de/a"] == {name: figure for name, figure in of_a.items() if name != "domains"}


def test_the_interval_is_that_of_sets_drawn_anew():
    alike = translation.score([SENTENCES[1]] * 50)
    assert alike["chrf_low"] == pytest.approx(alike["chrf"], abs=1e-3) == alike["chrf_high"]
    sentences, rng = SENTENCES * 5, np.random.default_rng(0)
    drawn = [[sentences[place] for place in rng.integers(0, 15, 15)] for _ in range(400)]
    scores = [sacrebleu.corpus_chrf([one.hypothesis for one in s], [[one.reference for one in s]]).score for s in drawn]
    found = translation.score(sentences)
    assert [found["chrf_low"], found["chrf_high"]] == pytest.approx(np.quantile(scores, [0.025, 0.975]), abs=2)
    assert found["bleu_low"] < found["bleu"] < found["bleu_high"]


def test_what_has_nothing_in_common_has_an_interval_too():
    found = translation.score([Translated("", "a", "xyz", "uvw")] * 2)
    assert (found["chrf"], found["chrf_low"], found["chrf_high"]) == (0, 0, 0)
