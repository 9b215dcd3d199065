r"""Whether two answers to a problem of mathematics are the same, written in LaTeX or plain.

As the field does it (`is_equiv` of Hendrycks et al. 2021): both are brought to one spelling, and compared. `\frac12`,
`\dfrac{1}{2}` and 1/2 are one, units, percent signs, dollars and degrees are left out, x=5 is 5. Beyond that, plain
numbers are compared exactly (0.5 is 1/2), tuples, intervals, matrices and lists entry by entry, and sets in any order.
Nothing is calculated: 2+3 is not 5, and a power of a million digits costs nothing.

Of what `is_equiv` takes for the same, this does not on purpose: 1 1/2 and 11/2, as a space between two digits counts;
x=5 and y=5; `3\text{ or }5` and 3, as a unit stands at the end alone; and answers that are empty, or marks alone.
"""

import re
from fractions import Fraction

from mixkabrn_jax.data.sources.math import boxed, closing

_LONGEST, _MOST_BRACES = 2000, 200
"""Longer answers are compared as they stand: nobody's answer, and reading it could take long."""
_DEEPEST = 3
"""Entries of tuples of tuples further in are compared as text."""
_SET = (r"\{", r"\}")


def final_answer(text: str) -> str | None:
    r"""What stands in the last `\boxed{}` or `\fbox{}` of a solution; None where there is none, or no end of it."""
    return boxed(text) or None


def equivalent(answer: str | None, reference: str | None, *, math_verify: bool = False) -> bool:
    """Whether two answers are the same. None, and what is empty, is no answer and the same as nothing.

    Args:
        math_verify: asks the package of this name too where the spelling differs: it calculates, so that more answers
            count than in published results.

    Raises: ImportError, saying what to install, with `math_verify` where it is missing.
    """
    if not (answer or "").strip() or not (reference or "").strip():
        return False
    if answer.strip() == reference.strip():
        return True
    if any(len(text) > _LONGEST or text.count("{") > _MOST_BRACES for text in (answer, reference)):
        return False
    return _same(answer, reference) or (math_verify and _verified(answer, reference))


def number(text: str) -> Fraction | None:
    r"""The value of a plain number, such as -3, 1,234.5, .5, 1/2, \frac{1}{2} or 1 1/2; None of anything else."""
    return _value(normalize(text))


def normalize(text: str) -> str:
    """An answer in the spelling that answers are compared in."""
    return _spelled(text)[1]


def _same(answer, reference):
    (name, text), (other, other_text) = _spelled(answer), _spelled(reference)
    # `x=5` is 5, and not `y=5`.
    if name and other and name != other:
        return False
    if not text or not other_text:
        return False
    # 100,121 is a number, and may be the list 100, 121 as well.
    return _meaning(text) == _meaning(other_text) or _spelled(answer, False)[1] == _spelled(reference, False)[1]


def _meaning(text, depth=0):
    """What texts of one meaning have in common: a number, (brackets, entries), or, of all else, the text."""
    text = _as_fraction(text)
    if (value := _value(text)) is not None:
        return value
    parts = _entries(text) if depth < _DEEPEST else None
    if parts is None:
        return text
    brackets, entries = parts
    entries = [_meaning(entry, depth + 1) for entry in entries]
    return brackets, frozenset(entries) if brackets == _SET else tuple(entries)


# Spelling. The order matters: what is said of spaces must come before they go, and of `\ ` before `\\` does.


def _spelled(text, has_thousands=True):
    """(name, value): a name only where the whole is an equation such as `x=5`. Thousands are put together, or not."""
    text = text.strip()
    if r"\begin{" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z%$!,;:{} ])", r"\\", text)  # one backslash too many, as in a quoted string
    text = _plain_signs(text)
    text = _without_units(text)
    text = re.sub(r"\.\s*$", "", text).strip()
    name, text = _named(text)
    text = _ONLY_TEXT.sub(r"\1", text).strip()
    text = _without_spaces(_with_thousands(text) if has_thousands else text)
    return name, _as_fraction(_braced(re.sub(r"(?<![\d.])\.(?=[\d\\])", "0.", text)))


