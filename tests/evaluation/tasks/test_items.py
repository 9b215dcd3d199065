"""Records of published sets, as their authors and the Hugging Face hub write them."""

import pytest

from mixkabrn_jax.evaluation.tasks.items import Item, of_record


@pytest.mark.parametrize(
    ("record", "want"),
    [
        ({"context": "c", "choices": ["x", "y"], "answer": 1}, ("c", ("x", "y"), 1)),
        ({"ctx": "c", "endings": ["x", "y", "z"], "label": "2"}, ("c", ("x", "y", "z"), 2)),
        (
            {"question": "c", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
            ("c", ("x", "y"), 1),
        ),
        ({"question": "c", "choices": ["x", "y"], "gold": "b"}, ("c", ("x", "y"), 1)),
        ({"sentence_good": "g", "sentence_bad": "b", "linguistics_term": "t"}, ("", ("g", "b"), 0)),
        ({"text": "one two  three\n"}, ("one two", ("three",), 0)),
        ({"text": "one two", "domain": None}, ("one", ("two",), 0)),
    ],
)
def test_the_usual_records_are_items(record, want):
    assert read(record) == want


def read(record):
    found = of_record(record, "f:1", "")
    return (found.context, found.choices, found.answer) if isinstance(found, Item) else found


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({"context": "A story.", "question": "Who?"}, "A story.\nWho?"),
        ({"article": "A story.", "question": "Who?"}, "A story.\nWho?"),
        ({"context": "", "question": "Who?"}, "Who?"),
        ({"context": "", "passage": "A story.", "question": "Who?"}, "A story.\nWho?"),
        ({"context": "A story.", "question": ""}, "A story."),
        ({"context": "A story.", "question": None}, "A story."),
        ({"support": "", "context": "A story.", "query": "Who?"}, "A story.\nWho?"),
        ({"question_stem": "Who?"}, "Who?"),
        ({"context": ""}, ""),
    ],
)
def test_a_passage_and_its_question_are_both_asked(fields, context):
    assert read(fields | {"options": ["x", "y"], "answer": "B"}) == (context, ("x", "y"), 1)


@pytest.mark.parametrize(
    ("choices", "field", "answer", "index"),
    [
        (["1", "2", "3"], "answer", 1, 1),  # MMLU
        (["1", "2", "3"], "answer", "1", 0),
        (["c", "a", "b"], "answer", "c", 0),
        (["two", "three"], "answer", "two", 0),
        (["two", "three"], "answer", " three\n", 1),
        (["x", "y", "z", "w"], "answer", "C", 2),  # RACE
        (["x", "y", "z", "w"], "label", "3", 3),  # HellaSwag
        (["A", "B"], "answer", "B", 1),
        (["0", "1"], "label", "1", 1),
        (["x", "C"], "answer", "C", 1),  # there is no third
        (["B", "A"], "answer", "B", "'answer' is the text of one choice and names another"),
        (["1", "2", "3"], "label", "1", "'label' is the text of one choice and names another"),
        (["c", "a", "b"], "gold", "c", "'gold' is the text of one choice and names another"),
        (["x", "y"], "label", "", "no answer among the choices"),  # a test split whose answers are secret
        (["x", "y"], "label", -1, "no answer among the choices"),
        (["x", "y"], "answer", "2", "no answer among the choices"),
        (["x", "y"], "answer", "9" * 5000, "no answer among the choices"),
        (["x", "y"], "answer", "\u00df", "no answer among the choices"),
    ],
)
def test_a_number_is_an_index_and_a_text_is_a_choice_a_letter_or_a_number(choices, field, answer, index):
    found = of_record({"question": "q", "choices": choices, field: answer}, "f:1", "")
    assert found.answer == index if isinstance(index, int) else index in found


@pytest.mark.parametrize(
    ("texts", "labels", "answer", "index"),
    [
        (["3", "2"], ["2", "3"], "3", 1),  # ARC: labels decide, whatever the choices are
        (["B", "A"], ["A", "B"], "B", 1),
        (["x", "y"], ["A", "B"], "y", 1),
        (["x", "y"], ["A", "B"], 1, 1),
        (["x", "y"], [1, 2], 2, 1),
        (["x", "y"], ["1", "2"], 1, "the index of one choice and the label of another"),
        (["x", "y"], ["1", "2"], "0", "no answer among the choices"),
        (["x", "y"], ["A", "B", "C"], "C", "no answer among the choices"),
    ],
)
def test_where_choices_have_labels_these_are_answers(texts, labels, answer, index):
    record = {"question": "q", "choices": {"text": texts, "label": labels}, "answerKey": answer}
    found = of_record(record, "f:1", "")
    assert found.answer == index if isinstance(index, int) else index in found


