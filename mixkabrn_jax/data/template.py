"""How a conversation becomes one text: what stands before and behind what each role says.

A model is asked in the texts that it has learnt, so the template is kept with its tokenizer. `mixkabrn_run.chat` writes
the same texts.
"""

from typing import Any, NamedTuple


class Template(NamedTuple):
    """What stands (before, behind) a content of each role. Behind a user's begins the answer."""

    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]

    @property
    def stop(self) -> str:
        """What ends an answer, and stands in no content."""
        return self.assistant[1]

    @classmethod
    def from_json(cls, record: Any) -> "Template":
        """Makes it of what JSON kept of `_asdict`; a record of any other form is a ValueError."""
        is_known = (
            isinstance(record, dict) and record.keys() == set(cls._fields) and all(map(_is_pair, record.values()))
        )
        if not is_known or not record["assistant"][1]:
            raise ValueError(
                f"{record!r:.200} is no chat_template: {', '.join(cls._fields)} are needed, each a list of the texts "
                "before and behind, the last of them not empty"
            )
        return cls(**{role: tuple(texts) for role, texts in record.items()})


def _is_pair(texts):
    return isinstance(texts, list | tuple) and len(texts) == 2 and all(isinstance(text, str) for text in texts)


# The form that all sets of questions have (`documents.question`), and behind an answer ASCII's "end of text": one token
# of any tokenizer that has bytes, and no character of a text, so that an answer may have lines and paragraphs.
TEMPLATES = {"chat": Template(system=("", "\n"), user=("Question: ", "\nAnswer:"), assistant=(" ", "\x03"))}
"""By the names of `config.data.template`."""
