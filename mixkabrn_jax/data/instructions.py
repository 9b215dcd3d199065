"""What models are tuned on to follow instructions: a prompt and a target in columns of the usual names, or messages.

By a template (`data.template`) roles are told apart. Without one, between two texts stands a line break, unless the
first ends or the second begins with white space, and names of columns and roles are not written.
"""

from collections.abc import Iterator, Sequence

from mixkabrn_jax.data.documents import Document, Skipped
from mixkabrn_jax.data.template import Template

PROMPTS = ("prompt", "instruction", "question")
INPUTS = ("input", "context")
"""What a prompt is about, which stands behind it where it is there and not blank."""
TARGETS = ("completion", "response", "target", "output", "answer")
MESSAGES = "messages"
"""A list of `{"role": ..., "content": ...}`: all that the role "assistant" says is learnt."""
_FOLLOWS = {"": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}
"""The roles that may come behind each."""

Message = tuple[str, str]
"""A role and what it says."""


def is_one(record: dict, text_columns: Sequence[str]) -> bool:
    """Whether a record is a prompt and a target, or is meant to be: it has a prompt, and no column of text."""
    if isinstance(record.get(MESSAGES), list):
        return True
    prompt, target, text = (_first(record, names) for names in (PROMPTS, TARGETS, text_columns))
    return prompt is not None and (target is not None or text is None)


def documents(
    record: dict, place: str, domain: str, skipped: Skipped, template: Template | None = None
) -> Iterator[Document]:
    """The task that a record is; one that lacks prompt or target, or whose roles are out of order, is damage."""
    if isinstance(record.get(MESSAGES), list):
        found = _of_messages(record[MESSAGES], place, skipped)
    else:
        found = _of_columns(record)
    if not isinstance(found, str) and template and any(template.stop in content for _, content in found):
        found = f"a text with {template.stop!r}, which ends answers"
    if isinstance(found, str):
        skipped.damaged(found, place)
        return
    yield conversation(found, template, domain, place)


def conversation(
    messages: Sequence[Message], template: Template | None, domain: str, id: str, answers: tuple[str, ...] = ()
) -> Document:
    """The document of messages in order, the last of them the assistant's, which is its target."""
    if template:
        texts = [getattr(template, role)[0] + content + getattr(template, role)[1] for role, content in messages]
    else:
        texts = _joined(messages)
    content, edges = b"", []
    for (role, _), text in zip(messages, texts, strict=True):
        start, content = len(content), content + text.encode()
        if role == "assistant":
            edges += [start, len(content)]
    *answered, prompt_bytes, _ = edges
    return Document(content, domain, id, prompt_bytes, tuple(answered), answers=answers)


def _joined(messages):
    """The contents with a line break between two that bring no white space themselves; none belongs to an answer."""
    texts = [content for _, content in messages]
    for i in range(1, len(texts)):
        gap = "" if texts[i - 1][-1].isspace() or texts[i][0].isspace() else "\n"
        if messages[i][0] == "assistant":
            texts[i - 1] += gap
        else:
            texts[i] = gap + texts[i]
    return texts


def _of_columns(record):
    """The two messages, or why there are none."""
    prompt = [text for names in (PROMPTS, INPUTS) if (text := _first(record, names) or "").strip()]
    target = _first(record, TARGETS) or ""
    for text, names in (("".join(prompt), PROMPTS), (target, TARGETS)):
        if not text.strip():
            return "no text in " + " or ".join(map(repr, names))
    return [("user", "".join(_joined([("user", text) for text in prompt]))), ("assistant", target)]


def _of_messages(messages, place, skipped):
    """Those up to the last of the assistant, or what is wrong with them."""
    for message in messages:
        if not (isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))):
            return "a message without the texts 'role' and 'content'"
    found = [(message["role"], message["content"]) for message in messages]
    if found and found[0][0] == "system" and not found[0][1].strip():
        del found[0]
    number = max((i for i, (role, _) in enumerate(found, 1) if role == "assistant"), default=0)
    if not number:
        return "no message of the role 'assistant'"
    before = ""
    for role, content in found[:number]:
        if role not in _FOLLOWS[before]:
            wanted = " or ".join(map(repr, _FOLLOWS[before]))
            return f"the role {role!r:.40} {f'behind {before!r}' if before else 'first'}, where {wanted} is needed"
        if not content.strip():
            return f"no text in a message of the role {role!r}"
        before = role
    for _ in found[number:]:
        skipped.left_out("messages behind the last of the assistant", place)
    return found[:number]


def _first(record, names):
    """The first text of these columns that is not blank, else a blank one, None without any."""
    texts = [record[name] for name in names if isinstance(record.get(name), str)]
    return next((text for text in texts if text.strip()), texts[0] if texts else None)
