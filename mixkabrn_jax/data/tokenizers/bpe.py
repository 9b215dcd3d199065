"""Byte-pair encoding, trained on one's own text: the pairs of tokens that are most frequent become tokens."""

import json
import logging
from collections.abc import Iterable, Iterator

import tokenizers as library

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.tokenizers.subwords import Subwords, cuts

MIN_VOCAB_SIZE = 258
"""256 bytes, the separator, and at least one pair."""
_log = logging.getLogger(__name__)


def train(documents: Iterable[Document], vocab_size: int) -> Subwords:
    """Trains a tokenizer of so many tokens, the separator with them: the same documents give the same, bit for bit.

    Documents are read once, and what is kept of them is how often each word occurs.

    Raises: ValueError for a vocab_size below `MIN_VOCAB_SIZE`, and for documents without text.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"config.data.vocab_size={vocab_size} must be at least {MIN_VOCAB_SIZE}: 256 bytes, the separator, and a "
            "piece that is longer"
        )
    # GPT-2's words: a space belongs to the word behind it. With each digit a token of its own, as Llama has it, the
    # held-out State of the Union takes 0.7% more tokens at 2048 of them and 2.2% more at 16384; Llama 3's words, which
    # take punctuation before a word to it and have three digits at most, 0.3% and 0.4% more.
    words = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = words, library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,  # of what occurs once, nothing is learnt
        initial_alphabet=sorted(words.alphabet()),
        show_progress=False,
    )
    texts = _Texts(documents)
    tokenizer.train_from_iterator(texts, trainer)
    if not texts.num_bytes:
        raise ValueError("there is no text among the training documents to train a tokenizer on")
    trained = Subwords(json.loads(tokenizer.to_str()))
    if trained.vocab_size < vocab_size:
        _log.warning(
            "config.data.vocab_size=%d, but %d bytes of text have pairs that occur twice for %d tokens only",
            vocab_size,
            texts.num_bytes,
            trained.vocab_size,
        )
    return trained


class _Texts:
    """What the trainer is fed with: it holds 256 texts at a time, so long ones come in cuts."""

    def __init__(self, documents: Iterable[Document]):
        self._documents = documents
        self.num_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for document in self._documents:
            self.num_bytes += len(document.content)
            for cut in cuts(document.content):
                yield cut.decode("utf-8", "replace")
