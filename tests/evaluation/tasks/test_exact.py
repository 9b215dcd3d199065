"""Questions with one right answer, asked of a scorer of given answers."""

import dataclasses
import math

import pytest

from mixkabrn_jax.data.documents import task
from mixkabrn_jax.evaluation.tasks.exact import GSM8K, MATH, OPEN_QUESTIONS, QUIZ
from mixkabrn_jax.evaluation.tasks.options import Options
from tests.evaluation.tasks.scorer import Scorer

NONE = Options()


def documents(*rows):
    """Of (question, solution, answers)."""
    return [
        task(f"Question: {question}\nAnswer:", f" {solution}", "d", str(number), answers)
        for number, (question, solution, answers) in enumerate(rows)
    ]


def asked(of, *written, task=GSM8K, options=NONE):
    scorer = Scorer({document.prompt: text for document, text in zip(of, written, strict=True)})
    return task(scorer, iter(of), options), scorer


SUMS = documents(("1+1?", "It is 2.\n#### 2", ("2",)), ("1000+1?", "#### 1,001", ("1001",)), ("0?", "#### 0", ("0",)))


def test_the_share_of_right_numbers_whatever_is_written_behind_them():
    found, _ = asked(SUMS, b" #### 2\n\nQuestion: more?\nAnswer: #### 3", b" 1,001.", b" I do not know")
    target_bytes = sum(len(document.target) for document in SUMS)
    figures = {"exact_match": 2 / 3, "target_bits_per_byte": pytest.approx(2 / math.log(2)), "n": 3}
    assert found == {**figures, "domains": {"d": figures}}
    found, _ = asked(SUMS, SUMS[0].target, b"", b"")
    nats = len(SUMS[0].target) + 2 * (target_bytes - len(SUMS[0].target))
    assert found["target_bits_per_byte"] == pytest.approx(nats / math.log(2) / target_bytes)
    assert found["exact_match"] == 1 / 3


def test_each_domain_has_the_figures_of_its_own_questions():
    of = [dataclasses.replace(one, domain=domain) for one, domain in zip(SUMS, "bab", strict=True)]
    found, _ = asked(of, b" #### 2", b" #### 1001", b" #### 1", options=Options(batch_size=2))
    assert list(found["domains"]) == ["a", "b"]
    assert [found["domains"][name]["exact_match"] for name in "ab"] == [1, 0.5]
    parts = [asked([one for one in of if one.domain == name], *texts)[0] for name, texts in _WRITTEN.items()]
    assert list(found["domains"].values()) == [
        part["domains"][part_of] for part, part_of in zip(parts, "ab", strict=True)
    ]
    assert (
        found["target_bits_per_byte"] == asked(SUMS, b" #### 2", b" #### 1001", b" #### 1")[0]["target_bits_per_byte"]
    )


_WRITTEN = {"a": [b" #### 1001"], "b": [b" #### 2", b" #### 1"]}


def test_completions_are_kept_with_their_verdicts():
    kept = []
    asked(SUMS, b" #### 2", b" \xff", b" 0", options=Options(keep=lambda *each: kept.append(each)))
    assert kept == [(SUMS[0], " #### 2", True), (SUMS[1], " \ufffd", False), (SUMS[2], " 0", True)]


def test_a_formula_is_right_if_its_last_box_is():
    of = documents(*[("half?", r"so \boxed{\frac12}", (r"\frac12",))] * 1, ("x?", r"\boxed{x}", ("x",)))
    found, _ = asked(of, b"\n\nWe see\n\n \\boxed{0.5}\nQuestion: \\boxed{7}", b" x", task=MATH)
    assert (found["exact_match"], found["n"]) == (0.5, 2)
    assert "f1" not in found


def test_an_open_question_is_answered_by_a_line_and_any_alias_is_right():
    of = documents(("who?", "Bob", ("Bob", "Robert Roe")), ("where?", "Rome", ("Rome",)), ("why?", "so", ("so",)))
    found, _ = asked(of, b" robert roe.\nQuestion: next", b" in Rome, Italy", b"", task=OPEN_QUESTIONS)
    assert found["exact_match"] == 1 / 3
    assert found["f1"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["n"] == 3


def test_a_quiz_is_answered_by_a_line_that_is_an_answer_to_the_letter():
    of = documents(("9-92?", "-83", ("-83",)), ("who?", "Ada", ("Ada", "Bob")), ("1-9?", "-8", ("-8",)))
    found, _ = asked(of, b" -83\x03Question: who?", b" Bob\nQuestion:", b" 8", task=QUIZ)
    assert found["exact_match"] == 2 / 3


def test_examples_stand_before_each_prompt():
    shots = documents(("a?", "#### 5", ("5",)))
    first = b"Question: a?\nAnswer: #### 5\n\n"
    scorer = Scorer({first + document.prompt: document.target for document in SUMS})
    assert GSM8K(scorer, SUMS, Options(shots=shots))["exact_match"] == 1
    assert scorer.asked == [first + document.prompt for document in SUMS]


def test_batches_change_no_figure_and_share_no_seed():
    written = (b" #### 2", b" 7", b" #### 0")
    whole, _ = asked(SUMS, *written)
    parts, scorer = asked(SUMS, *written, options=Options(batch_size=1, seed=5))
    assert parts == whole
    assert scorer.seeds == [5, 6, 7]


def test_a_completion_has_at_most_the_tokens_that_are_asked_for():
    found, _ = asked(SUMS, b" 2", b" 1001", b" 0", options=Options(max_tokens=2))
    assert found["exact_match"] == 2 / 3


def test_what_is_no_question_is_named():
    with pytest.raises(ValueError, match="gsm8k: there are no documents"):
        asked([])
    with pytest.raises(ValueError, match="7: gsm8k needs documents of a prompt and a target"):
        asked([task("", "text", "", "7")], b"")
    with pytest.raises(ValueError, match="7: gsm8k needs documents with answers"):
        asked([task("p", "text", "", "7")], b"")
