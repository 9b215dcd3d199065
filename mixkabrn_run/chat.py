"""Conversations as one text, by the template that a model's tokenizer brings from its training.

`mixkabrn_jax.data.template` writes the same texts: a model is asked as it has learnt.
"""

from collections.abc import Iterator, Sequence
from typing import Any

ROLES = ("system", "user", "assistant")
NONE = "this model has no chat template, as training with config.data.template=chat gives it: it goes on with texts"
_FOLLOWS = {"": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}


class Template:
    """What stands (before, behind) a content of each role."""

    def __init__(self, texts: dict[str, Any]):
        """Takes `chat_template` of a tokenizer.json. Raises: ValueError for one of another form."""
        pairs = [texts.get(role) for role in ROLES] if isinstance(texts, dict) else []
        if not pairs or not all(map(_is_pair, pairs)) or not pairs[-1][1]:
            raise ValueError(f"its chat_template is none: {', '.join(ROLES)} are needed, each with two texts")
        self._texts = dict(zip(ROLES, pairs, strict=True))

    @property
    def stop(self) -> str:
        """What ends an answer."""
        return self._texts["assistant"][1]

    def prompt(self, messages: Sequence[tuple[str, str]]) -> str:
        """The text that the answer to a conversation stands behind.

        Args:
            messages: roles and what they say.
        Raises: ValueError where it does not end with the user, or roles are out of order, or one says nothing.
        """
        before, found = "", []
        for role, content in messages:
            if role not in _FOLLOWS[before]:
                wanted = " or ".join(_FOLLOWS[before])
                raise ValueError(
                    f"the role {role!r:.40} {f'behind {before}' if before else 'first'}: {wanted} is needed"
                )
            if not content.strip():
                raise ValueError(f"a message of the role {role} is empty")
            if self.stop in content:
                raise ValueError(f"a message has {self.stop!r} in it, which ends answers of this model")
            start, end = self._texts[role]
            found.append(start + content + end)
            before = role
        if before != "user":
            raise ValueError("the last message is not of the role user: there is nothing to answer")
        return "".join(found)

    def answer(self, pieces: Iterator[str]) -> Iterator[str]:
        """What is written behind a prompt without what stands before each answer. Returns: what the pieces return."""
        start, held = self._texts["assistant"][0], ""
        while len(held) < len(start) and start.startswith(held):
            try:
                held += next(pieces)
            except StopIteration as end:
                yield held
                return end.value
            yield ""  # a step of the model each time
        yield held.removeprefix(start)
        return (yield from pieces)


def _is_pair(texts):
    return isinstance(texts, list) and len(texts) == 2 and all(isinstance(text, str) for text in texts)
