"""Files out of folders and archives, and what becomes of those that are damaged."""

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib

import pytest
import zstandard

from mixkabrn_jax.data.documents import DamagedError, Skipped
from mixkabrn_jax.data.files import Patterns, walk

TEXT = b"".join(b"line %d of a text that is long enough\n" % number for number in range(20_000))
PACKED = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_content_size=False).compress,
}


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tar(files, mode="w"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zipped(files, method=zipfile.ZIP_DEFLATED):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def read(root, *patterns, on_damage="skip"):
    """({name: content} in the order of the walk, what was left out)."""
    skipped = Skipped(on_damage)
    return {file.name: file.stream.read() for file in walk(root, skipped, Patterns(*patterns))}, skipped


def test_a_folder_is_walked_in_the_order_of_the_parts_of_its_names(tmp_path):
    names = ["b/2", "b/deep/1", "b.txt", "a/1", "z", "b/10", "b-c/1", "é/1"]
    files, skipped = read(write(tmp_path, dict.fromkeys(names, b"x")))
    assert list(files) == sorted(names, key=lambda name: name.split("/"))
    assert not skipped.counts


def test_what_a_folder_loses_is_counted_with_its_first_place(tmp_path):
    names = {"a.txt": b"a", "e1.txt": b"", "d/e2.txt": b"", ".hidden": b"x", ".git/b.txt": b"b", "d/c.txt": b"c"}
    write(tmp_path, names)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "itself").symlink_to("itself")
    for name, other in (("one", "other"), ("other", "one")):
        (tmp_path / name).symlink_to(other)
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "linked").symlink_to(tmp_path / "d", target_is_directory=True)
    (tmp_path / "other.txt").symlink_to(tmp_path / "a.txt")
    files, skipped = read(tmp_path)
    assert list(files) == ["a.txt", "d/c.txt", "other.txt"]
    assert skipped.counts == {"empty": 2, "hidden": 2, "linked folders": 2, "not regular": 5}
    assert skipped.places == {
        "empty": "d/e2.txt",
        "hidden": ".git",
        "linked folders": "linked",
        "not regular": "broken",
    }
    assert "2 linked folders (first: linked)" in str(skipped)


@pytest.mark.parametrize("ending", PACKED)
def test_a_compressed_file_is_what_it_was_packed_from_and_loses_its_ending(tmp_path, ending):
    write(tmp_path, {f"a/x.txt.{ending}": PACKED[ending](TEXT)})
    for root, name in ((tmp_path, "a/x.txt"), (tmp_path / "a" / f"x.txt.{ending}", "x.txt")):
        files, skipped = read(root)
        assert (files, skipped.counts) == ({name: TEXT}, {})


@pytest.mark.parametrize("ending", PACKED)
def test_several_compressed_pieces_in_a_row_are_one_file(tmp_path, ending):
    pack = PACKED[ending]
    write(tmp_path, {f"x.txt.{ending}": pack(b"a") + pack(b"") + pack(TEXT)})
    assert read(tmp_path)[0] == {"x.txt": b"a" + TEXT}


