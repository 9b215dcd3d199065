"""Text of one's own: every file a document, every line of a JSON Lines or row of a Parquet file one too.

Files may lie in folders and archives and be compressed (`data.files`). The domain of a file is the first folder on the
way to it.
The splits of a set that is published under the names of the Hugging Face hub, or of WikiText, are those of its names.
"""

import re
from collections.abc import Iterator

from mixkabrn_jax.data import detection, records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, parts, parts_of
from mixkabrn_jax.data.sources import family
from mixkabrn_jax.data.sources.family import Family

COLUMNS = ("text", "content", "body", "article", "document", "story", "markdown", "code")
"""Where a record's text is looked for, in this order, unless `config.data.text_column` names it."""


def documents(file: File, config: DataConfig, skipped: Skipped) -> Iterator[Document]:
    """The documents of a file; one that is no text is damage."""
    if records.has_records(file):
        for place, record in records.read(file, skipped):
            text = records.text_of(record, place, config.text_column, COLUMNS, skipped)
            if text:
                yield from parts_of(text, Document(b"", file.folder, place), skipped)
        return
    reason = detection.not_text(file.stream.peek(detection.HEAD_BYTES)[: detection.HEAD_BYTES])
    if reason is not None:
        skipped.damaged(reason, file.name)
        return
    yield from parts(file.stream, Document(b"", file.folder, file.name), skipped)


_PUBLISHED = re.compile(r"(?:^|[._-])(train|validation|valid|test)(?:[.-]\d{5}-of-\d{5}|\.(?:tokens|raw)$)")


def split_of(name: str) -> str | None:
    """The split of a file that is named as published sets are: `test-00000-of-00001.parquet`, `wiki.test.tokens`.

    A file of one's own may be called anything: `test.txt` is of no split. An archive that is named so is of one.
    """
    parts = reversed(name.lower().split("/"))
    found = next((found for found in map(_PUBLISHED.search, parts) if found), None)
    return found and family.split_of(found[1])


FAMILY = Family(documents, split_of=split_of, layout="text, in files of any name")
