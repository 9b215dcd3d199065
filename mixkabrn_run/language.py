"""A model with its tokenizer: text in, text out."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mixkabrn_run import adapters, arithmetic, file, native, state, tokenizer
from mixkabrn_run.adapters import Adapter
from mixkabrn_run.chat import NONE, Template
from mixkabrn_run.model import Model
from mixkabrn_run.sampling import Sampling, check_seed, draw
from mixkabrn_run.stops import until

BACKENDS = ("auto", "c", "numpy")
TINY = Path(__file__).parent / "tiny.safetensors"
"""The model in the box: configs/lm.py:tiny after 21,500 steps; its header says how it was trained."""


def load(path: str | Path = TINY, backend: str = "auto", threads: int = 1) -> "Language":
    """The model of a file; without one, of the file that comes with the package.

    Args:
        backend: "c", compiled by the C compiler on first use; "numpy"; "auto" for the first where it can be.
        threads: that share each step in C, on cores that have nothing else to do; NumPy takes one.
    Raises: OSError; ValueError, saying what is wrong with the file; `native.Unavailable`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: one of {BACKENDS} is needed")
    if threads < 1:
        raise ValueError(f"threads={threads}: 1 or more is needed")
    content = Path(path).read_bytes()
    try:
        found = file.parse(content)
        model = None
        if backend != "numpy":
            try:
                model = native.NativeModel(content, found.model, threads=threads)
            except native.Unavailable:
                if backend == "c":
                    raise
        return Language(found, model or Model(found))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path}: {error if isinstance(error, ValueError) else f'its config lacks {error}'}") from None


class Language:
    """A language model in this process."""

    def __init__(self, found: file.File, model):
        self.about, self.sha256, self.config = found.about, found.sha256, found.model
        self.tokenizer = tokenizer.from_record(found.tokenizer)
        template = found.tokenizer.get("chat_template")
        self.template = self._own_template = None if template is None else Template(template)
        self.model = model
        self._shapes = adapters.matrix_shapes(found.arrays)
        if self.tokenizer.vocab_size != model.vocab_size:
            raise ValueError(f"its tokenizer has {self.tokenizer.vocab_size} tokens, its model {model.vocab_size}")

    def adapter(self, path: str | Path) -> Adapter:
        """The adapter in a file, for `adapted`.

        Raises: OSError; ValueError for a file of another form, a damaged one, and an adapter of another model.
        """
        try:
            return adapters.parse(Path(path).read_bytes(), self.sha256, self._shapes)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def adapted(self, found: Iterable[tuple[Adapter, float]]) -> "Language":
        """This model with the weighted sum of adapters beside its matrices, in place of those that it has.

        Nothing of it is read or computed again, and it stays as it is itself; with no adapter the bits are its own.

        Args:
            found: adapters, as `adapter` reads them, and what each is weighted by.
        Raises: ValueError for an adapter of another model, and for a weight that is not finite.
        """
        found = [(adapter, adapters.checked(weight)) for adapter, weight in found]
        if wrong := {adapter.base for adapter, _ in found} - {self.sha256}:
            raise ValueError(f"an adapter is for the model of SHA-256 {min(wrong):.12}..., not {self.sha256:.12}...")
        language = copy.copy(self)
        language.model = self.model.adapted(found)
        # The first one's that has learnt conversations: it is asked as it has learnt.
        language.template = next((adapter.template for adapter, _ in found if adapter.template), self._own_template)
        return language

    def complete(
        self,
        prompt: str,
        *,
        max_tokens: int = 200,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        session=None,
    ) -> Iterator[str]:
        """The text behind a prompt, piece by piece, until the model ends its document or writes a stop.

        Args:
            sampling: how tokens are drawn; None as `Sampling` has it. The same seed gives the same text, anywhere. The
                repetition penalty is for tokens of this prompt and what is drawn behind it.
            stop: texts that end it, and are not part of it.
            session: one of `session`, which has read what came before the prompt; None for a new document. It reads
                all that is drawn, a stop too.
        Raises: ValueError, at the call, for a prompt that has no tokens in this model, and numbers out of range.
        """
        tokens = self.tokenizer.encode(prompt)
        check_seed(seed)
        if max_tokens < 0:
            raise ValueError(f"max_tokens={max_tokens}: 0 or more is needed")
        if session is None:
            session = self.session(len(tokens) + max_tokens + 1)
        drawn = self._drawn(tokens, session, max_tokens, sampling or Sampling(), seed)
        return until(self.tokenizer.texts(drawn), stop)

    def answer(
        self, messages: Sequence[tuple[str, str]], *, session=None, stop: Sequence[str] = (), **drawing
    ) -> Iterator[str]:
        """What the assistant says behind messages, piece by piece; drawn as by `complete`.

        Args:
            messages: roles and what they say, such as `[("user", "Who?")]`.
            session: None for a new conversation; else one that has read what came before these messages. It reads the
                whole answer and its end, whatever ended it, so that the next message may follow.
        Raises: ValueError, at the call, as `complete` and `Template.prompt`, and for a model without a template.
        """
        if self.template is None:
            raise ValueError(NONE)
        session = self.session() if session is None else session
        prompt, stops = self.template.prompt(messages), (*stop, self.template.stop)
        return self._answer(self.complete(prompt, session=session, stop=stops, **drawing), session)

    def _answer(self, pieces, session):
        if (yield from self.template.answer(pieces)) != self.template.stop:
            self.read(self.tokenizer.encode(self.template.stop), session)

    def _drawn(self, prompt, session, max_tokens, sampling, seed):
        logits = self.read(prompt, session)
        seen = np.zeros(self.tokenizer.vocab_size, bool)
        seen[prompt] = True
        for index in range(max_tokens):
            token = draw(logits, sampling, seed, index, seen)
            if token == self.tokenizer.separator:
                return
            logits = session.step(token)  # at once: a session has read what it gave, even if no more is asked for
            seen[token] = True
            yield token

    def read(self, tokens: Sequence[int], session) -> np.ndarray:
        """Logits behind these tokens; a session that is new has its document begun first. `[W]`."""
        for token in (*([self.tokenizer.separator] if session.position == 0 else ()), *tokens):
            session.step(token)
        return session.logits

    def session(self, max_length: int = 4096):
        """What one conversation has in memory; an attention keeps so many positions, retention any number."""
        return self.model.session(max_length)

    def save(self, session) -> bytes:
        """A conversation as bytes, for `restore` of this model anywhere."""
        return state.save(session, self.sha256)

    def restore(self, content: bytes, max_length: int = 4096):
        """The session of saved bytes. Raises: ValueError for those of another model, or that are damaged."""
        session = self.session(max_length)
        state.restore(session, self.sha256, content)
        return session

    def score(self, text: bytes) -> dict[str, float]:
        """`bits_per_byte` of a text read as one document, its `bytes` and `tokens`; its end is among them."""
        tokens = [*self.tokenizer.encode(text), self.tokenizer.separator]
        session, bits = self.session(len(tokens) + 1), 0.0
        logits = self.read((), session)
        for token in tokens:
            shifted = logits - np.max(logits)
            total = float(np.sum(arithmetic.exp(shifted), dtype=np.float64))
            bits += (math.log(total) - float(shifted[token])) / math.log(2)
            logits = session.step(token)
        return {"bits_per_byte": bits / max(len(text), 1), "bytes": len(text), "tokens": len(tokens)}
