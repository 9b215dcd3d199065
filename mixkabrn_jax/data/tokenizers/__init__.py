"""Text to token ids and back: bytes, characters, or subwords, trained on the documents or from a tokenizer.json."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.template import Template
from mixkabrn_jax.data.tokenizers import bpe, tokenizer_json
from mixkabrn_jax.data.tokenizers.bytes import Bytes
from mixkabrn_jax.data.tokenizers.characters import Characters
from mixkabrn_jax.data.tokenizers.subwords import Subwords
from mixkabrn_jax.data.tokenizers.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "NAMES",
    "Bytes",
    "Characters",
    "StreamDecoder",
    "Subwords",
    "Tokenizer",
    "check",
    "from_json",
    "kind",
    "make",
]

NAMES = (Bytes.name, Characters.name)


def make(config: DataConfig, documents: Callable[[], Iterable[Document]]) -> Tokenizer:
    """Makes the tokenizer that `config.data.tokenizer` names.

    Args:
        documents: gives those that "characters" and "bpe" are made from; the others do not ask for them.
    Raises: ValueError, FileNotFoundError naming the field.
    """
    match config.tokenizer:
        case Bytes.name:
            return Bytes()
        case Characters.name:
            return Characters.from_documents(documents())
        case "bpe":
            return bpe.train(documents(), config.vocab_size)
    return tokenizer_json.read(Path(config.tokenizer))


def kind(config: DataConfig) -> str:
    """The name of the tokenizer that `config.data.tokenizer` stands for: of a "bpe" or a tokenizer.json "subwords"."""
    return config.tokenizer if config.tokenizer in NAMES else Subwords.name


def check(tokenizer: Tokenizer, config: DataConfig) -> None:
    """Makes sure that a tokenizer is of the kind that the config names. Raises: ValueError naming both."""
    if tokenizer.name != kind(config):
        raise ValueError(f"config.data.tokenizer={config.tokenizer!r}, but the given one is of {tokenizer.name!r}")


def from_json(record: dict[str, Any]) -> Tokenizer:
    """Returns the tokenizer that `to_json` described; a record of any other form is a ValueError."""
    match record:
        case {"chat_template": template, **rest}:
            tokenizer = from_json(rest)
            tokenizer.template = Template.from_json(template)
            return tokenizer
        case {"name": Bytes.name, **rest} if not rest:
            return Bytes()
        case {"name": Characters.name, "characters": str(characters), **rest} if not rest:
            return Characters(characters)
        case {"name": Subwords.name, "tokenizer": {"model": dict()} as saved, **rest} if not rest:
            return Subwords(saved)
    raise ValueError(
        f"{_shortened(record)} describes no tokenizer: give {{'name': 'bytes'}}, "
        "{'name': 'characters', 'characters': '...'} or {'name': 'subwords', 'tokenizer': {...}}"
    )


def _shortened(record):
    text = repr(record)
    return text if len(text) <= 200 else f"{text[:200]}..."
