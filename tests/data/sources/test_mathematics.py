r"""AMPS and MATH: problems with solutions, and the answers in them."""

import json

import pytest

from mixkabrn_jax.data.documents import PART_BYTES
from mixkabrn_jax.data.sources.math import boxed
from tests.data.sources.trees import PACKINGS, lines, pack, parquet, read, write

# In the form of the sets, and ours.
AMPS = {
    "khan/100/1607742112.json": {"problem": "What is $1+1$?", "hints": ["Count: $1$, then $2$.", "It is $2$."]},
    "khan/100/1607742113.json": {"question": "And $2+2$?", "hints": [], "solution": "$2+2$ is\n$\\boxed{4}$."},
    "mathematica/algebra/sums/1.txt": "Problem:\nAdd $1$\nand $2$.\nAnswer:\n$3$\n",
    "mathematica/algebra/sums/2.txt": "Problem:\r\nHalve\r\n$1$.\r\nAnswer:\r\n$\\frac{1}{2}$\r\nAnswer:\r\n$0.5$\r\n",
    "mathematica/calculus/derivatives_w_steps/7.txt": (
        "Problem:\nDerive $x^2$.\nAnswer:\nAnswer: by the power rule,\n\\fbox{$2 x$}\n"
    ),
}
KHAN = [
    ("khan", "What is $1+1$?", "Count: $1$, then $2$.\nIt is $2$.", ("It is $2$.",)),
    ("khan", "And $2+2$?", "$2+2$ is\n$\\boxed{4}$.", ("4",)),
]
MATHEMATICA = [
    ("algebra", "Add $1$\nand $2$.", "$3$", ("$3$",)),
    ("algebra", "Halve\n$1$.", "$\\frac{1}{2}$", ("$\\frac{1}{2}$", "$0.5$")),
    ("calculus", "Derive $x^2$.", "Answer: by the power rule,\n\\fbox{$2 x$}", ("2 x",)),
]


def _told(documents):
    """(domain, problem, solution, answers): the prompt and target without what is the same for all."""
    return [
        (
            document.domain,
            document.prompt.decode().removeprefix("Question: ").removesuffix("\nAnswer:"),
            document.target.decode().removeprefix(" "),
            document.answers,
        )
        for document in documents
    ]


@pytest.mark.parametrize("packing", PACKINGS)
def test_amps_is_one_document_a_file_with_topics_as_domains(tmp_path, packing):
    path = pack(tmp_path / "any", packing, {f"amps/{name}": content for name, content in AMPS.items()})
    documents, skipped = read("amps", path, "train")
    assert _told(documents) == [*KHAN, *MATHEMATICA]
    assert documents[0].prompt == b"Question: What is $1+1$?\nAnswer:"
    assert [document.id.endswith(name) for document, name in zip(documents[2:], [*AMPS][2:], strict=True)] == [True] * 3
    assert not skipped.counts
    assert documents == read("amps", path)[0]


def test_a_part_of_amps_has_the_domain_that_it_has_in_the_whole(tmp_path):
    write(tmp_path / "amps", AMPS)
    for part, expected in (
        ("khan", KHAN),
        ("khan/100/1607742112.json", KHAN[:1]),
        ("mathematica", MATHEMATICA),
        ("mathematica/algebra", MATHEMATICA[:2]),
        ("mathematica/algebra/sums", MATHEMATICA[:2]),
        ("mathematica/calculus/derivatives_w_steps/7.txt", MATHEMATICA[2:]),
    ):
        assert _told(read("amps", tmp_path / "amps" / part)[0]) == expected
    sums = {name.rpartition("/")[2]: content for name, content in AMPS.items() if "sums" in name}
    assert (
        _told(read("amps", pack(tmp_path / "algebra", "tar.gz", {f"sums/{n}": c for n, c in sums.items()}))[0])
        == MATHEMATICA[:2]
    )


def test_what_is_no_record_of_amps_is_named_with_its_place(tmp_path):
    damaged = {
        "khan/1/1.json": {"problem": "no hints and no solution"},
        "khan/1/2.json": {"problem": "empty ones", "hints": ["", 3], "solution": None},
        "khan/1/3.json": {"hints": ["no problem"]},
        "khan/1/4.json": {"problem": " ", "question": None},
        "khan/1/5.json": '{"problem": "cut\noff"',
        "khan/1/6.json": [3],
        "mathematica/a/b/1.txt": "Problem:\nno answer\n",
        "mathematica/a/b/2.txt": "Problem:\nan empty one\nAnswer:\n \n",
        "mathematica/a/b/3.txt": "Answer:\n3\n",
        "mathematica/a/b/4.txt": b"x" * (PART_BYTES + 1),
        "mathematica/a/b/5.txt": "Problem:\n1\nAnswer:\n1\n".encode("utf-16"),
        "README.md": "# AMPS",
    }
    documents, skipped = read("amps", write(tmp_path, AMPS | damaged))
    assert len(documents) == len(AMPS)
    assert skipped.counts == {
        "no text in 'hints' or 'solution'": 2,
        "no text in 'question' or 'problem'": 1,
        "no text in 'question' or 'problem', no text in 'hints' or 'solution'": 1,
        "not JSON, or cut off": 1,
        "not a JSON object": 1,
        "no Answer: block": 2,
        "no Problem: block": 1,
        f"longer than {PART_BYTES} bytes: no problem of Mathematica's": 1,
        "not text (UTF-16)": 1,
        "no file of records": 1,
    }
    assert skipped.places["no text in 'hints' or 'solution'"] == "khan/1/1.json:1"
    assert skipped.places["no Answer: block"] == "mathematica/a/b/1.txt:1"


