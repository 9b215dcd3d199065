"""Prompts and targets out of records, by the usual names of columns and out of messages."""

import pytest

from mixkabrn_jax.data import instructions
from mixkabrn_jax.data.documents import DamagedError, Skipped
from mixkabrn_jax.data.template import TEMPLATES

COLUMNS = ("text", "content")


def read(record):
    """((prompt, target) or None, what was left out) of a record that is one of instructions."""
    assert instructions.is_one(record, COLUMNS)
    skipped = Skipped()
    documents = list(instructions.documents(record, "x.jsonl:1", "d", skipped))
    assert all((document.domain, document.id) == ("d", "x.jsonl:1") for document in documents)
    return next(((one.prompt.decode(), one.target.decode()) for one in documents), None), dict(skipped.counts)


def said(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


TURNS = [("user", "Who?"), ("assistant", "Ada "), ("user", "And?"), ("assistant", "B")]


@pytest.mark.parametrize(
    ("record", "prompt", "target"),
    [
        ({"prompt": "Ask", "completion": "told"}, "Ask\n", "told"),
        ({"prompt": "Ask", "response": "told", "id": 1}, "Ask\n", "told"),
        ({"prompt": "Ask", "target": "told\n"}, "Ask\n", "told\n"),
        # Whoever brings white space wants no other.
        ({"prompt": "Ask ->", "completion": " told"}, "Ask ->", " told"),
        ({"prompt": "Ask:\n\n", "completion": "told"}, "Ask:\n\n", "told"),
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, "Add.\n1 1\n", "2"),
        ({"instruction": "Add.", "input": "", "output": "2"}, "Add.\n", "2"),
        ({"instruction": "Add.", "input": None, "output": "2"}, "Add.\n", "2"),
        (
            {"instruction": "Who?", "context": "Ada was.", "response": "Ada", "category": "qa"},
            "Who?\nAda was.\n",
            "Ada",
        ),
        ({"question": "Who?", "answer": "é"}, "Who?\n", "é"),
        ({"question": "Who?", "answer": ["Ada"], "response": "Ada"}, "Who?\n", "Ada"),
        ({"text": "Who? Ada", "prompt": "Who?", "completion": " ", "output": "Ada"}, "Who?\n", "Ada"),
        (said(("user", "Who?"), ("assistant", "Ada")), "Who?\n", "Ada"),
        (said(("system", "Be short."), *TURNS), "Be short.\nWho?\nAda And?\n", "B"),
        (said(("system", ""), ("user", "a"), ("assistant", "a")), "a\n", "a"),
    ],
)
def test_the_target_stands_behind_the_prompt_with_a_line_break_between(record, prompt, target):
    assert read(record) == ((prompt, target), {})


NO_TARGET = "no text in 'completion' or 'response' or 'target' or 'output' or 'answer'"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "Ask"}, NO_TARGET),
        ({"prompt": "Ask", "text": "x", "completion": ""}, NO_TARGET),
        ({"question": "Ask", "answer": ["told"]}, NO_TARGET),
        ({"prompt": " ", "completion": "told"}, "no text in 'prompt' or 'instruction' or 'question'"),
        (said(), "no message of the role 'assistant'"),
        (said(("user", "Who?")), "no message of the role 'assistant'"),
        (
            said(("system", " "), ("assistant", "Hello")),
            "the role 'assistant' first, where 'system' or 'user' is needed",
        ),
        (
            said(("system", "Be"), ("assistant", "Hello")),
            "the role 'assistant' behind 'system', where 'user' is needed",
        ),
        (
            said(("user", "a"), ("user", "b"), ("assistant", "c")),
            "the role 'user' behind 'user', where 'assistant' is needed",
        ),
        (said(*TURNS[:2], TURNS[1]), "the role 'assistant' behind 'assistant', where 'user' is needed"),
        (said(*TURNS, ("system", "x"), *TURNS), "the role 'system' behind 'assistant', where 'user' is needed"),
        (said(("tool", "a"), ("assistant", "b")), "the role 'tool' first, where 'system' or 'user' is needed"),
        (said(("user", "Who?"), ("assistant", "\n")), "no text in a message of the role 'assistant'"),
        (said(("user", "Who?"), ("assistant", ""), *TURNS), "no text in a message of the role 'assistant'"),
        (said(("user", " "), ("assistant", "a")), "no text in a message of the role 'user'"),
        (said(("user", ["Who?"]), ("assistant", "a")), "a message without the texts 'role' and 'content'"),
        ({"messages": ["Who?"]}, "a message without the texts 'role' and 'content'"),
        ({"messages": [{"content": "Who?"}]}, "a message without the texts 'role' and 'content'"),
    ],
)
def test_what_lacks_the_prompt_or_the_target_is_damage_with_its_reason(record, reason):
    assert read(record) == (None, {reason: 1})
    with pytest.raises(DamagedError, match=r"^x\.jsonl:1: "):
        list(instructions.documents(record, "x.jsonl:1", "", Skipped("error")))


def test_by_a_template_roles_are_told_apart_and_all_answers_end_alike():
    record = said(("system", "Be short."), *TURNS)
    (found,) = instructions.documents(record, "x.jsonl:1", "d", Skipped(), TEMPLATES["chat"])
    assert found.content == b"Be short.\nQuestion: Who?\nAnswer: Ada \x03Question: And?\nAnswer: B\x03"
    assert found.texts[1::2] == (b" Ada \x03", b" B\x03")
    assert found.target == b" B\x03"
    record = {"instruction": "Add.", "input": "1 1", "output": "2\n\nas I said"}
    (found,) = instructions.documents(record, "x.jsonl:1", "d", Skipped(), TEMPLATES["chat"])
    assert found.texts == (b"Question: Add.\n1 1\nAnswer:", b" 2\n\nas I said\x03")


def test_a_text_with_the_end_of_answers_in_it_is_damage_where_there_is_one():
    record = {"prompt": "Ask", "completion": "to\x03ld"}
    assert read(record) == (("Ask\n", "to\x03ld"), {})
    with pytest.raises(DamagedError, match=r"^x\.jsonl:1: a text with '\\x03', which ends answers"):
        list(instructions.documents(record, "x.jsonl:1", "", Skipped("error"), TEMPLATES["chat"]))


def test_messages_behind_the_last_of_the_assistant_are_counted():
    record = said(("user", "a"), ("assistant", "b"), ("user", "thanks"), ("user", "bye"))
    assert read(record) == (("a\n", "b"), {"messages behind the last of the assistant": 2})


@pytest.mark.parametrize(
    "record", [{"text": "a"}, {"prompt": "a", "text": "b"}, {"answer": "a"}, {}, {"messages": "a"}]
)
def test_other_records_are_none_of_instructions(record):
    assert not instructions.is_one(record, COLUMNS)
