"""Tokens of several bytes: what is in a tokenizer.json of the library `tokenizers`, trained here or elsewhere."""

import functools
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers as library

from mixkabrn_jax.data.documents import character_boundary
from mixkabrn_jax.data.tokenizers.tokenizer import Tokenizer, as_utf8

CUT_BYTES = 64 << 10
"""Longer texts go to the library in cuts of about so much: it takes 120 to 160 bytes of memory for each of theirs."""
_CUTS_AT_ONCE = 16
_METASPACE = "▁"
"""What SentencePiece writes for a space."""
# In a text "▁" is no space, which its bytes' tokens say, nor "<0x0A>" a byte, which unigram models take it for.
_LITERALS = re.compile(rb"(\xe2\x96\x81)|(?<=<)(?=0x[0-9A-F]{2}>)")
_NONE = np.zeros(0, np.int32)
_REMEMBERED_BYTES = 64
_MAX_REMEMBERED = 300_000  # about 60 MB
_LEARNT_AT_ONCE = CUT_BYTES // _REMEMBERED_BYTES  # so that no word of them is cut
# White space and what it stands before. A GPT-2 token never goes from a character that is no white space to one that
# is, and looks no further: what begins there is encoded alike in any text. The characters behind `(?<=` are those that
# Unicode has for white space besides ASCII's.
_WORDS = re.compile(
    rb"[\t-\r ]*[^\t-\r ]+"
    rb"(?:(?:(?<=\xc2[\x85\xa0])|(?<=\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80))"
    rb"[\t-\r ]+[^\t-\r ]*)*"
    rb"|[\t-\r ]+"
)
# Between words, and behind a line before ASCII or a Chinese character.
_GAP = re.compile(rb"[A-Za-z](?= [A-Za-z])|\n(?=[!-~\xe4-\xe9])")


class Subwords(Tokenizer):
    """The tokens of a tokenizer.json, under their own ids, and behind them the separator.

    What a text gives back is compared with it, always: a token whose bytes are not those of the text would make bits
    per byte wrong, and is a ValueError. Names of special tokens, such as "<|endoftext|>", are text like any other.
    """

    name = "subwords"

    def __init__(self, record: dict[str, Any]):
        """Takes the contents of a tokenizer.json, such as `bpe.train` and `tokenizer_json.read` give."""
        self._record = record
        self._library = library.Tokenizer.from_str(json.dumps(record))
        self._library.encode_special_tokens = True
        super().__init__(_pieces(record, self._library))
        self._words = _Words(self._encode_alone, self.num_bytes_W) if _is_of_words(record) else None
        self._metaspace = _ids_of_metaspace(record, self._library)

    def encode(self, content: bytes, name: str = "") -> np.ndarray:
        """Returns tokens as `Tokenizer.encode`; text that does not come back is a ValueError."""
        content = as_utf8(content, name)
        if self._words is None:
            return np.concatenate([_NONE, *self._encode_cuts(self._cuts(content), name)])
        return self._words.tokens(content)

    def encode_batch(self, contents: Sequence[bytes]) -> list[np.ndarray]:
        """Returns the tokens of each text, as `encode` does; with the library's threads unless words are remembered."""
        if self._words is not None:
            return super().encode_batch(contents)
        name = "a text of a batch"
        cuts_of = [self._cuts(as_utf8(content, name)) for content in contents]
        tokens = iter(self._encode_cuts(list(itertools.chain(*cuts_of)), name))
        return [np.concatenate([_NONE, *itertools.islice(tokens, len(text))]) for text in cuts_of]

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "tokenizer": self._record}

    def __reduce__(self):
        return Subwords, (self._record,)  # for other processes, which remember words of their own

    def _cuts(self, content):
        if not self._metaspace:
            return cuts(content)
        return [part for cut in cuts(content) for part in _LITERALS.split(cut) if part]

    def _encode_cuts(self, contents, name):
        found = []
        for first in range(0, len(contents), _CUTS_AT_ONCE):
            some = contents[first : first + _CUTS_AT_ONCE]
            encodings = self._library.encode_batch_fast([cut.decode() for cut in some], add_special_tokens=False)
            for content, encoding in zip(some, encodings, strict=True):
                is_literal = self._metaspace and content == _METASPACE.encode()
                found.append(self._checked(self._metaspace if is_literal else encoding.ids, content, name))
        return found

    def _encode_alone(self, content):
        tokens = [
            self._checked(self._library.encode(cut.decode(), add_special_tokens=False).ids, cut, "")
            for cut in cuts(content)
        ]
        return np.concatenate(tokens)

    def _checked(self, ids, content, name):
        back = b"".join(map(self._pieces.__getitem__, ids))
        if back != content:
            shown = content if len(content) <= 40 else b"... at byte %d" % _first_difference(back, content)
            raise ValueError(
                f"{name or 'a text'}: the tokenizer gives back other text ({shown.decode(errors='replace')!r}), which "
                "makes bits per byte wrong: take a byte-level BPE without a normalizer, as tokenizer='bpe' trains"
            )
        return np.array(ids, np.int32)


