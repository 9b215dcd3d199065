"""Files of records: JSON Lines, JSON, Parquet; each record a dict, with the place it stands at."""

import json
from collections.abc import Iterator, Sequence

from mixkabrn_jax.data import json_stream
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.data.files import File

_LINES = (".jsonl", ".ndjson", ".jsonlines")


def has_records(name: str, *, json: bool = False) -> bool:
    """Whether a file of this name holds records.

    Args:
        json: whether a plain `.json` does, which may as well be one text of whatever form.
    """
    return name.lower().endswith((*_LINES, ".parquet", *((".json",) if json else ())))


def read(file: File, skipped: Skipped, *, inside: Sequence[str] = ()) -> Iterator[tuple[str, dict]]:
    """(place, record) of each record of a file; what is no JSON object is damage, a blank line nothing.

    The place is `file:line`, or `file:number` of a record in Parquet and JSON. A file of JSON is one record, or a list
    of them, or JSON Lines under another name.

    Args:
        inside: names of a list of records, where a JSON object that has it is no record but holds them.

    Raises: ImportError for a Parquet file where pyarrow is not installed.
    """
    name = file.name.lower()
    if name.endswith(".parquet"):
        records = _parquet(file, skipped)
    elif name.endswith(".json") and not _begins_with_a_line(file):
        records = json_stream.read(file, skipped, inside)
    else:
        records = _lines(file, skipped)
    for place, record in records:
        if isinstance(record, dict):
            yield place, record
        else:
            skipped.damaged("not a JSON object", place)


def _begins_with_a_line(file):
    """Whether the first line is an object by itself and others follow."""
    line, end, rest = file.stream.peek(1).removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if not end or not rest.strip() or not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(file, skipped):
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
        yield place, record


def _parquet(file, skipped):
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{file.name} is a Parquet file, which pyarrow reads: pip install pyarrow") from error
    # Its table of contents stands at the end: what comes from an archive is read whole.
    try:
        table = parquet.ParquetFile(pa.BufferReader(file.stream.read()))
        number = 0
        for batch in table.iter_batches(batch_size=256):
            for record in batch.to_pylist():
                number += 1
                yield f"{file.name}:{number}", record
    except pa.ArrowInvalid as error:
        skipped.damaged(f"not a Parquet file ({error})", file.name)


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


def texts(record: dict, place: str, skipped: Skipped, *fields: str) -> list[str] | None:
    """The texts of some fields, without the spaces around them; a record that lacks one is damage, and None.

    Args:
        fields: names, or several with "|" between them, of which the first counts that holds a text.
    """
    found, lacks = [], []
    for names in fields:
        values = (record.get(name) for name in names.split("|"))
        text = next((value.strip() for value in values if isinstance(value, str) and value.strip()), "")
        found.append(text)
        if not text:
            lacks.append("no text in " + " or ".join(map(repr, names.split("|"))))
    if lacks:
        skipped.damaged(", ".join(lacks), place)
        return None
    return found
