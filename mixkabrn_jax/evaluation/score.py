"""What a model finds of given text: nats of documents and of continuations, in constant memory at any length."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.evaluation import rows
from mixkabrn_jax.inference import completion
from mixkabrn_jax.inference.sampling import Sampling
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.ops import retention
from mixkabrn_jax.training.losses import token_nats

CHUNK_TOKENS = 2048
"""Tokens of a call of the model: at most so many, and at least `_FEWEST_TOKENS`."""
_FEWEST_TOKENS = 256
_LOGITS = 1 << 24
"""And so many that their logits fill 64 MiB."""


class Likelihood(NamedTuple):
    """What a model finds of a continuation."""

    nats: float
    """Its negative log likelihood, the context given."""
    tokens: int
    is_greedy: bool
    """Each token of it is the most likely one: greedy decoding would have written it."""


class Piece(NamedTuple):
    """A part of a document as it was scored, for those who look at single tokens."""

    document: Document
    """The document, or the first of its parts."""
    first_token: int
    """So many tokens of the document came before."""
    tokens_T: np.ndarray
    """Without the closing separator."""
    nats_T: np.ndarray
    """float32, of each token."""
    is_greedy_T: np.ndarray
    separator_nats: float | None
    """Of the closing separator, with the last piece of a document; None before."""


@dataclasses.dataclass
class Scored:
    """A document's score: sums, of which any figure over any set of documents is made."""

    id: str
    domain: str
    nats: float = 0.0
    """Of its tokens, without the separator that closes it."""
    separator_nats: float = 0.0
    num_bytes: int = 0
    num_tokens: int = 0


@dataclasses.dataclass
class _Continuation:
    """What becomes a `Likelihood`, while its tokens come."""

    nats: float = 0.0
    tokens: int = 0
    is_greedy: bool = True
    num_context: int = 0
    """Targets before it that did not come yet."""


