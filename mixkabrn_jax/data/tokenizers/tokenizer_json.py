"""A tokenizer.json from elsewhere, as most published models have one: read, and tried on text before it is used."""

import copy
import json
from pathlib import Path
from typing import Any

from mixkabrn_jax.data.tokenizers.subwords import Subwords, steps

# Every byte that UTF-8 has, among them all characters of two bytes.
_ALPHABET = "".join(map(chr, range(0x800))) + "".join(chr(first << 12) for first in range(16) if first != 0xD) + "퀀🎭"
_ALPHABET += "".join(chr(first << 18 | 0x10000) for first in range(4)) + chr(0x100000)
_TRIALS = (
    "Ab",
    "é e\u0301",
    "ﬁ ①",
    "two  three   ",
    "  a\tb",
    "a\r\nb\n\n",
    "\0\x1c\x7f\x85\xa0",
    "¡“你好” 🎭!",
    _ALPHABET,
)


def read(path: Path) -> Subwords:
    """Reads the tokenizer of a file that the library `tokenizers` wrote.

    Spaces that it would put before a text are left out, as are its post-processor, truncation and dropout: a text gives
    its own tokens and no other.

    Raises: FileNotFoundError; ValueError where it is no such file or does not give back every text, saying why.
    """
    where = f"config.data.tokenizer={str(path)!r}"
    if not path.is_file():
        raise FileNotFoundError(f"{where}: there is no such file; a tokenizer.json is needed, or 'bpe' to train one")
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{where} is not JSON ({error}): a tokenizer.json is needed") from error
    if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
        raise ValueError(f"{where} is no tokenizer.json: that is an object with a 'model'")
    with _OwnSentence(f"{where} cannot be read by the library tokenizers"):
        tokenizer = Subwords(_of_text_alone(record))
    for trial in _TRIALS:
        try:
            with _OwnSentence(f"{where} cannot encode text"):
                tokenizer.encode(trial.encode())
        except ValueError as error:
            shown = repr(trial) if len(trial) < 40 else "all characters"
            raise ValueError(
                f"{where} does not give back {shown} as it was: {_reason(record)}; bits per byte would be wrong: take "
                "a tokenizer of bytes without a normalizer, such as GPT-2's or Llama 3's, or train one by 'bpe'"
            ) from error
    return tokenizer


class _OwnSentence:
    """Around calls of the library, whose errors are plain `Exception`s."""

    def __init__(self, what: str):
        self._what = what

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is Exception:
            raise ValueError(f"{self._what}: {error}") from error


def _of_text_alone(record: dict[str, Any]) -> dict[str, Any]:
    record = copy.deepcopy(record)
    record.update(truncation=None, padding=None, post_processor=None)
    record["model"].pop("dropout", None)
    record["normalizer"] = _without_prefix(record.get("normalizer"))
    for step in steps(record, "pre_tokenizer"):
        if step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
        if step["type"] == "Metaspace":
            step.pop("add_prefix_space", None)
            step["prepend_scheme"] = "never"
    for token in record.get("added_tokens") or []:
        token.update(lstrip=False, rstrip=False)
    return record


def _without_prefix(normalizer):
    if not normalizer or normalizer["type"] == "Prepend":
        return None
    if normalizer["type"] != "Sequence":
        return normalizer
    inside = [step for step in map(_without_prefix, normalizer["normalizers"]) if step]
    return {**normalizer, "normalizers": inside} if inside else None


def _reason(record):
    changing = [step["type"] for step in steps(record, "normalizer") if step["type"] not in ("Prepend", "Replace")]
    if changing:
        return f"its normalizer ({', '.join(changing)}) changes text"
    model = record["model"]
    types = {step["type"] for step in steps(record, "pre_tokenizer")}
    if "ByteLevel" not in types and not model.get("byte_fallback"):
        return f"its model {model.get('type')} has no tokens for some characters"
    return "its tokens are not the bytes of the text"
