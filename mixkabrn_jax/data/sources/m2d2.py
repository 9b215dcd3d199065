"""M2D2, a set of many domains (Reid et al. 2022): Wikipedia and arXiv, one example a line.

`<root>/<domain>/{train,valid,test}.txt`, or `<domain>.tar.gz` that holds such a folder or its files. The domain is what
the folder or archive is called: `cs.CL`, `Culture_and_the_arts__Sports`, `stat_l1`.
"""

from collections.abc import Iterator

from mixkabrn_jax.data import detection, records
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, lines
from mixkabrn_jax.data.sources.family import Family, folders_of, is_named, split_of


def documents(file: File, config: DataConfig, skipped: Skipped) -> Iterator[Document]:
    """The lines of a file, but for those of spaces. One that is cut within a character is kept, with U+FFFD there.

    A text that is named by itself may be called anything.
    """
    name = file.plain_name.rpartition("/")[2]
    is_text = is_named(file.name, config) and not name.lower().endswith(records.ENDINGS)
    if not is_text and not (name.endswith(".txt") and split_of(name)):
        skipped.left_out("not a train.txt, valid.txt or test.txt", file.name)
        return
    reason = detection.not_text(file.stream.peek(1)[: detection.HEAD_BYTES])
    if reason not in (None, detection.NOT_UTF8):
        skipped.damaged(reason, file.name)
        return
    yield from lines(file.stream, Document(b"", folders_of(file, config)[-1], file.name), skipped)


FAMILY = Family(
    documents,
    layout="<domain>/train.txt, valid.txt and test.txt, or <domain>.tar.gz of them",
    legal="M2D2 is CC BY-NC 4.0: for non-commercial use, with attribution",
)
