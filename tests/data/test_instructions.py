"""Prompts and targets out of records, by the usual names of columns and out of messages."""

import pytest

from mixkabrn_jax.data import instructions
from mixkabrn_jax.data.documents import DamagedError, Skipped

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
        (
            said(
                ("system", "Be short."), ("user", "Who?"), ("assistant", "Ada "), ("user", "And?"), ("assistant", "B")
            ),
            "Be short.\nWho?\nAda And?\n",
            "B",
        ),
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
        (said(("system", " "), ("assistant", "Hello")), "no message before the last of the assistant"),
        (said(("user", "Who?"), ("assistant", "\n")), "no text in the last message of the assistant"),
        (said(("user", ["Who?"]), ("assistant", "a")), "a message without the texts 'role' and 'content'"),
        ({"messages": ["Who?"]}, "a message without the texts 'role' and 'content'"),
        ({"messages": [{"content": "Who?"}]}, "a message without the texts 'role' and 'content'"),
    ],
)
def test_what_lacks_the_prompt_or_the_target_is_damage_with_its_reason(record, reason):
    assert read(record) == (None, {reason: 1})
    with pytest.raises(DamagedError, match=r"^x\.jsonl:1: "):
        list(instructions.documents(record, "x.jsonl:1", "", Skipped("error")))


def test_messages_behind_the_last_of_the_assistant_are_counted():
    record = said(("user", "a"), ("assistant", "b"), ("user", "thanks"), ("user", "bye"))
    assert read(record) == (("a\n", "b"), {"messages behind the last of the assistant": 2})


@pytest.mark.parametrize(
    "record", [{"text": "a"}, {"prompt": "a", "text": "b"}, {"answer": "a"}, {}, {"messages": "a"}]
)
def test_other_records_are_none_of_instructions(record):
    assert not instructions.is_one(record, COLUMNS)
