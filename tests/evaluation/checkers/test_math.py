r"""Answers in LaTeX that are the same and that are not: the published cases, and those that a checker gets wrong."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax.evaluation.checkers.math import equivalent, final_answer, number

# The cases that Hendrycks et al. 2021 publish with their checker (`modeling/math_equivalence_test.py`).
PUBLISHED = [
    (r"\tfrac{1}{2} + \frac1{72}", r"\\frac{1}{2} + 2/3", False),
    ("10, 4, -2", "4, 10, -2", False),
    ("10, 4, 2", "4, 12, 2", False),
    (r"\tfrac{1}{2} +\! \frac1{72}", r"\\dfrac{1}{2} +\frac{1}{72}", True),
    (r"10\text{ units}", "10 ", True),
    (r"10\text{ units}", "100 ", False),
    ("10", r"\$10", True),
    (r"\left(x-2\right)\left(x+2\right)", "(x-2)(x+2)", True),
    ("0.1, 4, 2", "4, .1, 2", False),
    ("0.1", ".1", True),
    (r"10\%", "10", True),
    (r"10\sqrt{3} + \sqrt4", r"10\sqrt3 + \sqrt{4}", True),
    (r"\frac34i", r"\frac{3}{4}i", True),
    (r"\tfrac83", r"\frac{8}{3}", True),
    ("5x - 7y + 11z + 4 = 0", "x + y - z + 2 = 0", False),
    ("1/2", r"\frac{1}{2}", True),
]
SAME = [
    # fractions and numbers
    ("0.5", "1/2"),
    (r"\frac12", "0.50"),
    (r"\frac{72}1", "72"),
    (r"\frac 1 2", r"\cfrac{1}{2}"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    ("-1/2", "-.5"),
    (r"\frac{-\pi}{2}", r"-\frac{\pi}2"),
    (r"3\pi/4", r"\frac{3\pi}{4}"),
    (r"\sqrt3/2", r"\frac{\sqrt{3}}{2}"),
    ("1 1/2", r"1\frac{1}{2}"),
    (r"1\frac12", "3/2"),
    ("5.", "5.0"),
    ("+5", "5"),
    ("007", "7"),
    ("\u22125", "-5"),
    # thousands
    ("1,234", "1234"),
    ("1,234,567.5", "1234567.5"),
    (r"10{,}000", "10000"),
    (r"10,\!000", "10000"),
    (r"10\,000", "10,000"),
    (r".\overline{3}", r"0.\overline{3}"),
    # units and marks
    (r"5\text{ cm}^2", "5"),
    (r"5 \text{ cm}^{2}.", "5"),
    (r"5\mbox{ cm}", "5"),
    (r"5\,\mathrm{km}", "5"),
    ("5 cm", "5"),
    ("12 square feet", "12"),
    (r"\$5.00", "5"),
    ("$x+1$", "x+1"),
    ("30^\\circ", "30"),
    (r"30^{\circ}", "30°"),
    ("50 %", "50"),
    # names, spaces, brackets, braces
    ("x=5", "5"),
    ("f(x) = x^2", "x^2"),
    ("f (x) = x^2", "f(x)=x^2"),
    (r"x \in [1, 2]", "[1,2]"),
    (r"\theta = \pi", r"\pi"),
    (r"2\pi r", r"2 \pi  r"),
    ("x_1", "x_{1}"),
    ("2^10", "2^{10}"),
    (r"\sqrt[3]5", r"\sqrt[3]{5}"),
    (r"\sqrt\pi", r"\sqrt{\pi}"),
    (r"\frac{\sqrt3}{\frac12}", r"\frac{\sqrt{3}}{\frac{1}{2}}"),
    (r"\Big( 1, 2 \Big)", "(1,2)"),
    (r"x \leq 5", r"x\le5"),
    # tuples, intervals, lists, sets
    ("(1/2, 3)", "(0.5,3.0)"),
    (r"(-\infty, 1/2]", r"\left(-\infty,0.5\right]"),
    ("1/2, 0.25", ".5, 1/4"),
    (r"\{1, 2, 3\}", r"\{3,1,2\}"),
    (r"\left\{1/2, 2\right\}", r"\lbrace 2, 0.5 \rbrace"),
    ("((1/2,2),3)", "((0.5,2),3)"),
    (r"72^\circ,108^\circ", r"72^\circ, 108^\circ"),
    ("100,121", "100, 121"),
    (r"\\{1,2\\}", r"\{1,2\}"),
    # matrices
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    (r"\begin{pmatrix} -1/3 \\ .5 \\ \end{pmatrix}", r"\begin{pmatrix} -\dfrac{1}{3} \\ \frac12 \end{pmatrix}"),
    (r"\left(\begin{array}{c} 1 \\ 2 \end{array}\right)", r"\left( \begin{array}{c}1\\2\end{array} \right)"),
    # text
    (r"\text{even}", "even"),
    (r"\textbf{(C)}", "(C)"),
    (r"k = \text{odd}", r"\text{odd}"),
]
DIFFERENT = [
    ("1,234", "(1,234)"),
    ("1, 234", "1234"),
    ("1,000", "1,00"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(1,2]"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", r"\{1,2\}"),
    ("(1,2)", "1,2"),
    ("(1,2)", "(1,2,3)"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("1 1/2", "11/2"),
    ("1 2", "12"),
    ("12", "1"),
    ("x=5", "y=5"),
    ("x=5", "x=6"),
    ("1/3", "0.333"),
    ("0.1", "10%"),
    ("-5", "5"),
    ("2^3", "2^{3}0"),
    (r"\sqrt10", r"\sqrt{10}"),
    (r"\frac12", r"\frac21"),
    (r"\frac1{23}", r"\frac{12}{3}"),
    (r"3\text{ or }5", "3"),
    (r"3\text{ or }5", "5"),
    ("x", "X"),
    ("1/0", "0"),
    ("1/0", "2/0"),
    ("", ""),
    (" ", ""),
    (r"\%", r"\$"),
    ("5", r"\text{ cm}"),
    (None, None),
    (None, "None"),
    (r"\frac{1}{2", r"\frac{1}{2}"),
    ("(1,2", "(1,2)"),
    ("e", "2.718281828459045"),
    ("2+3", "5"),
    ("2^{999999999}", "2^{999999998}"),
    ("1e999999999", "1e999999998"),
    ("9" * 5000, "9" * 5001),
    ("__import__('os').getpid()", "1"),
]


@pytest.mark.parametrize(("answer", "reference", "same"), PUBLISHED)
def test_the_published_cases_come_out_as_published(answer, reference, same):
    assert equivalent(answer, reference) == equivalent(reference, answer) == same


ON_PURPOSE = {"1 1/2", "1 2", "x=5", r"3\text{ or }5", "", " ", r"\%"}
"""Answers that the published checker takes for the one beside them in `DIFFERENT`."""


@pytest.mark.filterwarnings("ignore")
def test_what_the_published_checker_takes_for_the_same_is_the_same_but_for_what_differs_on_purpose():
    is_equiv = pytest.importorskip("lm_eval.tasks.hendrycks_math.utils").is_equiv
    pairs = [(one, other) for one, other, _ in PUBLISHED] + SAME + [pair for pair in DIFFERENT if None not in pair]
    wrong = {one for one, other in pairs if is_equiv(one, other) and not equivalent(one, other)}
    assert wrong == ON_PURPOSE


@pytest.mark.parametrize(("answer", "reference"), SAME)
def test_one_answer_in_two_spellings_is_the_same(answer, reference):
    assert equivalent(answer, reference)
    assert equivalent(reference, answer)


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT)
def test_two_answers_are_not_the_same(answer, reference):
    assert not equivalent(answer, reference)
    assert not equivalent(reference, answer)


LATEX = st.text(r"\{}()[],./ 0123456789x^_=$%-." + "\n", max_size=30) | st.lists(
    st.sampled_from([r"\frac", r"\sqrt", r"\text{ a}", r"\left", r"\{", r"\}", "{", "}", "1", ",", " ", "x=", "/", "^"])
).map("".join)


@given(LATEX, LATEX)
def test_any_text_is_compared_without_an_error_and_the_same_as_itself(one, other):
    assert equivalent(one, one) == bool(one.strip())
    assert equivalent(one, other) == equivalent(other, one)
    final_answer(one + r"\boxed" + other)


@given(st.fractions(), st.integers(1, 9))
def test_fractions_are_equal_as_numbers_are(value, factor):
    top, bottom = value.numerator, value.denominator
    sign = "-" if top < 0 else ""
    written = rf"{sign}\dfrac{{{abs(top) * factor}}}{{{bottom * factor}}}"
    assert number(written) == value
    assert equivalent(f"{top}/{bottom}", written)
    assert not equivalent(f"{top + 1}/{bottom}", written)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1" * 1900 + "x/",
            "^{" * 150,
            "(" * 1999,
            r"\{" + "1," * 900 + r"\}",
            "{" * 150 + "}" * 150,
            r"\text{ a}" * 180,
        ),
        *("1 " * 900, r"\sqrt" * 300, "x=" * 900, "_" * 1999, "." * 1999, "," * 1999, r"\frac" * 300),
    ],
)
def test_no_answer_takes_long(text):
    """Exponential in the length, each would take longer than the suite has."""
    assert not equivalent(text, text + "1")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed{5}$.", "5"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{\{1, 2\}} done}", r"\{1, 2\}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"$x = \boxed 55$ units", "55"),
        (r"\boxed 5 units", "5"),
        (r"\boxed{}", None),
        (r"\boxed{1} \boxed{2", None),
        (r"\boxed", None),
        (r"\boxedly{5}", None),
        ("no answer", None),
        ("", None),
        (r"\boxed{$5$}", "5"),
        ("\\boxed{a\nb}", "a\nb"),
        (r"\boxed{\boxed{5}}", "5"),
    ],
)
def test_the_answer_is_what_the_last_box_holds(text, answer):
    assert final_answer(text) == answer


def test_calculation_is_asked_for_by_name_and_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert not equivalent("2+3", "5")
    assert equivalent("5", "5.0", math_verify=True)
    with pytest.raises(ImportError, match="pip install math-verify"):
        equivalent("2+3", "5", math_verify=True)


def test_calculation_finds_what_spelling_does_not():
    pytest.importorskip("math_verify")
    assert equivalent("2+3", "5", math_verify=True)
    assert not equivalent("2+3", "6", math_verify=True)
