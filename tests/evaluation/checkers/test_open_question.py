"""Exact match and F1 of open questions: SQuAD's rules, and where they would go wrong."""

import pytest

from mixkabrn_jax.evaluation.checkers.open_question import exact_match, f1, words


@pytest.mark.parametrize(
    ("answer", "aliases", "same"),
    [
        ("The  Eiffel Tower!", ["eiffel tower"], True),
        ("eiffel\ttower", ["an Eiffel Tower"], True),
        ("14 December 1972 UTC", ["December 1972", "14 December 1972 UTC"], True),
        ("1972", ["December 1972"], False),
        ("tower eiffel", ["eiffel tower"], False),
        ("O'Neill", ["O\u2019Neill"], True),
        ("Beyonc\u00e9", ["Beyonce\u0301"], True),
        ("Beyonce", ["Beyonc\u00e9"], False),
        ("\uff11\uff19", ["19"], True),
        ("non\u00a0breaking", ["non breaking"], True),
        ("\u201cquoted\u201d \u2014 yes", ["quoted yes"], True),
        ("$5", ["5"], True),
        ("theatre", ["atre"], False),
        ("The The", ["the the"], True),
        ("the", ["a"], False),
        ("", ["the"], False),
        ("", [""], False),
        ("?!", ["..."], False),
        ("x", [], False),
    ],
)
def test_words_match_without_case_articles_and_punctuation(answer, aliases, same):
    assert exact_match(answer, aliases) == same
    assert (f1(answer, aliases) == 1) >= same


@pytest.mark.parametrize(
    ("answer", "aliases", "share"),
    [
        ("the cat sat", ["cat sat down"], 4 / 5),
        ("cat cat", ["cat"], 2 / 3),
        ("cat cat", ["cat cat dog dog"], 2 / 3),
        ("dog", ["cat", "a dog!"], 1),
        ("bird", ["cat", "dog"], 0),
        ("", ["cat"], 0),
        ("cat", [], 0),
        ("sat cat", ["cat sat"], 1),
    ],
)
def test_f1_is_the_harmonic_mean_of_precision_and_recall_for_the_best_alias(answer, aliases, share):
    assert f1(answer, aliases) == pytest.approx(share, abs=1e-15)


def test_articles_go_as_words_not_as_letters():
    assert words("An anthem, a the-atre") == ["anthem", "theatre"]