_REPLACED = [
    (r"\\!|\\left(?![A-Za-z])|\\right(?![A-Za-z])|\\[bB]igg?[lrm]?(?![A-Za-z])|\\displaystyle(?![A-Za-z])", ""),
    (r"\^\s*\\circ(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\\degree(?![A-Za-z])|°", ""),
    (r"\\?\$|\\?%", ""),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"(?<![A-Za-z\\])[dt]frac(?![A-Za-z])", "frac"),
    (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox)(?![A-Za-z])\s*(?=\{)", r"\\text"),
    (r"[\u2212\u2013]|\\text\{\s*-\s*\}", "-"),
    (r"\\lbrace(?![A-Za-z])", r"\\{"),
    (r"\\rbrace(?![A-Za-z])", r"\\}"),
    (r"\\(?:le|leq|leqslant)(?![A-Za-z])", r"\\le "),
    (r"\\(?:ge|geq|geqslant)(?![A-Za-z])", r"\\ge "),
    (r"(?<=\d)\{,\}(?=\d)", ","),
    (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])|\s", " "),
]
_REPLACED = [(re.compile(pattern), new) for pattern, new in _REPLACED]


def _plain_signs(text):
    # `1,\! 000`: no space is meant.
    text = re.sub(r",\\!\s*", ",", text)
    for pattern, new in _REPLACED:
        text = pattern.sub(new, text)
    return text


_TEXT_UNIT = re.compile(r"(?<=[^\s,=(\[]) *\\text\{[^{}]*\} *(?:\^ *(?:\d|\{ *\d+ *\}))? *\.?$")
_WORD_UNIT = re.compile(
    r"(?<=\d) +(?:(?:square|cubic|sq\.?) +)?(?:units?|[ckm]?m|km/h|mph|in(?:ch(?:es)?)?|feet|foot|ft|yards?|miles?|"
    r"(?:centi|milli|kilo)?meters?|k?g|grams?|kilograms?|pounds?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|"
    r"degrees?|percent|dollars?|cents?|points?|ways?|times)\.?$",
    re.IGNORECASE,
)
_ONLY_TEXT = re.compile(r"^\\text\{([^{}]*)\}$")


def _without_units(text):
    text = text.strip()
    # A unit stands at the end, behind something. `\text{even}` alone is the answer; "or" in the middle parts two.
    while (shorter := _TEXT_UNIT.sub("", text)) != text:
        text = shorter
    return _WORD_UNIT.sub("", text).strip()


_EQUATION = re.compile(
    r"(?P<name>(?:\\[A-Za-z]+|[A-Za-z])(?:_(?:\w|\{\w+\}))?|[A-Za-z] *\( *[A-Za-z] *\))"
    r" *(?:=|\\in(?![A-Za-z])) *(?P<value>[^=]+)"
)


def _named(text):
    """(name, value) of `x=5` and `x \\in [1,2]`; ("", text) of what is no such equation."""
    found = _EQUATION.fullmatch(text)
    return (found["name"].replace(" ", ""), found["value"]) if found else ("", text)


def _with_thousands(text):
    if re.fullmatch(r"-? *\d{1,3}(?:,\d{3})+(?:\.\d*)?", text):
        text = text.replace(",", "")
    if re.fullmatch(r"-? *\d{1,3}(?: \d{3})+(?:\.\d*)?", text):
        text = text.replace(" ", "")
    return text


def _without_spaces(text):
    """But for those between two digits: 1 1/2 is not 11/2."""
    # The space that ends a command before a letter is part of it: `2\pi r`.
    return re.sub(r"(?<!\d) +| +(?!\d| )", "", re.sub(r"(\\[A-Za-z]+) +(?=[A-Za-z])", r"\1{}", text))


