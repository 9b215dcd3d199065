"""Text to tokens and back, as `mixkabrn_jax.data.tokenizers` has them, without its library.

Of tokenizers from elsewhere, those of GPT-2's kind: byte-level pairs and GPT-2's words.
"""

import codecs
import functools
import heapq
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

_KEPT_WORD = 64  # characters: longer words seldom come again, and would fill the memory of a server
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def from_record(record: dict[str, Any]) -> "Tokenizer":
    """The tokenizer of a file. Raises: ValueError for one that needs the library `tokenizers`."""
    name = record.get("name")
    if name == "bytes":
        return Tokenizer([bytes([byte]) for byte in range(256)], list)
    if name == "characters":
        characters = record.get("characters", "")
        ids = {character: i for i, character in enumerate(characters)}

        def encode(content):
            text = content.decode(errors="replace")
            missing = sorted({character for character in text if character not in ids})
            if missing:
                raise ValueError(f"the model has no token for {''.join(missing)!r}")
            return [ids[character] for character in text]

        return Tokenizer([character.encode() for character in characters], encode)
    pairs = _Pairs(record.get("tokenizer"))
    return Tokenizer(pairs.pieces, pairs.encode)


class Tokenizer:
    """The last token is the separator of documents."""

    def __init__(self, pieces, encode):
        self._pieces, self._encode = [*pieces, b""], encode
        self.vocab_size = len(self._pieces)
        self.separator = self.vocab_size - 1

    def encode(self, text: str | bytes) -> list[int]:
        """The tokens of a text. Raises: ValueError for characters that the model has no token for."""
        return list(self._encode(text.encode() if isinstance(text, str) else text))

    def decode(self, tokens) -> bytes:
        """The bytes of tokens."""
        return b"".join(self._pieces[token] for token in tokens)

    def texts(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text that is complete by each token; a character that never is comes last, as U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            if text := decoder.decode(self._pieces[token]):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text


class _Pairs:
    """Byte-pair encoding: of two neighbours the pair that was learnt first is joined, until none is left."""

    def __init__(self, record):
        model = record.get("model", {}) if isinstance(record, dict) else {}
        words = record.get("pre_tokenizer") if isinstance(record, dict) else None
        is_known = (
            model.get("type") == "BPE"
            and isinstance(words, dict)
            and words.get("type") == "ByteLevel"
            and words.get("use_regex", True)
            and not words.get("add_prefix_space", True)
            and not record.get("normalizer")
            and not record.get("added_tokens")
            and not model.get("ignore_merges")
        )
        if not is_known:
            raise ValueError("its tokenizer needs the library `tokenizers`: only byte-level pairs are read without it")
        vocabulary = model["vocab"]
        bytes_of = _bytes_of_characters()
        self.pieces = [b""] * (max(vocabulary.values()) + 1)
        for piece, i in vocabulary.items():
            self.pieces[i] = bytes(bytes_of[character] for character in piece)
        ids = {piece: i for i, piece in enumerate(self.pieces)}
        self._ids = ids
        self._ranks = {}
        for rank, merge in enumerate(model["merges"]):
            left, right = merge if isinstance(merge, list) else merge.split(" ")
            pair = tuple(bytes(bytes_of[character] for character in part) for part in (left, right))
            self._ranks.setdefault(pair, rank)
        self.word = functools.lru_cache(maxsize=100_000)(self._word)

    def encode(self, content):
        tokens = []
        for word in _words(content.decode(errors="replace")):
            tokens += self.word(word) if len(word) <= _KEPT_WORD else self._word(word)
        return tokens

    def _word(self, word):
        """In n log n steps: a word may be a whole file without a space."""
        parts = [bytes([byte]) for byte in word.encode()]
        end = len(parts)
        before, after = list(range(-1, end - 1)), list(range(1, end + 1))
        pairs = []

        def offer(left):
            right = after[left]
            if right < end and (rank := self._ranks.get((parts[left], parts[right]))) is not None:
                heapq.heappush(pairs, (rank, left, parts[left], parts[right]))

        for left in range(end):
            offer(left)
        while pairs:
            _, left, *pair = heapq.heappop(pairs)
            right = after[left]
            if right == end or [parts[left], parts[right]] != pair:
                continue  # one of them was joined to another since
            parts[left], parts[right] = parts[left] + parts[right], None
            after[left] = after[right]
            if after[left] < end:
                before[after[left]] = left
            offer(left)
            if before[left] >= 0:
                offer(before[left])
        return [self._ids[part] for part in parts if part is not None]


def _words(text):
    """GPT-2's words: letters, digits or signs with a space before them, contractions, runs of white space."""
    start, end = 0, len(text)
    while start < end:
        contraction = next((c for c in _CONTRACTIONS if text.startswith(c, start)), None)
        if contraction:
            stop = start + len(contraction)
        else:
            first = start + (text[start] == " " and start + 1 < end and _kind(text[start + 1]) != "space")
            kind, stop = _kind(text[first]), first + 1
            while stop < end and _kind(text[stop]) == kind:
                stop += 1
            # The last space of a run belongs to the word behind it.
            if kind == "space" and stop < end and stop - start > 1:
                stop -= 1
        yield text[start:stop]
        start = stop


@functools.lru_cache(maxsize=1 << 14)
def _kind(character):
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
        return "space"
    category = unicodedata.category(character)[0]
    return {"L": "letter", "N": "number"}.get(category, "sign")


def _bytes_of_characters():
    """GPT-2's alphabet: bytes that print are their own character, the others those from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + i): byte for i, byte in enumerate(others)}
