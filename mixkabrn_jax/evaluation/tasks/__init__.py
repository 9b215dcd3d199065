"""What a model is asked: each task is a function of a scorer, documents and options that returns figures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.evaluation.tasks import bits_per_byte, choice, code, exact, recall


@dataclass(frozen=True)
class Task:
    """A task and where its documents come from."""

    run: Callable[..., dict]
    """Of (scorer, documents, options): figures by name, `n` among them."""
    source: str = ""
    """The source whose documents it is made for; "" for any text."""
    split: str = ""
    """Of its source, the one that is scored unless another is asked for; "" for all of it."""
    path: str = ""
    """Of its source, where that is built in: then files that are given are not its own."""
    takes_shots: bool = False
    """Whether examples may stand before its prompts."""
    read: Callable[[DataConfig, str | None, Skipped], Iterator] | None = None
    """Reads its files where what it is asked of is no document; takes what `data.sources.read` takes."""


TASKS: dict[str, Task] = {
    "bits_per_byte": Task(bits_per_byte.run),
    "choice": Task(choice.run, takes_shots=True, read=choice.read),
    "gsm8k": Task(exact.GSM8K, "gsm8k", "test", takes_shots=True),
    "math": Task(exact.MATH, "math", "test", takes_shots=True),
    "openqa": Task(exact.OPEN_QUESTIONS, "openqa", "validation", takes_shots=True),
    "humaneval": Task(code.run, "code"),
    "recall": Task(recall.run, "synthetic", "test", path="recall"),
}