def _braced(text):
    r"""With braces around what `\frac`, `\sqrt` and powers take."""
    parts, at = [], 0
    for found in re.finditer(r"\\frac(?![A-Za-z])|\\sqrt(?![A-Za-z])(\[[^\]]*\])?|[\^_]", text):
        if found.start() < at:
            continue  # inside an argument, which was dealt with
        parts.append(text[at : found.start()] + found[0])
        at = found.end()
        for _ in range(2 if found[0] == r"\frac" else 1):
            argument, at = _argument(text, at, found[0] in "^_")
            parts.append("{" + _braced(argument) + "}")
    return "".join(parts) + text[at:]


def _argument(text, at, is_power):
    """(what a command at this place takes, where that ends): a group in braces, another command or one character.

    TeX reads 2^10 as 2^{1}0, and whoever writes it means 2^{10}.
    """
    at += text[at : at + 1] == " "
    if text[at : at + 1] == "{" and (end := closing(text, at)) is not None:
        return text[at + 1 : end], end + 1
    found = re.compile(r"\\[A-Za-z]+(?:\{\})?|" + (r"\d+|" if is_power else "") + r"\\?.").match(text, at)
    if found is None:
        return "", at
    return found[0].removesuffix("{}"), found.end()


# Possessive, as what has failed at one split of the digits fails at all others.
_FACTOR = r"(?:\d++(?:\.\d++)?|\\pi|[A-Za-z]|\\sqrt\{[^{}]*\})"
_SLASH = re.compile(rf"(-?)((?:{_FACTOR})++)/({_FACTOR})")


def _as_fraction(text):
    r"""`a/b` as `\frac{a}{b}` where that is all, and a minus in front of a fraction instead of on top of it."""
    if found := _SLASH.fullmatch(text):
        text = rf"{found[1]}\frac{{{found[2]}}}{{{found[3]}}}"
    return re.sub(r"^\\frac\{-([^{}+-]*(?:\{[^{}]*\})?)\}", r"-\\frac{\1}", text)


# Numbers and entries.

_DECIMAL = r"\d+(?:\.\d*)?"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<whole>\d+)? *(?:\\frac\{{(?P<top>{_DECIMAL})\}}\{{(?P<bottom>{_DECIMAL})\}}"
    rf"|(?<= )(?P<top2>\d+)/(?P<bottom2>\d+))|(?P<decimal>{_DECIMAL}))"
)


def _value(text):
    found = _NUMBER.fullmatch(text)
    # Python reads no longer numbers, and nobody writes them.
    if found is None or len(text) > 1000:
        return None
    top, bottom = found["top"] or found["top2"], found["bottom"] or found["bottom2"]
    value = Fraction(found["decimal"] or found["whole"] or 0)
    if top:
        if not Fraction(bottom):
            return None
        value += Fraction(top) / Fraction(bottom)
    return -value if found["sign"] == "-" else value


_MATRIX = re.compile(r"\\begin\{(\w+)\}(.*?)(?:\\\\)?\\end\{\1\}")


def _entries(text):
    """(brackets, entries) of a tuple, an interval, a set, a matrix or a bare list; None of anything else.

    The brackets of a matrix are its environment, with the number of entries in each row.
    """
    if found := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in found[2].split(r"\\")]
        return (found[1], *map(len, rows)), [entry for row in rows for entry in row]
    for brackets in (("(", ")"), ("(", "]"), ("[", "]"), ("[", ")"), _SET):
        opening, closing = brackets
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
            entries = _split(text[len(opening) : -len(closing)])
            # One entry in brackets is no tuple.
            if entries is not None and (len(entries) > 1 or brackets == _SET):
                return brackets, entries
    entries = _split(text)
    return None if entries is None or len(entries) == 1 else (("", ""), entries)


def _split(text):
    """What stands between commas that are in no brackets; None where brackets do not close."""
    entries, depth, start = [], 0, 0
    for at, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return None
        if sign == "," and depth == 0:
            entries.append(text[start:at])
            start = at + 1
    return None if depth else [*entries, text[start:]]


def _verified(answer, reference):
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise ImportError("answers are compared by calculation with math-verify: pip install math-verify") from error
    return bool(verify(parse(f"${reference}$"), parse(f"${answer}$")))
