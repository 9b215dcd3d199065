"""What the model wrote where it was asked, with the verdicts, as JSON Lines."""

import json
from collections.abc import Callable
from pathlib import Path

from mixkabrn_jax.data.documents import Document


class Completions:
    """A file with a line for each completion, in the order of the documents. It is made with the first of them."""

    def __init__(self, path: Path):
        self._path = path
        self._failure: OSError | None = None

    def of(self, task: str) -> Callable[[Document, str, bool], None]:
        """What takes the completions of a task: `Options.keep`."""

        def keep(document: Document, completion: str, is_right: bool) -> None:
            self._write(
                {
                    "task": task,
                    "id": document.id,
                    "prompt": document.prompt.decode(errors="replace"),
                    "completion": completion,
                    "reference": list(document.answers) or document.tests,
                    "right": is_right,
                }
            )

        return keep

    def _write(self, record):
        if self._failure is not None:
            return
        try:
            # Each line is on disk at once: what a run of hours found is there whatever ends it.
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:  # of a full disk: it names no file; the figures go on without it
            self._failure = OSError(error.errno, error.strerror, str(self._path))

    def require_whole(self) -> None:
        """Raises: OSError naming the file, where a line could not be written: it ends before that one."""
        if self._failure is not None:
            raise self._failure
