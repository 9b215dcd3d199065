import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax.runs import hashes

FILES = {"a": b"", "b.json": b'{"x": 1}\n', "folder/c": bytes(range(256)), "folder/deep/d": b"\0" * 9}


def fill(directory):
    for name, data in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    hashes.write(directory)
    return directory


def test_what_was_written_is_intact_and_every_file_is_in_the_list(tmp_path):
    assert hashes.verify(fill(tmp_path)) is None
    there = json.loads((tmp_path / "hashes.json").read_text())
    assert {name: entry["bytes"] for name, entry in there.items()} == {name: len(data) for name, data in FILES.items()}
    # From FIPS 180-4: the digest of nothing.
    assert there["a"]["sha256"].startswith("e3b0c44298fc1c149afbf4c8996fb924")


@given(data=st.data())
def test_a_change_of_any_bit_or_length_of_any_file_is_found_and_named(tmp_path_factory, data):
    directory = fill(tmp_path_factory.mktemp("hashes"))
    name = data.draw(st.sampled_from([*FILES, "hashes.json"]))
    before = (directory / name).read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "grow"] if before else ["grow"]))
    if kind == "flip":
        bit = data.draw(st.integers(0, 8 * len(before) - 1))
        after = bytearray(before)
        after[bit // 8] ^= 1 << bit % 8
    else:
        length = data.draw(st.integers(0, len(before) - 1) if kind == "cut" else st.integers(1, 3))
        after = before[:length] if kind == "cut" else before + b" " * length
    (directory / name).write_bytes(after)
    damage = hashes.verify(directory)
    assert damage is not None
    if name != "hashes.json":
        assert damage.startswith(f"{name} has ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "folder" / "c").unlink(), "folder/c is missing"),
        (lambda d: (d / "hashes.json").unlink(), "hashes.json is missing"),
        (lambda d: (d / "folder" / "extra").write_text(""), "folder/extra does not belong there"),
        (lambda d: (d / "a").write_text("x"), "a has 1 bytes, and hashes.json says 0"),
        (lambda d: (d / "folder" / "c").write_bytes(bytes(256)), "folder/c has changed: its SHA-256"),
        (lambda d: (d / "hashes.json").write_text("[]"), "hashes.json is not readable"),
        (lambda d: (d / "hashes.json").write_bytes(b"\xff"), "hashes.json is not readable"),
        (lambda d: (d / "hashes.json").write_text(json.dumps({"a": 3})), "a has 0 bytes, and hashes.json says None"),
        (lambda d: (d / "a").rename(d / "e"), "a is missing"),
    ],
)
def test_damage_is_told_in_words(tmp_path, change, message):
    change(fill(tmp_path))
    assert hashes.verify(tmp_path).startswith(message)


def test_a_file_that_may_not_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch):
    fill(tmp_path)

    def refuse(*_):
        raise error

    monkeypatch.setattr(hashes, "_entry", refuse)
    error = PermissionError(13, "Permission denied", "b.json")
    with pytest.raises(PermissionError, match=r"b\.json"):
        hashes.verify(tmp_path)
    error = OSError(5, "Input/output error", "b.json")
    assert hashes.verify(tmp_path) == "b.json cannot be read (Input/output error)"


def test_a_directory_gets_its_name_in_one_move(tmp_path):
    (tmp_path / "4.partial").mkdir()
    fill(tmp_path / "4.partial")
    hashes.rename(tmp_path / "4.partial", tmp_path / "4")
    assert [path.name for path in tmp_path.iterdir()] == ["4"]
    assert hashes.verify(tmp_path / "4") is None
