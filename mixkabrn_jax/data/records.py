"""Files of records: JSON Lines, a JSON list, Parquet; each record a dict, with the place it stands at."""

import json
from collections.abc import Iterator, Sequence

from mixkabrn_jax.data import decompression
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.data.files import File

_LINES = (".jsonl", ".ndjson", ".jsonlines")


def has_records(name: str) -> bool:
    """Whether a file of this name holds records."""
    return name.lower().endswith((*_LINES, ".parquet"))


def read(file: File, skipped: Skipped) -> Iterator[tuple[str, dict]]:
    """(place, record) of each record of a file; lines that are no JSON object are damage, blank ones nothing.

    Raises: ImportError for a Parquet file where pyarrow is not installed.
    """
    if file.name.lower().endswith(".parquet"):
        yield from _parquet(file, skipped)
        return
    for number, line in enumerate(file.stream, start=1):
        place = f"{file.name}:{number}"
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            record = json.loads(skipped.decoded(line, place))
        except (ValueError, RecursionError):
            skipped.damaged("not JSON", place)
            continue
        if isinstance(record, dict):
            yield place, record
        else:
            skipped.damaged("not a JSON object", place)


def _parquet(file, skipped):
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{file.name} is a Parquet file, which pyarrow reads: pip install pyarrow") from error
    # Its table of contents stands at the end: what comes from an archive is read whole.
    source = file.path or pa.BufferReader(file.stream.read())
    try:
        number = 0
        with parquet.ParquetFile(source) as table:
            for batch in table.iter_batches(batch_size=64):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{file.name}:{number}", record
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        decompression.raise_of_file_system(error)
        skipped.damaged(f"not a Parquet file ({_first_line(error)})", file.name)


def _first_line(error):
    return str(error).strip().partition("\n")[0]


def text_of(record: dict, place: str, column: str, known: Sequence[str], skipped: Skipped) -> str | None:
    """The text of a record; one without is damage, an empty one is left out, and both are None.

    Args:
        column: that holds it, or "" for the first of the known ones that the record has.
    """
    columns = [column] if column else [name for name in known if isinstance(record.get(name), str)]
    text = record.get(columns[0]) if columns else None
    if not isinstance(text, str):
        wanted = repr(column) if column else "any of " + ", ".join(known)
        skipped.damaged(f"no text column ({wanted})", place)
        return None
    if not text.strip():
        skipped.left_out("empty", place)
        return None
    return text
