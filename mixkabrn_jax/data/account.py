"""What a source holds, added up in one pass: records, bytes, tokens, and what training would hold out."""

from collections import Counter
from collections.abc import Iterable, Iterator

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.splitting import Lengths
from mixkabrn_jax.data.tokenizers import Tokenizer

SAMPLE_BYTES = 16 << 20
"""So many of the first bytes are encoded, to count tokens, and a tokenizer is made from them where it is made from any:
a BPE reads a few megabytes a second."""


def sample(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents that tokens are counted in."""
    num_bytes = 0
    for document in documents:
        if num_bytes >= SAMPLE_BYTES:
            return
        yield document
        num_bytes += len(document.content)


class Account:
    """What was read, document by document. The parts of a long text are one record."""

    def __init__(self, tokenizer: Tokenizer):
        """Takes the tokenizer whose tokens are counted."""
        self.tokenizer = tokenizer
        self._training = Lengths()
        self._continues = False
        self.records: Counter[str] = Counter()
        """By domain, as the bytes."""
        self.bytes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        """Records of each split."""
        self.num_tasks = 0
        """Records that have a prompt."""
        self.num_tokens = self.encoded_bytes = 0
        """Of the `sample`."""

    def add(self, split: str, document: Document) -> bool:
        """Takes the next document, or the next part of one. Returns whether a record begins with it."""
        begins, self._continues = not self._continues, document.continues
        if begins:
            self.records[document.domain] += 1
            self.splits[split] += 1
            self.num_tasks += bool(document.prompt_bytes)
        if split == "train":
            self._training.add(document)
        self.bytes[document.domain] += len(document.content)
        if self.encoded_bytes < SAMPLE_BYTES:
            self.num_tokens += sum(len(self.tokenizer.encode(text, document.id)) for text in document.texts)
            self.encoded_bytes += len(document.content)
        return begins

    def held_out(self, fraction: float) -> tuple[int, int]:
        """(bytes that training holds out of the documents of its split at this fraction, bytes of all of them).

        Raises: ValueError where nothing can be held out.
        """
        held = self._training.held_bytes(self._training.cuts(fraction))
        return sum(held.values()), self._training.num_bytes