MATH = {
    "train/algebra/1.json": {
        "problem": "Halve $x$.",
        "level": "Level 1",
        "type": "Algebra",
        "solution": "First $\\boxed{x}$. So $\\boxed{\\frac{x}{2}}$.",
    },
    "train/counting_and_probability/12.json": {
        "problem": "Which set?",
        "level": "Level 5",
        "type": "Counting & Probability",
        "solution": "It is\n\\[\\boxed{\\left\\{ 1, \\sqrt{2} \\right\\}}.\\]",
    },
    "test/algebra/1.json": {
        "problem": "What is $2+3$?",
        "level": "Level 1",
        "type": "Algebra",
        "solution": "It is $\\boxed 5$.",
    },
}
TRAIN = [
    ("Algebra", "Halve $x$.", "First $\\boxed{x}$. So $\\boxed{\\frac{x}{2}}$.", ("\\frac{x}{2}",)),
    (
        "Counting & Probability",
        "Which set?",
        "It is\n\\[\\boxed{\\left\\{ 1, \\sqrt{2} \\right\\}}.\\]",
        ("\\left\\{ 1, \\sqrt{2} \\right\\}",),
    ),
]
TEST = [("Algebra", "What is $2+3$?", "It is $\\boxed 5$.", ("5",))]


@pytest.mark.parametrize("packing", PACKINGS)
def test_math_is_the_same_as_files_of_one_problem_and_as_files_of_many(tmp_path, packing):
    train, test = [[record for name, record in MATH.items() if name.startswith(split)] for split in ("train", "test")]
    forms = {
        "files": {f"MATH/{name}": record for name, record in MATH.items()},
        "indented": {f"MATH/{name}": json.dumps(record, indent=4) for name, record in MATH.items()},
        "hub": {"algebra/train-00000-of-00001.parquet": parquet(*train), "algebra/test-00000.parquet": parquet(*test)},
        "lines": {"train.jsonl": lines(*train), "test.jsonl": lines(*test)},
        "subject": {
            name: lines(*({**{k: v for k, v in r.items() if k != "type"}, "subject": r["type"]} for r in records))
            for name, records in (("train.jsonl", train), ("test.jsonl", test))
        },
    }
    for form, files in forms.items():
        path = pack(tmp_path / form, packing, files)
        assert _told(read("math", path, "train")[0]) == TRAIN, form
        assert _told(read("math", path, "test")[0]) == TEST, form


def test_a_problem_of_math_without_its_subject_has_its_folders(tmp_path):
    record = {"problem": "What is $1$?", "solution": "$\\boxed{1}$"}
    write(tmp_path, {"MATH/test/prealgebra/3.json": record})
    for part in (".", "MATH/test", "MATH/test/prealgebra", "MATH/test/prealgebra/3.json"):
        assert [document.domain for document in read("math", tmp_path / part)[0]] == ["prealgebra"]


def test_a_solution_without_a_boxed_answer_is_damage(tmp_path):
    damaged = {"1.json": "It is 5.", "2.json": "$\\boxed{5$", "3.json": "$\\boxed{}$", "4.json": "\\boxedness 5"}
    files = {f"test/x/{name}": {"problem": "p", "solution": solution} for name, solution in damaged.items()}
    documents, skipped = read("math", write(tmp_path, MATH | files | {"test/x/5.json": {"problem": "p"}}))
    assert len(documents) == len(MATH)
    assert skipped.counts == {"no boxed answer in 'solution'": 4, "no text in 'solution'": 1}
    assert skipped.places["no boxed answer in 'solution'"] == "test/x/1.json:1"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{1}", "1"),
        ("\\boxed{1} and \\boxed{ 2 }", "2"),
        ("\\fbox{3}", "3"),
        ("\\boxed{\\text{a {b} c}}", "\\text{a {b} c}"),
        ("\\boxed{\\{1\\}}", "\\{1\\}"),
        ("\\boxed{\\left\\{x\\right.}", "\\left\\{x\\right."),
        ("\\boxed{\\begin{matrix} 1 \\\\{2} \\end{matrix}}", "\\begin{matrix} 1 \\\\{2} \\end{matrix}"),
        ("\\boxed {4}", "4"),
        ("\\boxed\n{4}", "4"),
        ("$\\boxed 5$ apples", "5"),
        ("\\boxed 5 apples", "5"),
        ("$\\boxed\\frac12$.", "\\frac12"),
        ("\\fbox{\\fbox{$6$}}", "6"),
        ("\\boxed{$6$ or $7$}", "$6$ or $7$"),
        ("\\boxed{8", ""),
        ("none", ""),
    ],
)
def test_the_last_box_is_the_answer_with_its_nested_braces(text, answer):
    assert boxed(text) == answer
