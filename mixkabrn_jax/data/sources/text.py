"""Text of one's own: every file a document, every line of a JSON Lines or row of a Parquet file one too.

Files may lie in folders and archives and be compressed (`data.files`). The domain of a file is the first folder on the
way to it.
Which splits files are of, `published` tells.
"""

from collections.abc import Iterator

from mixkabrn_jax.data import detection, records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, parts, parts_of
from mixkabrn_jax.data.sources import published
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


FAMILY = Family(documents, split_of=published.split_of, splits_beside=True, layout="text, in files of any name")
