"""Source code: rows of code sets with their licences, HumanEval's problems with their tests, folders of files.

- Rows of JSON Lines and Parquet (code_exercises, tiny-codes, github-code, the-stack-smol): the code is in one of
  `COLUMNS`, and what was asked for it in one of `PROMPTS`. The domain is the language that the row names.
- Rows with the fields of HumanEval are tasks with tests; their domain is what comes before the "/" of `task_id`.
- Other files are documents, told by their endings; the domain is the language. Words such as "test" in their names are
  no splits: code has folders called tests.

Without a path, the standard library of the Python that runs this is read: on every machine, but with other bytes for
every version of Python.
"""

import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from mixkabrn_jax.data import detection, records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, parts, parts_of, task
from mixkabrn_jax.data.sources import family
from mixkabrn_jax.data.sources.family import Family

COLUMNS = ("content", "code", "text", "solution", "response", "canonical_solution")
"""Where a row's code is looked for, in this order, unless `config.data.text_column` names it."""
PROMPTS = ("prompt", "problem", "instruction")
_LICENSES = ("license", "licenses", "max_stars_repo_licenses")
_LANGUAGES = ("language", "lang", "programming_language")
_HUMANEVAL = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
ENDINGS = {
    "python": "py pyi",
    "c": "c h",
    "c++": "cc cpp cxx hpp hh",
    "c#": "cs",
    "java": "java",
    "javascript": "js jsx mjs",
    "typescript": "ts tsx",
    "go": "go",
    "rust": "rs",
    "ruby": "rb",
    "php": "php",
    "swift": "swift",
    "kotlin": "kt",
    "scala": "scala",
    "haskell": "hs",
    "ocaml": "ml mli",
    "julia": "jl",
    "r": "r",
    "lua": "lua",
    "perl": "pl pm",
    "shell": "sh bash",
    "sql": "sql",
    "lisp": "lisp el scm clj",
    "fortran": "f f90",
    "cuda": "cu cuh",
}
"""Of source files, by language; other files are left out."""
_LANGUAGE_OF = {f".{ending}": language for language, endings in ENDINGS.items() for ending in endings.split()}
_NOT_OF_THE_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def documents(file: File, config: DataConfig, skipped: Skipped) -> Iterator[Document]:
    """The documents of a file; rows under a licence that is not allowed, and files that are no code, are left out."""
    if records.has_records(file):
        allowed = {name.strip().lower() for name in config.licenses.split(",") if name.strip()}
        for place, row in records.read(file, skipped):
            if unwanted := _not_allowed(row, allowed):
                skipped.left_out(f"licence {unwanted}", place)
            else:
                yield from _documents_of(row, place, file, config, skipped)
        return
    language = _LANGUAGE_OF.get(Path(file.plain_name).suffix.lower())
    if language is None:
        skipped.left_out("no source code by its ending", file.name)
        return
    reason = detection.not_text(file.stream.peek(detection.HEAD_BYTES)[: detection.HEAD_BYTES])
    if reason is not None:
        skipped.damaged(reason, file.name)
        return
    yield from parts(file.stream, Document(b"", language, file.name), skipped)


def _not_allowed(row, allowed):
    """The first licence of a row that is not allowed, None for a row that may be read."""
    if not allowed:
        return None
    names = []
    for field in _LICENSES:
        value = row.get(field)
        names += [value] if isinstance(value, str) else value if isinstance(value, list) else []
    for name in (name.strip().lower() for name in names if isinstance(name, str) and name.strip()):
        # As in SPDX's expressions: of "MIT OR GPL-3.0-only" whoever uses it chooses.
        choices = [re.split(r" and ", choice.strip("() ")) for choice in re.split(r" or ", name)]
        if not any(all(one.strip("() ") in allowed for one in choice) for choice in choices):
            return name
    return None


def _documents_of(row, place, file, config, skipped):
    """The document of a row, in parts if it is long; none where it has no code."""
    if all(isinstance(row.get(field), str) for field in _HUMANEVAL):
        tests = f"{row['test']}\ncheck({row['entry_point']})\n"
        domain = row["task_id"].partition("/")[0].lower()
        yield task(row["prompt"], row["canonical_solution"], domain, place, tests=tests)
        return
    code = records.text_of(row, place, config.text_column, COLUMNS, skipped)
    if not code:
        return
    named = [row[field] for field in _LANGUAGES if isinstance(row.get(field), str)]
    domain = named[0].lower() if named else file.folder
    asked = [row[field] for field in PROMPTS if isinstance(row.get(field), str) and field != config.text_column]
    if not asked or not asked[0].strip():
        yield from parts_of(code, Document(b"", domain, place), skipped)
        return
    has_break = asked[0].endswith("\n") or code.startswith("\n")
    yield task(asked[0] if has_break else asked[0] + "\n", code, domain, place)


def standard_library(config: DataConfig, split: str | None) -> Iterator[Document]:
    """The source of Python's standard library without its tests, in sorted order, all of "train".

    Raises: ValueError where this Python came without it.
    """
    del config
    if split not in (None, "train"):
        return
    root = Path(sysconfig.get_path("stdlib"))
    is_empty = True
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _NOT_OF_THE_LIBRARY)
        for path in sorted(Path(folder, name) for name in names if name.endswith(".py")):
            with path.open("rb") as stream:
                if detection.not_text(stream.peek(detection.HEAD_BYTES)) is None:
                    is_empty = False
                    name = path.relative_to(root).as_posix()
                    yield from parts(stream, Document(b"", "python", name), Skipped())
    if is_empty:
        raise ValueError(
            f"the standard library of Python has no source in {str(root)!r}: set config.data.path to code of your own"
        )


def split_of(name: str) -> str | None:
    """The split of a file of rows, by its name; source files are of none, whatever their folders are called."""
    return family.split_of(name) if name.lower().endswith(records.ENDINGS) else None


FAMILY = Family(
    documents,
    built_in=standard_library,
    split_of=split_of,
    legal="code is under the licences of its files: rows that name one which config.data.licenses lacks are left out, "
    "all else is read. HumanEval is MIT and Python's standard library PSF; the library's bytes differ between versions",
)
