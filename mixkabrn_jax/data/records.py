"""Files of records: JSON Lines, JSON, Parquet; each record a dict, with the place it stands at."""

import json
from collections.abc import Iterator, Sequence

from mixkabrn_jax.data import decompression, detection, json_stream
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.documents import Skipped

ENDINGS = (".jsonl", ".ndjson", ".jsonlines", ".parquet", ".json")
"""Of files of records; a `.json` may as well be one text of whatever form."""
_CARDS = ("dataset_infos.json", "dataset_info.json")
"""What the Hugging Face hub keeps beside a dataset's files."""


def has_records(file: File) -> bool:
    """Whether a file holds records. A `.json` does where it is JSON Lines by another name (the-stack-smol, C4)."""
    name = file.plain_name.lower()
    return _begins_with_a_line(file) if name.endswith(".json") else name.endswith(ENDINGS)


def is_list(file: File) -> bool:
    """Whether a `.json` is a list of objects."""
    if not file.plain_name.lower().endswith(".json"):
        return False
    head = _head(file)
    return head.startswith(b"[") and head[1:].lstrip().startswith(b"{")


def read(file: File, skipped: Skipped, *, inside: Sequence[str] = ()) -> Iterator[tuple[str, dict]]:
    """(place, record) of each record of a file; what is no JSON object is damage, a blank line nothing.

    A file whose name has none of `ENDINGS` is left out, and one of another format, such as UTF-16, is one damage. The
    place is `file:line`, or `file:number` of a record in Parquet and JSON. A file of JSON is one record, or a list of
    them, or JSON Lines by another name. Half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes U+FFFD in
    all texts of a record, as broken UTF-8 does, and is counted with it.

    Args:
        inside: names of a list of records, where a JSON object that has it is no record but holds them.

    Raises: ImportError for a Parquet file where pyarrow is not installed.
    """
    name = file.plain_name.lower()
    if not name.endswith(ENDINGS):
        skipped.left_out("no file of records", file.name)
        return
    if name.rpartition("/")[2] in _CARDS:
        skipped.left_out("description of a dataset", file.name)
        return
    if name.endswith(".parquet"):
        records = _parquet(file, skipped)
    elif reason := detection.another_format(file.stream.peek(1)[: detection.HEAD_BYTES]):
        skipped.damaged(reason, file.name)
        return
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
    line, end, rest = _head(file).partition(b"\n")
    if not end or not rest.strip() or not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _head(file):
    return file.stream.peek(1).removeprefix(b"\xef\xbb\xbf").lstrip()


def _lines(file, skipped):
    number = 0
    # A line may have hundreds of megabytes: of bytes, text and record no more than two are there at a time.
    while line := file.stream.readline():
        number += 1
        place = f"{file.name}:{number}"
        text = skipped.text(line, place)
        del line
        if number == 1:
            text = text.removeprefix("\ufeff")
        if text.isspace():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            skipped.damaged("not JSON", place)
            continue
        record = json_stream.mended(record, text, file.name, skipped)
        del text
        yield place, record
        del record


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