@pytest.mark.parametrize("ending", PACKED)
def test_a_compressed_file_that_is_cut_short_gives_what_is_there_and_is_counted_once(tmp_path, ending):
    packed = PACKED[ending](TEXT)
    write(tmp_path, {f"x.txt.{ending}": packed[: len(packed) * 3 // 4]})
    files, skipped = read(tmp_path)
    assert TEXT.startswith(files.get("x.txt", b""))
    assert len(files.get("x.txt", b"")) > len(TEXT) / 3 or ending == "bz2"  # whose blocks are longer than the text
    [(reason, count)] = skipped.counts.items()
    assert reason.startswith("damaged archive (")
    assert count == 1
    assert skipped.places[reason] == f"x.txt.{ending}"
    with pytest.raises(DamagedError, match=re.escape(f"x.txt.{ending}: damaged archive")):
        read(tmp_path, on_damage="error")


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
def test_a_compressed_file_with_a_broken_byte_is_counted(tmp_path, ending):
    packed = bytearray(PACKED[ending](os.urandom(100_000).hex().encode()))
    packed[len(packed) // 2] ^= 0x55
    write(tmp_path, {f"x.txt.{ending}": bytes(packed), "y.txt": b"y"})
    files, skipped = read(tmp_path)
    assert files["y.txt"] == b"y"
    assert sum(skipped.counts.values()) == 1, skipped


def test_an_archive_in_a_folder_is_a_folder_of_its_name_and_one_by_itself_is_the_folder(tmp_path):
    members = {"./b/2.txt": b"b2", "a.txt": b"a", "/c/1.txt.gz": gzip.compress(b"c1"), "../d.txt": b"d"}
    in_tar = {"b/2.txt": b"b2", "a.txt": b"a", "c/1.txt.gz": b"c1", "d.txt": b"d"}
    in_zip = {"d.txt": b"d", "b/2.txt": b"b2", "c/1.txt": b"c1", "a.txt": b"a"}
    archives = {
        "x.tar": tar(members),
        "x.tar.gz": tar(members, "w:gz"),
        "x.tgz": tar(members, "w:gz"),
        "x.tar.xz": tar(members, "w:xz"),
        "x.tar.zst": zstandard.compress(tar(members)),
        "x.zip": zipped(members),
    }
    for name, content in archives.items():
        inside = in_zip if name == "x.zip" else in_tar
        root = write(tmp_path / name, {f"set/{name}": content})
        assert read(root)[0] == {f"set/{name}/{member}": text for member, text in inside.items()}, name
        assert read(root / "set" / name)[0] == inside, name
    assert list(read(tmp_path / "x.tar" / "set" / "x.tar")[0]) == [*in_tar]
    assert list(read(tmp_path / "x.zip" / "set" / "x.zip")[0]) == [*in_zip]


def test_no_two_files_of_a_folder_have_one_name_however_they_are_packed(tmp_path):
    plain = {"x.txt": b"1", "x.txt-b": b"2", "y.txt.gz": b"plain"}
    packed = {"x.txt.gz": b"3", "y.txt.gz.gz": b"4", "z.txt.gz": b"5", "z.txt.xz": b"6", "lone.txt.gz": b"7"}
    files = plain | {name: PACKED[name.rpartition(".")[2]](content) for name, content in packed.items()}
    names = {name: content for name, content in (plain | packed).items() if not name.startswith("lone")}
    write(tmp_path, {f"d/{name}": content for name, content in files.items()})
    folder, skipped = read(tmp_path / "d")
    assert folder == names | {"lone.txt": b"7"}
    assert not skipped.counts
    write(tmp_path, {"x.zip": zipped(files), "x.tar": tar(files)})
    assert read(tmp_path / "x.zip")[0] == folder
    # Of a tar, nobody knows what follows: the endings stay.
    assert read(tmp_path / "x.tar")[0] == names | {"lone.txt.gz": b"7"}
    assert {file.plain_name for file in walk(tmp_path / "d", Skipped())} == {"x.txt", "x.txt-b", "y.txt", "z.txt"} | {
        *("y.txt.gz", "lone.txt")
    }


def test_of_members_of_one_name_in_a_zip_the_last_is_read_as_unpacking_would_leave_it(tmp_path):
    packed = io.BytesIO(zipped({"a.txt": b"old", "b.txt": b"b"}))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("./a.txt", b"new")
    files, skipped = read(write(tmp_path, {"x.zip": packed.getvalue()}))
    assert files == {"x.zip/a.txt": b"new", "x.zip/b.txt": b"b"}
    assert skipped.counts == {"replaced by a later member of the same name": 1}


def test_what_is_not_asked_for_is_neither_read_nor_counted_but_for_archives(tmp_path):
    cut = gzip.compress(os.urandom(1000))[:-20]
    inside = {"train.gz": cut, "train": b"", "test": b"t", "train.md": b"m", ".train": b"hidden"}
    locked = bytearray(zipped({"test": b"t", "train": b"n"}, zipfile.ZIP_STORED))
    for place in (locked.index(b"PK\x03\x04", 30) + 6, locked.rindex(b"PK\x01\x02") + 8):
        locked[place] |= 1  # of "train"
    files = {f"d/{name}": content for name, content in inside.items()} | {
        "odd": tar(inside),
        "train.tgz": gzip.compress(tar(inside)),
        "train.zip": bytes(locked),
        "cut.tar.gz": gzip.compress(tar({"test": os.urandom(5000)}))[:-3000],
        "out.tar": b"not opened",
    }
    write(tmp_path, files)
    names, skipped = {}, Skipped()
    for file in walk(tmp_path, skipped, Patterns("*t*", "*.md,out.*"), lambda name: "test" in name):
        names[file.name] = file.stream.read()
    of_cut = names.pop("cut.tar.gz/test", b"")
    assert len(of_cut) < 5000
    assert names == dict.fromkeys(("d/test", "odd/test", "train.tgz/test", "train.zip/test"), b"t")
    assert skipped.counts.pop("hidden") == 3
    assert skipped.counts.pop("not wanted") == 1
    assert skipped.places["not wanted"] == "out.tar"
    [(reason, count)] = skipped.counts.items()
    assert (reason[:17], count, skipped.places[reason]) == ("damaged archive (", 1, "cut.tar.gz")


def test_a_tar_in_an_archive_is_a_folder_of_its_name(tmp_path):
    inner = gzip.compress(tar({"cs.CL/train.txt": TEXT, "cs.CL/test.txt": b"t"}))
    members = {"m2d2/cs.CL.tar.gz": inner, "m2d2/z.txt": b"z"}
    want = {"m2d2/cs.CL.tar.gz/cs.CL/train.txt": TEXT, "m2d2/cs.CL.tar.gz/cs.CL/test.txt": b"t", "m2d2/z.txt": b"z"}
    for name, content in (("x.tar.gz", tar(members, "w:gz")), ("x.zip", zipped(members))):
        write(tmp_path, {name: content})
        assert read(tmp_path / name)[0] == want
    cut = {"a.tar.gz": inner[:-200], "z.txt": b"z"}
    files, skipped = read(write(tmp_path / "cut", {"x.tar": tar(cut)}))
    assert list(files) == ["x.tar/a.tar.gz/cs.CL/train.txt", "x.tar/z.txt"]
    assert TEXT.startswith(files["x.tar/a.tar.gz/cs.CL/train.txt"])
    assert sum(skipped.counts.values()) == 1


def test_of_an_archive_hidden_and_linked_and_empty_members_are_left_out_and_counted(tmp_path):
    packed = io.BytesIO(tar({"a.txt": b"a", ".b/c.txt": b"c", "__MACOSX/a.txt": b"m", "e.txt": b""}))
    with tarfile.open(fileobj=packed, mode="a") as archive:
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    files, skipped = read(write(tmp_path, {"x.tar": packed.getvalue()}))
    assert files == {"x.tar/a.txt": b"a"}
    assert skipped.counts == {"hidden": 2, "empty": 1, "not regular": 1}


@pytest.mark.parametrize("cut", [1024 + 300, 3 * 1024 + 100, 5 * 1024])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_tar_that_is_cut_short_gives_the_members_before_and_is_counted_once(tmp_path, cut, pack):
    """In the content of a member, in a header, and between two: nothing is told of the last, unless it is packed."""
    whole = tar({f"{number}.txt": b"%d" % number * 512 for number in range(8)})
    packed = pack(whole[:cut])
    if pack is gzip.compress:
        packed = gzip.compress(whole)
        packed = packed[: len(packed) * 2 // 3]
    files, skipped = read(write(tmp_path, {"x.tar": packed, "y.txt": b"y"}))
    assert files["y.txt"] == b"y"
    assert next(iter(files)) == "x.tar/0.txt"
    if pack is gzip.compress or cut != 5 * 1024:
        assert sum(skipped.counts.values()) == 1, skipped
        with pytest.raises(DamagedError, match=r"x\.tar.*: damaged archive"):
            read(tmp_path, on_damage="error")


def test_a_packed_tar_that_is_cut_within_a_member_is_one_damage(tmp_path):
    """Of the archive, in which the member ends early, too."""
    packed = tar({"a.txt": b"a", "b.txt": os.urandom(200_000).hex().encode(), "c.txt": b"c"}, "w:gz")
    files, skipped = read(write(tmp_path, {"x.tar.gz": packed[: len(packed) // 2]}))
    assert [*files] == ["x.tar.gz/a.txt", "x.tar.gz/b.txt"]
    assert sum(skipped.counts.values()) == 1
    assert [*skipped.places.values()] == ["x.tar.gz"]


@pytest.mark.parametrize("ending", ["txt", "gz", "tar", "zip"])
def test_a_file_that_shrinks_while_it_is_read_is_counted(tmp_path, ending):
    members = {f"{number}.txt": os.urandom(2 << 20) for number in range(3)}
    content = {"txt": b"".join(members.values()), "gz": gzip.compress(b"".join(members.values()), 1)}
    content |= {"tar": tar(members), "zip": zipped(members, zipfile.ZIP_STORED)}
    path = write(tmp_path, {f"x.{ending}": content[ending]}) / f"x.{ending}"
    skipped, num_bytes = Skipped(), 0
    for file in walk(path, skipped):
        num_bytes += len(file.stream.read(1 << 20))
        os.truncate(path, 3 << 20)
        num_bytes += len(file.stream.read())
    assert num_bytes < 6 << 20
    reasons = "; ".join(skipped.counts)
    assert "shorter than it was" in reasons or ending == "zip"
    assert "()" not in reasons
    assert sum(skipped.counts.values()) == (2 if ending == "zip" else 1)


def test_a_broken_header_in_a_tar_is_counted_and_is_not_its_end(tmp_path):
    whole = bytearray(tar({f"{number}.txt": b"%d" % number * 512 for number in range(4)}))
    whole[2 * 1024 : 2 * 1024 + 20] = b"x" * 20
    files, skipped = read(write(tmp_path, {"x.tar": bytes(whole)}))
    assert list(files) == ["x.tar/0.txt", "x.tar/1.txt"]
    assert skipped.counts == {"damaged archive (bad checksum)": 1}


def test_of_a_zip_damaged_and_locked_members_are_counted_and_the_others_read(tmp_path):
    whole = bytearray(zipped({"a.txt": TEXT, "b.txt": b"b" * 500, "c.txt": b"c"}, zipfile.ZIP_STORED))
    whole[5000] ^= 0xFF  # in a.txt, whose checksum tells
    central = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 4)
    local = whole.index(b"PK\x03\x04", len(TEXT))
    whole[local + 6] |= 1  # b.txt: locked
    whole[central + 8] |= 1
    files, skipped = read(write(tmp_path, {"x.zip": bytes(whole)}))
    assert files["x.zip/c.txt"] == b"c"
    assert "x.zip/b.txt" not in files
    assert skipped.counts.pop("locked by a password") == 1
    assert skipped.places["locked by a password"] == "x.zip/b.txt"
    [(reason, count)] = skipped.counts.items()
    assert (reason[:17], count, skipped.places[reason]) == ("damaged archive (", 1, "x.zip/a.txt")


def test_separators_of_windows_in_a_zip_part_folders(tmp_path):
    whole = zipped({"train/": b"", "train/algebra/1.txt": b"one", "./b.txt": b"b"})
    files, skipped = read(
        write(tmp_path, {"x.zip": whole.replace(b"train/", b"train\\").replace(b"algebra/", b"algebra\\")})
    )
    assert files == {"x.zip/b.txt": b"b", "x.zip/train/algebra/1.txt": b"one"}
    assert not skipped.counts


def test_a_zip_of_which_the_start_is_missing_or_a_name_is_broken_is_named(tmp_path):
    whole = zipped({"a.txt": TEXT, "é.txt": b"b" * 99}, zipfile.ZIP_STORED)
    start = whole.index(b"PK\x03\x04", 4)
    files, skipped = read(write(tmp_path / "1", {"x.zip": whole[start - 500 :]}))
    assert files == {"x.zip/é.txt": b"b" * 99}
    assert skipped.places == {"damaged archive (something before this member is missing)": "x.zip/a.txt"}
    for number, place in enumerate((whole.index("é".encode(), start), whole.rindex("é".encode()))):
        files, skipped = read(write(tmp_path / f"2{number}", {"x.zip": whole[:place] + b"\xff" + whole[place + 1 :]}))
        assert len(files) == 1 - number
        assert ["damaged archive ('utf-8' codec can't decode byte 0xff" in reason for reason in skipped.counts] == [
            True
        ]


def test_an_archive_with_nothing_in_it_is_empty(tmp_path):
    folder = io.BytesIO()
    with tarfile.open(fileobj=folder, mode="w") as archive:
        archive.addfile(_folder("a"))
    files = {
        "a.tar": tar({}),
        "b.tar.gz": gzip.compress(tar({})),
        "c.zip": zipped({}),
        "d.zip": zipped({"a/": b""}),
        "e": folder.getvalue(),
    }
    for name in files:
        assert read(write(tmp_path, files) / name)[1].counts == {"empty": 1}, name
    assert read(tmp_path)[1].counts == {"empty": 5}


def _folder(name):
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


def test_a_member_whose_name_is_none_is_left_out(tmp_path):
    members = {"..": b"x", "./.": b"x", "a/..": b"a"}
    files, skipped = read(write(tmp_path, {"x.tar": tar(members), "x.zip": zipped(members)}))
    assert files == {"x.tar/a": b"a", "x.zip/a": b"a"}
    assert skipped.counts == {"not regular": 4}


def test_a_zip_that_is_none_or_cut_short_is_named(tmp_path):
    for content in (b"no zip at all", zipped({"a.txt": TEXT})[:-100]):
        files, skipped = read(write(tmp_path, {"x.zip": content}))
        assert files == {}
        assert skipped.counts == {"damaged archive (File is not a zip file)": 1}
        assert str(skipped) == "1 damaged archive (File is not a zip file) (first: x.zip)"


def test_a_packed_file_in_an_archive_that_is_damaged_is_named_with_its_archive(tmp_path):
    packed = gzip.compress(TEXT)
    root = write(tmp_path, {"x.tar": tar({"a.gz": packed[:-2000], "b.txt": b"b"})})
    files, skipped = read(root)
    assert files["x.tar/b.txt"] == b"b"
    assert TEXT.startswith(files["x.tar/a.gz"])
    assert sum(skipped.counts.values()) == 1
    assert [*skipped.places.values()] == ["x.tar/a.gz"]


def test_what_follows_the_end_of_a_gzip_file_is_damage(tmp_path):
    files, skipped = read(write(tmp_path, {"x.txt.gz": gzip.compress(TEXT) + b"rest"}))
    assert files == {"x.txt": TEXT}
    assert sum(skipped.counts.values()) == 1


def test_zeros_behind_a_gzip_file_are_padding(tmp_path):
    files, skipped = read(write(tmp_path, {"x.txt.gz": gzip.compress(TEXT) + bytes(512)}))
    assert (files, skipped.counts) == ({"x.txt": TEXT}, {})


def test_patterns_choose_names_and_what_is_named_by_itself_is_wanted(tmp_path):
    write(tmp_path, {"a.txt": b"a", "b.md": b"b", "n/c.txt": b"c", "n/d.py": b"d", "x.tar": tar({"e.txt": b"e"})})
    assert list(read(tmp_path, "*.txt")[0]) == ["a.txt", "n/c.txt", "x.tar/e.txt"]
    assert list(read(tmp_path, "*.txt, *.md", "n/*")[0]) == ["a.txt", "b.md", "x.tar/e.txt"]
    files, skipped = read(tmp_path, "", "*.tar,*.txt")
    assert list(files) == ["b.md", "n/d.py"]
    assert skipped.counts == {"not wanted": 3}
    assert list(read(tmp_path / "a.txt", "*.md", "*.txt")[0]) == ["a.txt"]


def test_an_excluded_archive_is_not_opened(tmp_path):
    files, skipped = read(write(tmp_path, {"x.zip": b"no zip", "a.txt": b"a"}), "", "*.zip", on_damage="error")
    assert (files, skipped.counts) == ({"a.txt": b"a"}, {"not wanted": 1})


def test_a_byte_order_mark_is_no_text(tmp_path):
    bom = b"\xef\xbb\xbf"
    files, skipped = read(write(tmp_path, {"a.txt": bom + b"a", "b.txt": bom, "c.gz": gzip.compress(bom + b"c")}))
    assert (files, skipped.counts) == ({"a.txt": b"a", "c": b"c"}, {"empty": 1})


def test_a_path_that_is_not_there_or_no_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent' does not exist: give a file, an archive or a folder"):
        read(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe' is neither a file nor a folder"):
        read(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path):
    write(tmp_path, {"a/x.txt": b"x"})
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(PermissionError):
            read(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o755)


def test_an_error_of_the_file_system_is_no_damage(tmp_path, monkeypatch):
    write(tmp_path, {"x.gz": gzip.compress(TEXT)})

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(gzip.GzipFile, "read1", fail)
    with pytest.raises(OSError, match="Input/output error"):
        read(tmp_path)


def test_a_file_is_known_by_what_is_in_it_and_not_by_its_ending(tmp_path):
    """As downloads are named in haste: a gzip without ending, a text that calls itself one."""
    files, skipped = read(write(tmp_path, {"a": gzip.compress(b"a"), "b.txt.gz": b"plain", "c": tar({"d": b"d"})}))
    assert (files, skipped.counts) == ({"a": b"a", "b.txt.gz": b"plain", "c/d": b"d"}, {})


def test_a_raw_deflate_stream_is_left_to_the_detection_of_text(tmp_path):
    assert list(read(write(tmp_path, {"x.bin": zlib.compress(TEXT)}))[0]) == ["x.bin"]
