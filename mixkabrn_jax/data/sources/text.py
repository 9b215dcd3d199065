"""Text of one's own: every file a document, every record of JSON Lines, of Parquet or of a list in JSON one too.

Files may lie in folders and archives and be compressed (`data.files`). The domain of a file is the first folder on the
way to it. Records of a prompt and a target, or of messages, are tasks (`data.instructions`). Which splits files are of,
`published` tells.
"""

import itertools
import re
from collections.abc import Iterator

from mixkabrn_jax.data import detection, instructions, records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, parts, parts_of
from mixkabrn_jax.data.sources import published
from mixkabrn_jax.data.sources.family import Family
from mixkabrn_jax.data.template import TEMPLATES

COLUMNS = ("text", "content", "body", "article", "document", "story", "markdown", "code")
"""Where a record's text is looked for, in this order, unless `config.data.text_column` names it."""
_TITLE = re.compile(r" = (?!= ).*(?<! =) = \n")


def documents(file: File, config: DataConfig, skipped: Skipped) -> Iterator[Document]:
    """The documents of a file; one that is no text is damage."""
    if records.has_records(file) or records.is_list(file):
        for place, record in _articles(records.read(file, skipped)):
            yield from _documents_of(record, place, file, config, skipped)
        return
    reason = detection.not_text(file.stream.peek(detection.HEAD_BYTES)[: detection.HEAD_BYTES])
    if reason is not None:
        skipped.damaged(reason, file.name)
        return
    yield from parts(file.stream, Document(b"", file.folder, file.name), skipped)


def _documents_of(record, place, file, config, skipped):
    if not config.text_column and instructions.is_one(record, COLUMNS):
        yield from instructions.documents(record, place, file.folder, skipped, TEMPLATES.get(config.template))
        return
    text = records.text_of(record, place, config.text_column, COLUMNS, skipped)
    if text:
        yield from parts_of(text, Document(b"", file.folder, place), skipped)


def _articles(rows):
    """The rows of a table; those of WikiText, of which each is a line, joined to articles.

    An article begins at a title between two blank rows. Rows that are blank are empty in the table, and a space in the
    files that it was made of: end to end, the articles are those files to the byte.
    """
    head = list(itertools.islice(rows, 1))
    if head and _line(head[0][1]).isspace():  # and else not: rows may be large, and one is held at a time
        head += itertools.islice(rows, 2)
    if not _is_title([_line(record) for _, record in head]):
        while head:
            yield head.pop(0)
        yield from rows
        return
    start, before, lines = head[1][0], "", []
    for place, record in itertools.chain(head, rows):
        lines.append(_line(record))
        if _is_title(lines[-3:]) and len(lines) > 3:
            yield start, {"text": "".join(lines[:-2])}
            start, lines = before, lines[-2:]
        before = place
    yield start, {"text": "".join(lines)}


def _line(record):
    """Of a record that has a text alone; "" for another one."""
    text = record.get("text") if len(record) == 1 else None
    return "" if not isinstance(text, str) else text if text.strip() else " \n"


def _is_title(lines):
    """Whether of three lines the second is the title of an article of WikiText."""
    return len(lines) == 3 and lines[0].isspace() and lines[2].isspace() and bool(_TITLE.fullmatch(lines[1]))


FAMILY = Family(documents, split_of=published.split_of, splits_beside=True, layout="text, in files of any name")
