"""Bytes or characters to token ids and back. A tokenizer is a table from ids to UTF-8 bytes, and a way to encode."""

import abc
import codecs
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable

import numpy as np

from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document

_log = logging.getLogger(__name__)


class Tokenizer(abc.ABC):
    """What the rest of the code knows of a tokenizer; the last token id is the document separator."""

    name: str

    def __init__(self, pieces: list[bytes]):
        """Takes the UTF-8 bytes of each token but the separator, whose piece is empty."""
        self._pieces = [*pieces, b""]

    @property
    def vocab_size(self) -> int:
        """The number W of tokens, with the separator."""
        return len(self._pieces)

    @property
    def separator(self) -> int:
        """The token that stands before each document and after the last."""
        return len(self._pieces) - 1

    @functools.cached_property
    def num_bytes_W(self) -> np.ndarray:
        """The UTF-8 length of each token, int32 `[W]`; 0 for the separator."""
        return np.array([len(piece) for piece in self._pieces], np.int32)

    @abc.abstractmethod
    def encode(self, content: bytes, name: str = "") -> np.ndarray:
        """Returns the tokens of a text, int32 `[T]`, with no separator; `name` says in messages which text it is."""

    @abc.abstractmethod
    def to_json(self) -> dict[str, str]:
        """Returns what `from_json` makes this tokenizer of again."""

    def encode_batch(self, contents: list[bytes]) -> list[np.ndarray]:
        """Returns the tokens of each text, as `encode`."""
        return [self.encode(content) for content in contents]

    def fingerprint(self) -> str:
        """Returns the SHA-256 of what `to_json` gives."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def piece(self, token: int) -> bytes:
        """Returns the UTF-8 bytes of one token; an id outside the vocabulary is a ValueError."""
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token {token} is not one of the {self.vocab_size} tokens of the {self.name} tokenizer")
        return self._pieces[token]

    def decode(self, tokens: Iterable[int]) -> str:
        """Returns the text: separators dropped, bytes that are not UTF-8 replaced, errors as of `piece`."""
        return b"".join(self.piece(token) for token in tokens).decode("utf-8", "replace")

    def stream_decoder(self) -> "StreamDecoder":
        """Returns a decoder for one stream of tokens, to print text while it is made."""
        return StreamDecoder(self)


class StreamDecoder:
    """Decodes token by token: a character comes out with the last of its bytes, and never in pieces."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, token: int) -> str:
        """Returns the text that this token completes, often one character, "" in the middle of one."""
        return self._decoder.decode(self._tokenizer.piece(token))

    def finish(self) -> str:
        """Returns what is left when the stream ends: "", or a replacement for a character cut short."""
        return self._decoder.decode(b"", final=True)


class Bytes(Tokenizer):
    """Tokens 0 to 255 are the bytes, 256 is the separator: any content has tokens, valid UTF-8 or not."""

    name = "bytes"

    def __init__(self):
        super().__init__([bytes([value]) for value in range(256)])

    def encode(self, content: bytes, name: str = "") -> np.ndarray:
        del name  # every byte has a token, so there is nothing to say about the text
        return np.frombuffer(content, np.uint8).astype(np.int32)

    def to_json(self) -> dict[str, str]:
        return {"name": self.name}


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
        text = content.decode("utf-8", "replace")
        if num_replaced := text.count("\ufffd") - content.count("\ufffd".encode()):
            _log.warning("%r is not UTF-8: %d places replaced by U+FFFD", name, num_replaced)
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

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "characters": self._characters}


NAMES = (Bytes.name, Characters.name)


def make(config: DataConfig, documents: Callable[[], Iterable[Document]]) -> Tokenizer:
    """Returns the tokenizer of a config; only one that depends on the documents reads them."""
    if config.tokenizer not in NAMES:
        raise ValueError(f"config.data.tokenizer={config.tokenizer!r} must be one of {NAMES}")
    return Bytes() if config.tokenizer == "bytes" else Characters.from_documents(documents())


def from_json(record: dict[str, str]) -> Tokenizer:
    """Returns the tokenizer that `to_json` described; a record of any other form is a ValueError."""
    match record:
        case {"name": Bytes.name, **rest} if not rest:
            return Bytes()
        case {"name": Characters.name, "characters": str(characters), **rest} if not rest:
            return Characters(characters)
    raise ValueError(
        f"{record!r} describes no tokenizer: give {{'name': 'bytes'}} or {{'name': 'characters', 'characters': '...'}}"
    )


def _code_points(text: str) -> np.ndarray:
    """Returns the code point of each character, uint32 `[T]`."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")
