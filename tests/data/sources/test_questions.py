"""GSM8K and the sets of open questions: prompts, targets and answers out of every published form."""

import json

import pytest

from tests.data.sources.trees import PACKINGS, lines, pack, parquet, read, write

# In the form of GSM8K, and ours.
EGGS = {
    "question": "A hen lays 3 eggs a day. How many in 400 days, and in cartons of 12?",
    "answer": "It lays 3*400 = <<3*400=1200>>1,200 eggs.\n#### 1,200",
}
TEMPERATURE = {
    "question": "It is 2 degrees and falls by 5.5. What is it?",
    "answer": "2-5.5=<<2-5.5=-3.5>>\n#### -3.5\n",
}


def _answers(documents):
    return [
        (document.domain, document.prompt.decode(), document.target.decode(), document.answers)
        for document in documents
    ]


def test_gsm8k_keeps_its_marks_and_the_answer_stands_behind_the_last_line_without_commas(tmp_path):
    documents, skipped = read("gsm8k", write(tmp_path, {"train.jsonl": lines(EGGS, TEMPERATURE)}), "train")
    assert _answers(documents) == [
        (
            "gsm8k",
            "Question: A hen lays 3 eggs a day. How many in 400 days, and in cartons of 12?\nAnswer:",
            " It lays 3*400 = <<3*400=1200>>1,200 eggs.\n#### 1,200",
            ("1200",),
        ),
        (
            "gsm8k",
            "Question: It is 2 degrees and falls by 5.5. What is it?\nAnswer:",
            " 2-5.5=<<2-5.5=-3.5>>\n#### -3.5",
            ("-3.5",),
        ),
    ]
    assert [document.id for document in documents] == ["train.jsonl:1", "train.jsonl:2"]
    assert not skipped.counts


@pytest.mark.parametrize("packing", PACKINGS)
def test_gsm8k_is_the_same_in_every_form_and_packing_and_its_splits_are_those_of_its_names(tmp_path, packing):
    forms = {
        "github": {"data/train.jsonl": lines(EGGS), "data/test.jsonl": lines(TEMPERATURE)},
        "crlf": {"train.jsonl": lines(EGGS).replace("\n", "\r\n"), "test.jsonl": "\ufeff" + lines(TEMPERATURE) + "\n"},
        "hub": {
            "main/train-00000-of-00001.parquet": parquet(EGGS),
            "main/test-00000-of-00001.parquet": parquet(TEMPERATURE),
            "socratic/train-00000-of-00001.parquet": parquet(EGGS),
        },
        "lists": {"gsm8k.train.json": [EGGS], "gsm8k.test.json": json.dumps([TEMPERATURE], indent=2)},
    }
    expected = _answers(read("gsm8k", write(tmp_path / "x", {"train.jsonl": lines(EGGS, TEMPERATURE)}))[0])
    for form, files in forms.items():
        path = pack(tmp_path / form, packing, files)
        assert [*_answers(read("gsm8k", path, "train")[0]), *_answers(read("gsm8k", path, "test")[0])] == expected, form
        assert sorted(_answers(read("gsm8k", path)[0])) == sorted(expected)
        assert read("gsm8k", path)[0] == read("gsm8k", path)[0]


def test_socratic_copies_are_left_out_unless_they_are_named(tmp_path):
    write(tmp_path, {"train.jsonl": lines(EGGS), "train_socratic.jsonl": lines(EGGS, TEMPERATURE)})
    documents, skipped = read("gsm8k", tmp_path, "train")
    assert len(documents) == 1
    assert next(iter(skipped.places.values())) == "train_socratic.jsonl"
    assert len(read("gsm8k", tmp_path / "train_socratic.jsonl", "train")[0]) == 2


def test_what_else_the_published_repository_and_the_hub_hold_is_no_damage(tmp_path):
    solutions = lines({"question": "q", "ground_truth": "1", "175b_verification": {"solution": "1"}})
    files = {"data/train.jsonl": lines(EGGS), "data/example_model_solutions.jsonl": solutions}
    write(tmp_path, files | {"dataset_infos.json": {"main": {"splits": {}}}, "README.md": "x", "LICENSE": "MIT"})
    documents, skipped = read("gsm8k", tmp_path, on_damage="error")
    assert len(documents) == 1
    assert skipped.counts == {"no file of records": 2, "description of a dataset": 1, "solutions of models": 1}


def test_a_record_of_gsm8k_without_what_it_needs_is_named(tmp_path):
    damaged = [
        {"question": "How many?", "answer": "Seven."},
        {"question": "How many?", "answer": "Seven.\n#### "},
        {"question": " ", "answer": "#### 1"},
        {"answer": "#### 1"},
        {"question": "in which year", "answer": ["1972"]},
        {"problem": "x"},
        ["a list"],
    ]
    content = lines(EGGS, *damaged) + '{"question": "cut o\n' + "\n" + lines(TEMPERATURE)
    documents, skipped = read("gsm8k", write(tmp_path, {"train.jsonl": content, "LICENSE": "MIT"}))
    assert [document.answers for document in documents] == [("1200",), ("-3.5",)]
    assert skipped.counts == {
        "no file of records": 1,
        "no answer behind #### in 'answer'": 2,
        "no text in 'question'": 2,
        "no text in 'answer'": 1,
        "no text in 'question', no text in 'answer'": 1,
        "not a JSON object": 1,
        "not JSON": 1,
    }
    assert skipped.places["no answer behind #### in 'answer'"] == "train.jsonl:2"
    assert skipped.places["not JSON"] == "train.jsonl:9"


