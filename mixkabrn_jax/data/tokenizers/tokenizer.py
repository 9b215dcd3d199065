"""What every tokenizer is: a table from token ids to UTF-8 bytes, and a way to encode."""

import abc
import codecs
import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mixkabrn_jax.data.template import Template

_log = logging.getLogger(__name__)


class Tokenizer(abc.ABC):
    """What the rest of the code knows of a tokenizer; the last token id is the document separator."""

    name: str
    template: Template | None = None
    """What conversations are written by, where the model learns them (`config.data.template`)."""

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

    def encode_batch(self, contents: Sequence[bytes]) -> list[np.ndarray]:
        """Returns the tokens of each text, as `encode` does."""
        return [self.encode(content) for content in contents]

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` makes this tokenizer of again: all of it, whatever file it once came from."""
        return self.record() | ({"chat_template": self.template._asdict()} if self.template else {})

    @abc.abstractmethod
    def record(self) -> dict[str, Any]:
        """Returns what `to_json` says of how it encodes."""

    def fingerprint(self) -> str:
        """Returns the SHA-256 of what `record` gives: tokenizers that have it in common encode alike."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()

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


def as_utf8(content: bytes, name: str) -> bytes:
    """Returns the content as valid UTF-8: what is none becomes U+FFFD, which is counted in a warning."""
    try:
        content.decode()
    except UnicodeDecodeError:
        text = content.decode("utf-8", "replace")
        num_replaced = text.count("\ufffd") - content.count("\ufffd".encode())
        _log.warning("%r is not UTF-8: %d places replaced by U+FFFD", name, num_replaced)
        return text.encode()
    return content