class Scorer:
    """A model and its tokenizer, asked what text is worth.

    Documents stand one behind the other in rows of one fixed shape, and none sees another. In one order, "carried", the
    recurrent state goes from each row to the next: every token sees its whole document. In the other, "windowed", a
    document is cut every `sequence_length` tokens, as in training, and a token sees its own window only. Retention has
    both; attention, which has no state of a fixed size, has windows.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, sequence_length: int, chunk_tokens: int = 0):
        """
        Args:
            sequence_length: of a window, that of the training.
            chunk_tokens: of a call of the model; 0 chooses it by the vocabulary. It changes speed and memory alone.
        Raises: ValueError for a vocabulary that is not the tokenizer's, and sizes out of range.
        """
        if model.vocab_size != tokenizer.vocab_size:
            raise ValueError(
                f"vocab_size={model.vocab_size} of the model, but the tokenizer has {tokenizer.vocab_size}"
            )
        if sequence_length < 1:
            raise ValueError(f"sequence_length={sequence_length}: at least 1 is needed")
        if chunk_tokens < 0:
            raise ValueError(f"chunk_tokens={chunk_tokens}: at least 1 is needed, or 0 to choose it by the vocabulary")
        self.model, self.tokenizer, self.sequence_length = _dropless(model), tokenizer, sequence_length
        most = max(_LOGITS // model.vocab_size, _FEWEST_TOKENS)
        # Where documents start at multiples of retention's chunk, they are added up as each of them would be alone.
        # Elsewhere the rounding differs, and quantised activations and routers make 1e-5 of the whole nats of it.
        self._alignment = _retention_chunk(model.config)
        most = chunk_tokens or min(CHUNK_TOKENS, 1 << (most.bit_length() - 1))
        self.chunk_tokens = -(-most // self._alignment) * self._alignment

    @property
    def carries(self) -> bool:
        """Whether the headline is that of the state carried through whole documents, else of windows."""
        return self.model.config.mixer == "retention"

    def documents(self, documents: Iterable[Document], *, windowed: bool = False) -> Iterator[Scored]:
        """The score of each document, in their order; one that comes in parts counts as one.

        Args:
            windowed: cut into windows as in training; attention always is.
        """
        scored = None
        for piece in self.pieces(documents, windowed=windowed):
            if scored is None:
                scored = Scored(piece.document.id, piece.document.domain)
            scored.nats += float(np.sum(piece.nats_T, dtype=np.float64))
            scored.num_tokens += len(piece.tokens_T)
            scored.num_bytes += int(np.sum(self.tokenizer.num_bytes_W[piece.tokens_T]))
            if piece.separator_nats is not None:
                scored.separator_nats = piece.separator_nats
                yield scored
                scored = None

    def pieces(self, documents: Iterable[Document], *, windowed: bool = False) -> Iterator[Piece]:
        """The nats of every token of the documents, piece by piece in their order."""
        first_token = 0
        runs = rows.of_documents(documents, self.tokenizer)
        for owner, targets_T, nats_T, is_greedy_T, ends in self._scored(runs, windowed):
            separator_nats = float(nats_T[-1]) if ends else None
            own = slice(0, len(targets_T) - ends)
            yield Piece(owner, first_token, targets_T[own], nats_T[own], is_greedy_T[own], separator_nats)
            first_token = 0 if ends else first_token + len(targets_T)

    def loglikelihood(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[Likelihood]:
        """What continuations are worth behind their contexts.

        A separator stands before the context, as before a document. Context and continuation are encoded apart, so that
        the boundary between them is one between tokens. Windowed models see the end of a context that is too long.

        Args:
            pairs: (context, continuation); either may be empty.
        """
        found = [_Continuation() for _ in pairs]
        for own, _, nats_T, is_greedy_T, _ in self._scored(self._pair_runs(pairs, found), not self.carries):
            start = min(own.num_context, len(nats_T))
            own.num_context -= start
            own.nats += float(np.sum(nats_T[start:], dtype=np.float64))
            own.tokens += len(nats_T) - start
            own.is_greedy &= bool(is_greedy_T[start:].all())
        return [Likelihood(own.nats, own.tokens, own.is_greedy) for own in found]

    def complete(
        self,
        prompts: Sequence[bytes],
        max_tokens: int,
        stop: Sequence[bytes] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[bytes]:
        """What the model writes behind each prompt, in their order; see `completion.complete`.

        With a temperature above 0 equal prompts get different continuations, and the same call the same ones.
        """
        seeds = np.random.SeedSequence(seed).generate_state(len(prompts)).tolist()
        options = {"max_tokens": max_tokens, "sampling": Sampling(temperature), "seeds": seeds, "stop": stop}
        return completion.complete(self.model, self.tokenizer, prompts, **options)

    def _pair_runs(self, pairs, owners):
        """A run for each pair, whose owner knows how many of its targets are context."""
        for (context, continuation), own in zip(pairs, owners, strict=True):
            parts = [[self.tokenizer.separator], self.tokenizer.encode(context), self.tokenizer.encode(continuation)]
            stream = np.concatenate(parts).astype(np.int32)
            own.num_context = len(parts[1])
            if not self.carries:
                cut = min(max(len(stream) - 1 - self.sequence_length, 0), own.num_context)
                stream, own.num_context = stream[cut:], own.num_context - cut
            if len(stream) > 1:
                yield rows.Run(own, stream[:-1], stream[1:], True, True)

    def _scored(self, runs, windowed):
        """(owner, targets, nats, is_greedy, ends) of each span of tokens, in order."""
        windowed = windowed or not self.carries
        length = self.sequence_length
        if windowed:
            batch_size = max(self.chunk_tokens // length, 1)
            batches = rows.in_batches(rows.windows(runs, length), batch_size, length, self._alignment)
        else:
            batches = rows.in_one_row(runs, self.chunk_tokens, self._alignment)
        state = None if windowed else self.model.init_state(1, None)
        for batch in batches:
            arrays = (batch.tokens, batch.targets, batch.segment_ids)
            nats_BT, is_greedy_BT, state = _score(self.model, *arrays, state, batch.continues)
            nats_BT, is_greedy_BT = np.asarray(nats_BT), np.asarray(is_greedy_BT)
            for owner, row, start, stop, ends in batch.spans:
                at = (row, slice(start, stop))
                yield owner, batch.targets[at], nats_BT[at], is_greedy_BT[at], ends
            state = None if windowed else state


@jax.jit
def _score(model, tokens_BT, targets_BT, segment_ids_BT, state, continues):
    """Returns (nats `[B, T]`, whether each target is the most likely token `[B, T]`, the state after them)."""
    if state is not None:
        state = jax.tree.map(lambda leaf: jnp.where(continues, leaf, jnp.zeros_like(leaf)), state)
    output = model(tokens_BT, state, segment_ids_BT=segment_ids_BT)
    is_greedy_BT = jnp.argmax(output.logits_BTW, axis=-1) == targets_BT
    return token_nats(output.logits_BTW, targets_BT), is_greedy_BT, output.state


def _retention_chunk(config):
    """Tokens that retention handles in parallel; 1 for attention."""
    if config.mixer != "retention":
        return 1
    return config.retention.chunk_size or retention.best_chunk_size(config.key_width, config.value_width)


def _dropless(model):
    """The model without a capacity of experts: what they drop depends on who else is in a batch."""
    if model.routed_blocks is None or not model.config.router.capacity_factor:
        return model
    model = surgery.copy(model)
    ffn = model.routed_blocks.ffn
    ffn.config = dataclasses.replace(ffn.config, router=dataclasses.replace(ffn.config.router, capacity_factor=0.0))
    return model