# The forms of the sets, with questions of our own.
NQ = {"question": "what is the capital of italy", "answer": ["Rome", "Roma", "Rome"]}
TRIVIA = {
    "question": "Which city lies on the Tiber?",
    "question_id": "tc_1",
    "answer": {
        "value": "Rome",
        "aliases": ["Rome", "Roma", "Urbs"],
        "normalized_aliases": ["rome", "roma"],
        "normalized_value": "rome",
        "type": "WikipediaEntity",
    },
}
OFFICIAL = {
    "Question": "Which city lies on the Tiber?",
    "QuestionId": "tc_1",
    "Answer": {"Value": "Rome", "Aliases": ["Rome", "Roma", "Urbs"], "NormalizedAliases": ["rome", "roma"]},
    "SearchResults": [{"Title": "Tiber", "Description": 'a } ] \\ " river'}],
}
WEB = [
    {"qId": "wqr0", "qText": "where do romans live?", "answers": ["Rome", "the Roman Empire"]},
    {"url": "x", "question": "where do romans live?", "answers": ["Rome", "the Roman Empire"]},
    {
        "utterance": "where do romans live?",
        "targetValue": '(list (description Rome) (description "the Roman Empire"))',
    },
]
ROMANS = ("webquestions", "Question: where do romans live?\nAnswer:", " Rome", ("Rome", "the Roman Empire"))
TIBER = (
    "triviaqa",
    "Question: Which city lies on the Tiber?\nAnswer:",
    " Rome",
    ("Rome", "Roma", "Urbs", "rome", "roma"),
)
ITALY = ("nq_open", "Question: what is the capital of italy\nAnswer:", " Rome", ("Rome", "Roma"))


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_sets_of_open_questions_are_told_by_the_form_of_their_records(tmp_path, packing):
    files = {
        "nq/NQ-open.dev.jsonl": lines(NQ),
        "nq/validation-00000-of-00001.parquet": parquet(NQ),
        "trivia/rc/validation-00000-of-00004.parquet": parquet(TRIVIA),
        "trivia/unfiltered-web-dev.json": {"Domain": "unfiltered-web", "Data": [OFFICIAL, OFFICIAL], "Version": 1.0},
        "web/dev.jsonl": lines(*WEB),
        "web/valid.json": json.dumps(WEB, indent=1),
        "web/lines-dev.json": lines(*WEB),
    }
    path = pack(tmp_path / "open", packing, files)
    documents, skipped = read("openqa", path, "validation")
    assert sorted(_answers(documents)) == sorted([ITALY] * 2 + [TIBER] * 3 + [ROMANS] * 9)
    assert len({document.id for document in documents}) == len(documents)
    assert not skipped.counts


def test_a_question_without_an_answer_is_damage_that_says_what_is_missing(tmp_path):
    damaged = [
        {"question": "q", "answer": []},
        {"question": "q", "answer": ["", None, 3]},
        {"question": "q", "answer": {"value": "<unk>", "aliases": [], "normalized_aliases": []}},
        {"Question": "q", "QuestionId": "of a test split"},
        {"question": "q", "targetValue": "(list)"},
        {"question": "of GSM8K", "answer": "#### 1"},
    ]
    documents, skipped = read("openqa", write(tmp_path, {"a.jsonl": lines(*damaged, {"answer": ["x"]}, NQ)}))
    assert _answers(documents) == [ITALY]
    assert skipped.counts == {
        "no list of answers in 'answer', 'answers' or 'targetValue'": len(damaged),
        "no text in 'question' or 'qText' or 'utterance' or 'Question'": 1,
    }


def test_descriptions_may_be_quoted_and_hold_quotes_and_brackets(tmp_path):
    value = r'(list (description "Padmé \"P\" (Amidala)") (description Jaxon Bieber) (description "a"))'
    path = write(tmp_path, {"a.jsonl": lines({"utterance": "who?", "targetValue": value})})
    assert read("openqa", path)[0][0].answers == ('Padmé "P" (Amidala)', "Jaxon Bieber", "a")


def test_half_a_surrogate_pair_is_no_end_of_the_run_and_is_counted(tmp_path):
    halves = '{"question": "what is \\ud83d?", "answer": ["half \\ude00", "\\ud83d\\ude00"], "no": {"\\ud800": 1}}\n'
    for name, content in (("a.jsonl", halves), ("b.json", f"[{halves}]"), ("c.json", halves + halves)):
        documents, skipped = read("openqa", write(tmp_path / name, {name: content}), on_damage="error")
        for document in documents:
            assert document.content.decode() == "Question: what is \ufffd?\nAnswer: half \ufffd"
            assert document.target.decode() == " half \ufffd"
            assert document.answers == ("half \ufffd", "\U0001f600")
        assert skipped.replaced == {name: 2 * len(documents)}
    for source, name in (("text", "text"), ("code", "code")):
        path = write(tmp_path / source, {"d.jsonl": f'{{"{name}": "\\udfff and \\uDBFF"}}'})
        [document], skipped = read(source, path)
        assert document.content.decode() == "\ufffd and \ufffd"
        assert skipped.replaced == {"d.jsonl": 2}
