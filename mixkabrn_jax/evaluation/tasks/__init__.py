"""What a model is asked: each task is a function of a scorer, documents and options that returns figures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.data.sources import quiz
from mixkabrn_jax.evaluation.tasks import bits_per_byte, choice, code, exact, recall
from mixkabrn_jax.evaluation.tasks.options import Options


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
    takes: tuple[str, ...] = ()
    """Flags that concern it and not every task."""
    check: Callable[[Options], None] | None = None
    """Raises for options that it cannot be asked with, where it has such, before anything is read."""
    read: Callable[[DataConfig, str | None, Skipped], Iterator] | None = None
    """Reads its files where what it is asked of is no document; takes what `data.sources.read` takes."""


_WRITES = ("max_tokens", "temperature", "seed", "completions")
_ANSWERS = ("shots", *_WRITES)

TASKS: dict[str, Task] = {
    "bits_per_byte": Task(bits_per_byte.run),
    "choice": Task(choice.run, read=choice.read, takes=("shots",)),
    "gsm8k": Task(exact.GSM8K, "gsm8k", "test", takes=_ANSWERS),
    "math": Task(exact.MATH, "math", "test", takes=_ANSWERS),
    "openqa": Task(exact.OPEN_QUESTIONS, "openqa", "validation", takes=_ANSWERS),
    "humaneval": Task(code.run, "code", takes=("num_samples", "allow_code", *_WRITES), check=code.check),
    "quiz": Task(exact.QUIZ, "quiz", "test", path=",".join(quiz.TASKS), takes=_ANSWERS),
    "recall": Task(recall.run, "synthetic", "test", path="recall"),
}
