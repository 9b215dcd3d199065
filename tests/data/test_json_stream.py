"""JSON read as it comes, against the library that reads it whole."""

import io
import json
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax.data import json_stream
from mixkabrn_jax.data.archives import File
from mixkabrn_jax.data.documents import DamagedError, Skipped

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def read(content, inside=(), chunk=1 << 16, on_damage="skip"):
    """(values, what was left out)."""
    skipped = Skipped(on_damage)
    stream = io.BufferedReader(io.BytesIO(content))
    with mock.patch.object(json_stream, "_CHUNK", chunk):
        values = [value for _, value in json_stream.read(File("a.json", stream), skipped, inside)]
    return values, skipped


@given(VALUES, st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_a_list_is_its_members_and_any_other_value_itself_wherever_reading_stops(value, chunk, indent, ascii):
    content = json.dumps(value, indent=indent, ensure_ascii=ascii).encode(errors="replace")
    whole = json.loads(content)
    for text in (content, b" \r\n" + content + b"\n", b"\xef\xbb\xbf" + content):
        values, skipped = read(text, chunk=chunk)
        assert values == (whole if isinstance(whole, list) else [whole])
        assert not skipped.counts


@given(st.lists(VALUES, max_size=4), st.dictionaries(st.text(), VALUES, max_size=3), st.integers(1, 9), st.booleans())
def test_an_object_with_a_list_of_a_given_name_is_that_list(members, others, chunk, is_last):
    others.pop("Data", None)
    value = {**others, "Data": members} if is_last else {"Data": members, **others}
    assert read(json.dumps(value).encode(), ("Data",), chunk)[0] == members
    assert read(json.dumps(value).encode(), ("Other data",), chunk)[0] == [value]


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 16])
def test_halves_of_surrogate_pairs_become_one_sign_each_and_are_counted(chunk):
    smile, deep = "\U0001f600", "[" * 500 + '"\\udC00"' + "]" * 500
    content = '[{"a": "\\ud83d\\ude00 \\ude00\\uD83D", "\\ud800": 1}, "\\uDFFF", "\\\\ud800", ' + deep + "]"
    (first, second, third, fourth), skipped = read(content.encode(), chunk=chunk)
    assert (first["a"], second, third) == (f"{smile} \ufffd\ufffd", "\ufffd", "\\ud800")
    while isinstance(fourth, list):
        [fourth] = fourth
    assert fourth == "\ufffd"
    assert skipped.replaced == {"a.json": 4}


@given(VALUES, st.data())
def test_json_that_is_cut_off_gives_what_came_before_and_is_counted(value, data):
    content = json.dumps([value, value]).encode()
    cut = data.draw(st.integers(1, len(content) - 1))
    values, skipped = read(content[:cut], chunk=4)
    assert values == [value] * len(values)
    assert skipped.counts == {"not JSON, or cut off": 1}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('[\n{"a": 1},\n{"b": }]', 3),
        ('[\n{"a": 1}\n{"b": 2}]', 3),
        ('{"a": 1}\n\n{"b": 2}', 3),
        ('[{"a": 1},\n]', 2),
        ("[1, 2\n", 2),
        ("{1: 2}", 1),
        ('{"a" 2}', 1),
        ("\n\nno JSON", 3),
        ("", 1),
        ("[" * 100_000, 1),
        ("[\n" + "9" * 9000 + "]", 2),
    ],
)
@pytest.mark.parametrize("chunk", [3, 1 << 16])
def test_damage_is_named_with_its_line(content, line, chunk):
    with pytest.raises(DamagedError, match=f"^a.json:{line}: not JSON"):
        read(content.encode(), chunk=chunk, on_damage="error")


def test_members_come_before_the_rest_is_read():
    stream = io.BufferedReader(io.BytesIO(b"[" + b'{"a": 1}, ' * 100_000 + b"broken"))
    assert next(json_stream.read(File("a.json", stream), Skipped())) == ("a.json:1", {"a": 1})
    assert stream.tell() < 100_000
