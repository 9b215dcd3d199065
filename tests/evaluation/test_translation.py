"""chrF and BLEU of translations, as sacrebleu computes them, with intervals and beside the source as it is."""

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
    several, more = translation.score(SENTENCES * 5), translation.score(SENTENCES * 50)
    for name in ("chrf", "bleu"):
        low, high = several[f"{name}_low"], several[f"{name}_high"]
        assert low < several[name] < high
        # The width falls with the root of the number of sentences.
        assert (more[f"{name}_high"] - more[f"{name}_low"]) / (high - low) == pytest.approx(10**-0.5, rel=0.25)


def test_what_has_nothing_in_common_has_an_interval_too():
    found = translation.score([Translated("", "a", "xyz", "uvw")] * 2)
    assert (found["chrf"], found["chrf_low"], found["chrf_high"]) == (0, 0, 0)