@pytest.mark.parametrize(
    ("record", "want"),
    [
        ({"goal": "g", "sol1": "x", "sol2": "y", "label": 1}, ("g", ("x", "y"), 1)),
        (
            {"premise": "It broke. ", "choice1": "I fell.", "choice2": "We ran.", "question": "cause", "label": 0},
            ("It broke because", ("i fell.", "we ran."), 0),
        ),
        (
            {"premise": "It broke.", "choice1": "X.", "choice2": "Y.", "question": "effect", "label": 1},
            ("It broke therefore", ("x.", "y."), 1),
        ),
        ({"premise": "It broke.", "choice1": "X.", "choice2": "Y.", "label": 1}, ("It broke.", ("X.", "Y."), 1)),
        (
            {"context": "c", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3\n"},
            ("c\nq", ("x", "y", "z"), 2),
        ),
        (
            {"context": "c", "question": "q", **{f"answer{i}": f"{3 - i}" for i in range(4)}, "label": "3"},
            ("c\nq", ("3", "2", "1", "0"), 3),
        ),
        (
            {"question": "q", "correct_answer": "r", **{f"distractor{i}": f"d{i}" for i in (1, 2, 3)}, "support": ""},
            ("q", ("r", "d1", "d2", "d3"), 0),
        ),
        ({"question": "is it", "passage": "p", "answer": True}, ("p\nis it?", ("no", "yes"), 1)),
        ({"question": "is it", "passage": "p", "answer": False, "title": "t"}, ("p\nis it?", ("no", "yes"), 0)),
        ({"question": "is it", "passage": "p", "label": 1, "idx": 7}, ("p\nis it?", ("no", "yes"), 1)),
        ({"article": "a", "question": "q", "options": ["x", "y"], "answer": "A"}, ("a\nq", ("x", "y"), 0)),
        (
            {
                "question": {"stem": "q", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]},
                "answerKey": "B",
            },
            ("q", ("x", "y"), 1),
        ),
    ],
)
def test_the_columns_of_published_sets_are_items(record, want):
    assert read(record) == want


def test_the_options_of_winogrande_fill_the_gap():
    record = {"sentence": "Ann called Eve as _ was late.", "option1": "Ann", "option2": "Eve", "answer": "2"}
    found = of_record(record, "f:1", "")
    assert (found.choices, found.answer) == (("Ann", "Eve"), 1)
    assert found.pairs() == [
        (b"Ann called Eve as Ann", b" was late."),
        (b"Ann called Eve as Eve", b" was late."),
    ]
    for sentence in ("no gap", "_ and _", "at the end _", None):
        assert "no sentence with one gap" in of_record(record | {"sentence": sentence}, "f:1", "")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"context": "c", "choices": ["x", "y"], "answer": 2}, "no answer among the choices"),
        ({"context": "c", "choices": ["x", "y"], "answer": True}, "no answer among the choices"),
        ({"context": "c", "choices": ["x", "y"]}, "no answer among the choices"),
        ({"context": "c", "choices": ["x"], "answer": 0}, "no list of two choices or more"),
        ({"choices": ["x", "y"], "answer": 0}, "no context"),
        ({"context": ["c"], "question": "q", "choices": ["x", "y"], "answer": 0}, "a context that is no text"),
        ({"question": {"q": "?"}, "choices": ["x", "y"], "answer": 0}, "a context that is no text"),
        ({"goal": "g", "sol1": "x", "sol2": "y"}, "no answer among the choices"),
        ({"premise": "p", "choice1": "x", "choice2": 3, "label": 0}, "no text in 'premise', 'choice1' or 'choice2'"),
        ({"passage": "p", "question": "how many", "answer": "1"}, "neither choices, nor a minimal pair"),
        ({"text": "word"}, "neither choices, nor a minimal pair"),
        ({"text": "two words", "label": 1}, "a text among other fields"),
        ({}, "neither choices, nor a minimal pair"),
    ],
)
def test_a_record_that_is_no_item_says_why(record, reason):
    assert reason in of_record(record, "f:1", "")


def test_a_domain_is_that_of_the_file_or_else_the_record_names_it():
    pair = {"sentence_good": "g", "sentence_bad": "b", "linguistics_term": "islands"}
    question = {"question": "q", "choices": ["x", "y"], "answer": 1, "subject": "anatomy"}
    assert [of_record(record, "f:1", "").domain for record in (pair, question)] == ["islands", "anatomy"]
    assert [of_record(record, "f:1", "mine").domain for record in (pair, question)] == ["mine", "mine"]
