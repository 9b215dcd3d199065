"""Parallel text: sentences with their translations, each a task in every direction of `config.data.directions`.

- A table, `.tsv`: columns with tabs between them; the first line names them, the languages among them: `en\tde`.
- Aligned files, `news.en` and `news.de`: line by line translations of each other, unpacked in one folder.
- Records, in JSON Lines, a list in JSON or Parquet: a text for each language, as in `{"en": "Hello.", "de": "Hallo."}`,
  or all of them in `translation`, as the Hugging Face hub has it.

The prompt of "en-de" is `en>de Good day.` and a line end: a tag of three tokens of a BPE, whose names of languages are
words like any other. The domain is the direction. Without a path, English and German sentences are made by rule
(`english_german`).
"""

from collections.abc import Iterator
from pathlib import Path

from mixkabrn_jax.data import detection, records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.config import SPLITS, DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, task
from mixkabrn_jax.data.sources import english_german
from mixkabrn_jax.data.sources.family import Family, is_named


def prompt(direction: str, text: str) -> str:
    """What a model is asked; behind it stands the translation."""
    return f"{_tag(direction)}{_line(text)}\n"


def source_text(document: Document, direction: str) -> str | None:
    """What a document asks to be translated in a direction; None of one that asks for something else."""
    text = document.prompt.decode(errors="replace")
    return text.removeprefix(_tag(direction))[:-1] if text.startswith(_tag(direction)) else None


def _tag(direction):
    return direction.replace("-", ">") + " "


def _line(text):
    return " ".join(text.splitlines()).strip()


def documents(file: File, config: DataConfig, skipped: Skipped) -> Iterator[Document]:
    """The translations of a file, or of the aligned ones of which it is the first; a row without one is damage.

    Raises: ValueError for aligned files of unequal length.
    """
    languages = config.languages
    if records.has_records(file) or records.is_list(file):
        rows = _of_records(file, skipped)
    elif file.plain_name.lower().endswith(".tsv"):
        rows = _of_table(file, languages, skipped)
    else:
        rows = _of_aligned(file, config, skipped)
    for place, row in rows:
        texts = {language: _line(row[language]) for language in languages if isinstance(row.get(language), str)}
        if lacks := [repr(language) for language in languages if not texts.get(language)]:
            skipped.damaged(f"no text in {' and '.join(lacks)}", place)
            continue
        yield from _tasks(texts, config, place)


def _tasks(texts, config, place, domain=""):
    for direction in dict.fromkeys(config.directions.split(",")):
        source, target = direction.split("-")
        own = f"{direction}/{domain}".removesuffix("/")
        yield task(prompt(direction, texts[source]), texts[target], own, f"{direction}/{place}")


def _of_records(file, skipped):
    for place, record in records.read(file, skipped):
        inside = record.get("translation")
        yield place, inside if isinstance(inside, dict) else record


def _of_table(file, languages, skipped):
    if _is_no_text(file.stream.peek(detection.HEAD_BYTES), file.name, skipped):
        return
    names = _cells(file.stream.readline(), file.name, skipped)
    if lacks := [repr(language) for language in languages if language not in names]:
        skipped.damaged(f"its first line names no column {' and '.join(lacks)} (config.data.directions)", file.name)
        return
    for number, line in enumerate(file.stream, 2):
        place = f"{file.name}:{number}"
        cells = _cells(line, place, skipped)
        if len(cells) == len(names):
            yield place, dict(zip(names, cells, strict=True))
        elif any(cells):
            skipped.damaged(f"{len(cells)} columns, not the {len(names)} of the first line", place)


def _cells(line, place, skipped):
    return [cell.strip() for cell in skipped.text(line, place).split("\t")]


def _of_aligned(file, config, skipped):
    """Rows of the file of each language, told by its ending; they are read with that of the first one."""
    own, languages = file.plain_name.rpartition(".")[2], config.languages
    if own not in languages:
        skipped.left_out("neither records, nor .tsv, nor of a language by its ending", file.name)
        return
    if is_named(file.name, config):  # whether it changed is told by `path` alone, and the others would not be seen
        raise ValueError("it is one of several aligned files: name the folder that they are in")
    if file.path is None:
        skipped.damaged("aligned files have to be unpacked", file.name)
        return
    paths = [Path(file.path).with_suffix(f".{language}") for language in languages]
    if lacks := [path.name for path in paths if not path.is_file()]:
        skipped.damaged(f"no {' and '.join(lacks)} beside it", file.name)
    elif own == languages[0]:
        yield from _aligned_rows(paths, file.name, languages, skipped)


def _aligned_rows(paths, name, languages, skipped):
    counts = []
    for path in paths:
        with path.open("rb") as stream:
            if _is_no_text(stream.peek(detection.HEAD_BYTES), path.name, skipped):
                return
            counts.append(sum(1 for _ in stream))
    if len(set(counts)) > 1:
        told = " and ".join(f"{path.name} has {count} lines" for path, count in zip(paths, counts, strict=True))
        raise ValueError(f"{told}: aligned files have a line of each for every line of the others")
    streams = [path.open("rb") for path in paths]
    try:
        for number, lines in enumerate(zip(*streams, strict=True), 1):
            place = f"{name}:{number}"
            texts = [skipped.text(line, place).removeprefix("\ufeff") for line in lines]
            if any(map(str.strip, texts)):
                yield place, dict(zip(languages, texts, strict=True))
    finally:
        for stream in streams:
            stream.close()


def _is_no_text(head, name, skipped):
    """Whether a file that begins so cannot be read, which is counted."""
    reason = detection.not_text(head[: detection.HEAD_BYTES])
    if reason is not None:
        skipped.damaged(reason, name)
    return reason is not None


def made_by_rule(config: DataConfig, split: str | None) -> Iterator[Document]:
    """The pairs of `english_german`, of a split or of all.

    Raises: ValueError for directions between other languages.
    """
    if strangers := [language for language in config.languages if language not in english_german.LANGUAGES]:
        raise ValueError(
            f"config.data.directions={config.directions!r}: sentences of {strangers[0]!r} are not built in, only en-de "
            "and de-en are: set config.data.path to texts of your own"
        )
    for own in SPLITS if split is None else [split]:
        for number in range(english_german.NUM_PAIRS[own]):
            domain, *texts = english_german.pair(own, number)
            pair = dict(zip(english_german.LANGUAGES, texts, strict=True))
            yield from _tasks(pair, config, f"{own}/{number}", domain)


FAMILY = Family(
    documents,
    built_in=made_by_rule,
    layout=".tsv, aligned files such as news.en and news.de, .jsonl, .json or .parquet, with texts of the languages of "
    "config.data.directions",
    legal="the built-in sentences are made by this package: Apache-2.0, as it is; other texts are yours to know",
)
