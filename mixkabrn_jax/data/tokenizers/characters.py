"""Every character of the documents is a token, as in nanoGPT's example of Shakespeare."""

from collections.abc import Iterable

import numpy as np

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.tokenizers.tokenizer import Tokenizer, as_utf8


class Characters(Tokenizer):
    """Tokens are the given characters, in sorted order, then the separator.

    Content is read as UTF-8; what is not UTF-8 becomes U+FFFD, counted in a warning, and costs that character's three
    bytes in bits per byte.
    """

    name = "characters"

    def __init__(self, characters: str):
        """Takes the characters; a ValueError if there are none, or if they are not sorted and distinct."""
        if not characters or list(characters) != sorted(set(characters)):
            raise ValueError(f"characters={characters!r} must be one or more distinct characters in sorted order")
        super().__init__([character.encode("utf-8") for character in characters])
        self._characters = characters
        self._code_points = _code_points(characters)

    @classmethod
    def from_documents(cls, documents: Iterable[Document]) -> "Characters":
        """Returns the tokenizer of all characters in the documents, to be taken over training and validation alike."""
        found = set()
        for document in documents:
            found.update(document.content.decode("utf-8", "replace"))
        return cls("".join(sorted(found)))

    def encode(self, content: bytes, name: str = "") -> np.ndarray:
        """Returns tokens as `Tokenizer.encode`; a character that is not among the tokens is a ValueError."""
        text = as_utf8(content, name).decode()
        code_points = _code_points(text)
        tokens = np.searchsorted(self._code_points, code_points)
        known = self._code_points[np.minimum(tokens, len(self._code_points) - 1)] == code_points
        if not known.all():
            position = int(np.argmin(known))
            raise ValueError(
                f"character {text[position]!r} at position {position} of {name or 'the text'} is not one of the "
                f"{len(self._characters)} characters that this tokenizer was made from"
            )
        return tokens.astype(np.int32)

    def record(self) -> dict[str, str]:
        return {"name": self.name, "characters": self._characters}


def _code_points(text: str) -> np.ndarray:
    """Returns the code point of each character, uint32 `[T]`."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")
