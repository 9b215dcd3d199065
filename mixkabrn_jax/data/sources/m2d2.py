"""M2D2, a set of many domains (Reid et al. 2022): Wikipedia and arXiv, one example a line.

`<root>/<domain>/{train,valid,test}.txt`, or `<domain>.tar.gz` that holds such a folder or its files. The domain is what
the folder or archive is called: `cs.CL`, `Culture_and_the_arts__Sports`, `stat_l1`.
"""

from collections.abc import Iterator

from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document, Skipped, parts
from mixkabrn_jax.data.files import File
from mixkabrn_jax.data.sources.family import Family, folders_of, is_named, split_of


def documents(file: File, config: DataConfig, skipped: Skipped) -> Iterator[Document]:
    """The lines of a file, but for those of spaces. One that is cut within a character is kept, with U+FFFD there."""
    name = file.name.rpartition("/")[2]
    if not is_named(file, config) and not (name.endswith(".txt") and split_of(name)):
        skipped.left_out("not a train.txt, valid.txt or test.txt", file.name)
        return
    domain = folders_of(file, config)[-1]
    number = 0
    while file.stream.peek(1):
        number += 1
        has_begun = False
        line = Document(b"", domain, f"{file.name}:{number}")
        for part in parts(file.stream, line, skipped, to_line_end=True):
            # A part is millions of bytes: one of spaces alone is seen before an example or where there is none.
            if has_begun or not _is_blank(part.content):
                has_begun = True
                yield part


def _is_blank(content):
    text = content.strip()
    # What begins with a letter of ASCII need not be decoded to be seen.
    return not text or (text[0] >= 0x80 and text.decode().isspace())


FAMILY = Family(
    documents,
    layout="<domain>/train.txt, valid.txt and test.txt, or <domain>.tar.gz of them",
    legal="M2D2 is CC BY-NC 4.0: for non-commercial use, with attribution",
)