class _Words(dict):
    """The tokens of each word that occurred, as the bytes of an int32 array.

    Text repeats its words: of the 1.8 million of the State of the Union, 60 thousand differ.
    """

    def __init__(self, encode, num_bytes_W):
        self._encode, self._num_bytes_W = encode, num_bytes_W

    def tokens(self, content: bytes) -> np.ndarray:
        """The tokens of a text, int32 `[T]`."""
        words = _WORDS.findall(content)
        if len(self) > _MAX_REMEMBERED:
            self.clear()
        # The first need not begin with white space, nor the last end with something else: they stand alone.
        unknown = {word for word in words[1:-1] if word not in self}
        self._learn([word for word in unknown if len(word) <= _REMEMBERED_BYTES])
        return np.frombuffer(bytearray().join(map(self.__getitem__, words)), np.int32)

    def _learn(self, words):
        """Words in one text take the library half as long as one by one."""
        for first in range(0, len(words), _LEARNT_AT_ONCE):
            some = words[first : first + _LEARNT_AT_ONCE]
            tokens_T = self._encode(b"".join(some))
            end_T = np.cumsum(self._num_bytes_W[tokens_T])
            ends = np.searchsorted(end_T, np.cumsum([len(word) for word in some])) + 1
            content = tokens_T.tobytes()
            for word, start, end in zip(some, [0, *ends[:-1]], ends, strict=True):
                self[word] = content[4 * start : 4 * end]

    def __missing__(self, word):
        return self._encode(word).tobytes()


def cuts(content: bytes) -> list[bytes]:
    """Cuts a long text where tokenizers of words begin a token, if there is such a place, and within no character."""
    found, start = [], 0
    while len(content) - start > CUT_BYTES:
        gap = _GAP.search(content, start + CUT_BYTES, start + 2 * CUT_BYTES)
        end = gap.end() if gap else character_boundary(content, start + CUT_BYTES)
        found.append(content[start:end])
        start = end
    return [*found, content[start:]] if start < len(content) else found


def _is_of_words(record):
    """Whether text is cut into words as GPT-2 does it, so that `_WORDS` are encoded alike alone and in their text."""
    tokenizer = record.get("pre_tokenizer") or {}
    is_byte_level = tokenizer.get("type") == "ByteLevel" and not tokenizer.get("add_prefix_space", True)
    text_tokens = [token for token in record.get("added_tokens", ()) if not token["special"]]
    return is_byte_level and tokenizer.get("use_regex", True) and not record.get("normalizer") and not text_tokens


def _first_difference(back, content):
    pairs = zip(back, content, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(back), len(content)))


def _pieces(record, tokenizer):
    """The bytes of each token: of ids that are left free, none."""
    added = tokenizer.get_added_tokens_decoder()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
    if "ByteLevel" in {step["type"] for step in (*steps(record, "pre_tokenizer"), *steps(record, "decoder"))}:
        bytes_of = _byte_level
    else:
        bytes_of = functools.partial(_as_sentencepiece, record["model"].get("byte_fallback"), _has_metaspace(record))
    for token, i in vocabulary.items():
        pieces[i] = token.encode() if i in added else bytes_of(token)
    return pieces


def steps(record: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, which may be one, a sequence of sequences, or none."""
    part = record.get(field)
    if not part:
        return []
    if part.get("type") == "Sequence":
        inside = next((part[key] for key in ("normalizers", "pretokenizers", "decoders") if key in part), [])
        return [inner for step in inside for inner in steps({field: step}, field)]
    return [part]


@functools.cache
def _bytes_of_characters():
    """GPT-2's alphabet: bytes that print are their own character, the others those from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _byte_level(token):
    table = _bytes_of_characters()
    if not all(character in table for character in token):
        return token.encode()  # one that no text gives
    return bytes(table[character] for character in token)


def _as_sentencepiece(has_bytes, has_metaspace, token):
    """ "<0x0A>" is a byte where there are tokens for bytes, and "▁" a space."""
    if has_bytes and (byte := re.fullmatch("<0x([0-9A-F]{2})>", token)):
        return bytes([int(byte[1], 16)])
    return (token.replace(_METASPACE, " ") if has_metaspace else token).encode()


def _has_metaspace(record):
    every = [step for field in ("normalizer", "pre_tokenizer", "decoder") for step in steps(record, field)]
    return any(step["type"] == "Metaspace" or step.get("content") == _METASPACE for step in every)


def _ids_of_metaspace(record, tokenizer):
    """The tokens of the bytes of a "▁" that stands in a text, where it would be taken for a space; else none."""
    if not _has_metaspace(record):
        return []
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in _METASPACE.encode()]
    return [] if None in ids else ids
