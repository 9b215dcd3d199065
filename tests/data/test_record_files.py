"""Records out of JSON Lines and Parquet."""

import gzip
import json
import tracemalloc

import pytest

from configs import lm
from mixkabrn_jax.data import records, sources
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import PART_BYTES, DamagedError, Skipped
from mixkabrn_jax.data.files import walk


def read(path, on_damage="skip"):
    skipped = Skipped(on_damage)
    return [found for file in walk(path, skipped) for found in records.read(file, skipped)], skipped


def test_lines_are_records_with_their_places_and_the_others_are_counted(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"text": "a"}',
        b"",
        b"   ",
        b'{"text": "b\xe9"}',
        b"no JSON",
        b"[1]",
        b"7",
        '{"text": "\u2028 is no end of a line"}'.encode(),
        b"[" * 100_000,
        b"9" * 5000,
        b'{"text": "c"}',
    ]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    found, skipped = read(path)
    assert [place for place, _ in found] == ["x.jsonl:1", "x.jsonl:4", "x.jsonl:8", "x.jsonl:11"]
    assert [record["text"] for _, record in found] == ["a", "b\ufffd", "\u2028 is no end of a line", "c"]
    assert skipped.counts == {"not JSON": 3, "not a JSON object": 2}
    assert skipped.places == {"not JSON": "x.jsonl:5", "not a JSON object": "x.jsonl:6"}
    assert skipped.replaced == {"x.jsonl": 1}
    with pytest.raises(DamagedError, match=r"^x\.jsonl:5: not JSON$"):
        read(path, "error")


def test_a_file_of_lines_that_was_cut_ends_in_a_line_that_is_damaged(tmp_path):
    packed = gzip.compress(b'{"text": "%s"}\n' % (b"x" * 100) * 1000)
    (tmp_path / "x.jsonl.gz").write_bytes(packed[:-30])
    found, skipped = read(tmp_path)
    assert 0 < len(found) < 1000
    assert sum(skipped.counts.values()) == 2, "the archive, and the line that it cuts"


def test_a_long_line_is_one_record(tmp_path):
    text = "word " * 300_000  # 1.5 parts
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "short"}))
    found, skipped = read(tmp_path)
    assert [record["text"] for _, record in found] == [text, "short"]
    assert not skipped.counts


def test_a_record_with_a_long_text_comes_in_parts_but_for_a_task(tmp_path):
    text = "word " * (PART_BYTES // 4)  # two parts
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"prompt": "?", "text": text}))
    for source, number in (("text", 2), ("code", 1)):
        config = DataConfig(**{**lm.get_config().data.to_dict(), "source": source, "path": str(tmp_path)})
        found = list(sources.read(config, "train", Skipped()))
        assert [document.continues for document in found] == [True, False] * number + [False] * (2 - number)
        assert "".join(document.content.decode() for document in found[:2]) == text
        assert [document.id for document in found] == ["x.jsonl:1"] * 2 + ["x.jsonl:2"] * number


def test_of_a_long_line_bytes_text_and_record_are_never_all_there_at_once(tmp_path):
    size = 24 << 20
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "' + b"word " * (size // 5) + b'"}\n')
    config = DataConfig(**{**lm.get_config().data.to_dict(), "source": "text", "path": str(tmp_path)})
    tracemalloc.start()
    try:
        num_bytes = sum(len(document.content) for document in sources.read(config, "train", Skipped()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num_bytes == size // 5 * 5
    assert peak < 2.5 * size


def test_the_text_is_found_by_the_usual_names_or_the_one_that_is_given():
    skipped = Skipped()
    known = ("text", "content")
    assert records.text_of({"content": "c", "text": "t"}, "x:1", "", known, skipped) == "t"
    assert records.text_of({"text": None, "content": "c"}, "x:1", "", known, skipped) == "c"
    assert records.text_of({"text": "t", "body": "b"}, "x:1", "body", known, skipped) == "b"
    assert not skipped.counts
    assert records.text_of({"text": " \n"}, "x:1", "", known, skipped) is None
    assert records.text_of({"text": 7}, "x:2", "", known, skipped) is None
    assert records.text_of({"text": "t"}, "x:3", "body", known, skipped) is None
    assert skipped.counts == {
        "empty": 1,
        "no text column (any of text, content)": 1,
        "no text column ('body')": 1,
    }


def test_parquet_is_read_from_disk_and_from_archives_and_damage_is_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"text": f"row {number}", "licenses": ["mit"]} for number in range(1000)]
    path = tmp_path / "a" / "x.parquet"
    path.parent.mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=300)
    content = path.read_bytes()
    expected = [(f"x.parquet:{number}", row) for number, row in enumerate(rows, start=1)]
    assert read(path)[0] == expected
    (tmp_path / "a" / "y.parquet.gz").write_bytes(gzip.compress(content))
    places = [place for place, _ in read(tmp_path)[0]]
    assert places == [f"a/{name}.parquet:{number}" for name in "xy" for number in range(1, 1001)]
    broken = bytearray(content)
    broken[50:400] = b"x" * 350
    for damaged in (content[:-10], b"PAR1 no more", bytes(broken), content[:200] + content[260:]):
        path.write_bytes(damaged)
        found, skipped = read(path)
        assert len(found) < 1000
        [(reason, count)] = skipped.counts.items()
        assert (reason[:20], count, skipped.places[reason]) == ("not a Parquet file (", 1, "x.parquet")
        assert "\n" not in reason
