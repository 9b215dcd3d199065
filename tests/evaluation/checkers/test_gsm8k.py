"""Numbers that end a solution, and which of them are the same."""

import pytest

from mixkabrn_jax.evaluation.checkers.gsm8k import equivalent, final_answer


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("She has 48/2 = <<48/2=24>>24.\n#### 72", "72", "72"),
        ("#### 1,234", "1234", "1234"),
        ("####5", "5", "5"),
        ("#### $-5.", "-5", "-5"),
        ("#### -$1,000.50.", "-1000.50", "-1000.50"),
        ("#### \u22123", "-3", "-3"),
        ("#### 72%", "72", "72"),
        ("#### 7\n\nQuestion: and?\n#### 9", "7", "7"),
        ("#### none, so 4", None, "4"),
        ("5-3=2.", None, "2"),
        ("pages 5-3", None, "3"),
        ("5 - 3", None, "3"),
        ("is -7,", None, "-7"),
        ("it costs $1,000.50.", None, "1000.50"),
        ("= .5 of it", None, ".5"),
        ("no number", None, None),
        ("", None, None),
        ("####", None, None),
    ],
)
def test_the_number_behind_the_mark_counts_else_the_last(text, strict, flexible):
    assert final_answer(text, flexible=False) == strict
    assert final_answer(text) == flexible


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("18", "18.00", True),
        ("18.", "18", True),
        ("1,800", "1800", True),
        ("$18", "18", True),
        ("0.5", "1/2", True),
        ("18", "-18", False),
        ("18", "19", False),
        ("18", "180", False),
        (None, None, False),
        ("", "", False),
        ("x", "x", False),
        ("18", None, False),
    ],
)
def test_numbers_are_equal_by_value(answer, reference, same):
    assert equivalent(answer, reference) == equivalent(reference, answer) == same
