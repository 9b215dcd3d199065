"""Where documents come from: a file or a folder of text; and which of them are held out for validation."""

import dataclasses
import logging
import os
from collections import Counter
from pathlib import Path

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Document:
    """A text as bytes, the domain it belongs to ("" = none) and a name for it that is unique in its source."""

    content: bytes
    domain: str
    id: str


def text(path: str | os.PathLike[str]) -> list[Document]:
    """Reads one file as one document, or every regular file below a folder, in sorted order, as one document each.

    The domain of a file is the first folder on the way to it, "" for a file that lies in `path` itself; its id is its
    path below `path`. Content is bytes, so any encoding is accepted. Hidden files and folders, linked folders, files
    that are not regular (pipes, broken links) and empty files are skipped, and counted in one warning.

    Raises:
      FileNotFoundError: nothing is at `path`.
      ValueError: the file is empty, or no file below the folder has content.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"config.data.path={str(path)!r} does not exist: give a text file or a folder of them")
    if root.is_file():
        content = root.read_bytes()
        if not content:
            raise ValueError(f"config.data.path={str(path)!r} is an empty file: give a file with text in it")
        return [Document(content, domain="", id=root.name)]
    if not root.is_dir():
        raise ValueError(f"config.data.path={str(path)!r} is neither a file nor a folder")

    files, skipped = _regular_files(root)
    documents = []
    for file in files:
        if content := (root / file).read_bytes():
            documents.append(Document(content, domain=file.parts[0] if len(file.parts) > 1 else "", id=file.as_posix()))
        else:
            skipped["empty"] += 1
    if skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        _log.warning("config.data.path=%r: skipped %s; read %d files", str(path), counts, len(documents))
    if not documents:
        raise ValueError(f"config.data.path={str(path)!r} is a folder without a non-empty file: put text files in it")
    return documents


def _regular_files(root: Path) -> tuple[list[Path], Counter[str]]:
    """Returns the files below `root`, relative to it and sorted by folder then name, and counts of what is left out."""
    files, skipped = [], Counter()

    def fail(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that it may not read

    for folder, subfolders, names in os.walk(root, onerror=fail):
        here = Path(folder)
        visible = [name for name in subfolders if not name.startswith(".")]
        skipped["hidden"] += len(subfolders) - len(visible)
        skipped["linked folders"] += sum((here / name).is_symlink() for name in visible)
        subfolders[:] = visible  # os.walk goes on with these, but does not follow links, which can form cycles
        for name in names:
            if name.startswith("."):
                skipped["hidden"] += 1
            elif not (here / name).is_file():
                skipped["not regular"] += 1
            else:
                files.append((here / name).relative_to(root))
    return sorted(files, key=lambda file: file.parts), +skipped


def check_fraction(fraction: float) -> None:
    """Raises a ValueError unless 0 < fraction < 1."""
    if not 0 < fraction < 1:
        raise ValueError(f"config.data.validation_fraction={fraction} must lie strictly between 0 and 1, such as 0.1")


def hold_out(documents: list[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    """Splits documents into training and validation, both in the given order.

    Of each domain's n documents the last int(n * fraction), but at least one, are held out. A domain of one document
    is cut inside it, at byte int(length * (1 - fraction)) or at the next character if that byte is inside one, which
    for a lone tinyshakespeare.txt and 0.1 is nanoGPT's split. A lone document too short to be cut is for training.

    Raises:
      ValueError: fraction is not in (0, 1), or nothing at all could be held out.
    """
    check_fraction(fraction)
    size = Counter(document.domain for document in documents)
    num_train = {domain: n - max(1, int(n * fraction)) for domain, n in size.items()}
    seen = Counter()
    train, validation = [], []
    for document in documents:
        domain = document.domain
        if size[domain] == 1:
            cut = _cut(document.content, fraction)
            head, tail = document.content[:cut], document.content[cut:]
            if head and tail:
                train.append(dataclasses.replace(document, content=head))
                validation.append(dataclasses.replace(document, content=tail))
            else:
                train.append(document)
                _log.warning("domain %r: its one document %r is too short to hold out a part", domain, document.id)
        elif seen[domain] < num_train[domain]:
            train.append(document)
        else:
            validation.append(document)
        seen[domain] += 1
    if not validation:
        raise ValueError(
            f"config.data.validation_fraction={fraction} of {len(documents)} documents with "
            f"{sum(len(document.content) for document in documents)} bytes holds nothing out: give more text"
        )
    return train, validation


def _cut(content: bytes, fraction: float) -> int:
    """Returns the first character boundary at or after byte int(length * (1 - fraction))."""
    cut = int(len(content) * (1 - fraction))
    # A UTF-8 character has at most three continuation bytes (10xxxxxx); after more of them this is no UTF-8, and the
    # plain byte position is as good as any.
    for boundary in range(cut, min(cut + 4, len(content))):
        if content[boundary] & 0b1100_0000 != 0b1000_0000:
            return boundary
    return cut if len(content) - cut > 3 else len(content)
