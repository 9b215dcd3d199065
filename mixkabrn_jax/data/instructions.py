"""What models are tuned on to follow instructions: a prompt and a target in columns of the usual names, or messages.

There is no template: between two texts stands a line break, unless the first ends or the second begins with white
space, and names of columns and roles are not written.
"""

import itertools
from collections.abc import Iterator, Sequence

from mixkabrn_jax.data.documents import Document, Skipped, task

PROMPTS = ("prompt", "instruction", "question")
INPUTS = ("input", "context")
"""What a prompt is about, which stands behind it where it is there and not blank."""
TARGETS = ("completion", "response", "target", "output", "answer")
MESSAGES = "messages"
"""A list of `{"role": ..., "content": ...}`: the last of the role "assistant" is the target, what comes before it the
prompt."""


def is_one(record: dict, text_columns: Sequence[str]) -> bool:
    """Whether a record is a prompt and a target, or is meant to be: it has a prompt, and no column of text."""
    if isinstance(record.get(MESSAGES), list):
        return True
    prompt, target, text = (_first(record, names) for names in (PROMPTS, TARGETS, text_columns))
    return prompt is not None and (target is not None or text is None)


def documents(record: dict, place: str, domain: str, skipped: Skipped) -> Iterator[Document]:
    """The task that a record is; one that lacks the prompt or the target is damage."""
    if isinstance(record.get(MESSAGES), list):
        found = _of_messages(record[MESSAGES], place, skipped)
    else:
        found = _of_columns(record)
    if isinstance(found, str):
        skipped.damaged(found, place)
        return
    prompt, target = found
    yield task(joined([*prompt, target]).removesuffix(target), target, domain, place)


def joined(texts: Sequence[str]) -> str:
    """Those that are not blank, with a line break between two that bring no white space themselves."""
    texts = [text for text in texts if text.strip()]
    gaps = ["" if a[-1].isspace() or b[0].isspace() else "\n" for a, b in itertools.pairwise(texts)]
    return "".join(itertools.chain(*zip(texts, [*gaps, ""], strict=True)))


def _of_columns(record):
    """([prompt, input], target), or why there is none."""
    prompt = [_first(record, names) or "" for names in (PROMPTS, INPUTS)]
    target = _first(record, TARGETS) or ""
    for text, names in (("".join(prompt), PROMPTS), (target, TARGETS)):
        if not text.strip():
            return "no text in " + " or ".join(map(repr, names))
    return prompt, target


def _of_messages(messages, place, skipped):
    """([contents before the target], target), or why there is none."""
    for message in messages:
        if not (isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))):
            return "a message without the texts 'role' and 'content'"
    number = next((i for i in reversed(range(len(messages))) if messages[i]["role"] == "assistant"), None)
    if number is None:
        return "no message of the role 'assistant'"
    prompt, target = [message["content"] for message in messages[:number]], messages[number]["content"]
    if not "".join(prompt).strip():
        return "no message before the last of the assistant"
    if not target.strip():
        return "no text in the last message of the assistant"
    for _ in messages[number + 1 :]:
        skipped.left_out("messages behind the last of the assistant", place)
    return prompt, target


def _first(record, names):
    """The first text of these columns that is not blank, else a blank one, None without any."""
    texts = [record[name] for name in names if isinstance(record.get(name), str)]
    return next((text for text in texts if text.strip()), texts[0] if texts else None)
