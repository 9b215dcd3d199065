"""Text told from what is none."""

import gzip
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax.data import detection
from mixkabrn_jax.data.detection import HEAD_BYTES, not_text

GERMAN = "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist Verpflichtung. " * 50
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + bytes(13)
BINARY = np.random.default_rng(0).bytes(100_000)


def office_document():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("word/document.xml", "<w:t>Text</w:t>")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PNG, "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"GIF89a" + bytes(10), "a GIF image"),
        (b"%PDF-1.7\n%text", "a PDF document"),
        (office_document(), "a zip archive or a document of an office program"),
        (gzip.compress(b"text", mtime=0), "gzip within a compressed file"),
        (b"\x7fELF\x02\x01\x01", "a program"),
        (b"MZ\x90\0\x03", "a program"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "sound"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP image"),
        (b"ID3\x03\0\0\0\0\x0f\x76", "sound"),
        (b"SQLite format 3\0\x10\0", "a database"),
        ("text".encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + "text".encode("utf-16-be"), "UTF-16"),
        ("text of Latin letters".encode("utf-16-le"), "UTF-16"),
        (GERMAN.encode("utf-16-be"), "UTF-16"),
        ("text".encode("utf-32"), "UTF-32"),
        (GERMAN.encode("latin-1"), "not UTF-8: Latin-1, or binary"),
        ("“Quoted”, he said … again. ".encode("cp1252") * 50, "not UTF-8: Latin-1, or binary"),
        ("日本語のテキストです。".encode("shift-jis") * 20, "not UTF-8: Latin-1, or binary"),
        (BINARY, "binary"),
        (BINARY[:60], "binary"),
        (bytes(1000), "binary"),
        (pickle.dumps(["text"] * 50), "binary"),
        (b"\x01\x02\x03\x04" * 20, "binary"),
    ],
)
def test_what_is_no_text_is_named(content, kind):
    assert not_text(content[:HEAD_BYTES]) == f"not text ({kind})"


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "",
        "To be, or not to be\r\n",
        GERMAN,
        "日本語のテキストです。" * 20_000,
        "😀",
        "\x1b[1mbold\x1b[0m of a terminal\n" * 20,
        "a page\fanother\n",
        "GIF8 is how a GIF begins",
        "GIF89 and later",
        "ID3 tags are written into music",
        "RIFF is a format; so is WAVE",
        "PAR1 was a good year",
        "%PDF is the first word of some files",
        "MZ are the initials of Mark Zbikowski",
        "PK also stands for penalty kick",
        "OggSpeak",
        "SQLite format 3 is a format",
        "it's � already",
        "�" * 500,
    ],
)
def test_text_is_text_whatever_it_begins_with(text):
    assert not_text(text.encode()[:HEAD_BYTES]) is None


def test_a_few_broken_characters_leave_a_text_one():
    """A set that was cut at a byte, or a page of another encoding among thousands."""
    assert not_text("Wikipedia é".encode()[:-1]) is None
    assert not_text(b"x" * 3000 + b"\xe9" + b"x" * 3000) is None
    assert not_text((b"x" * 300 + b"\xe9") * 100) is not None


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=60), st.integers(0, 240))
def test_a_head_that_ends_within_a_character_is_text(text, cut):
    assert not_text(("text " * 20 + text).encode()[: 100 + cut]) is None


def test_the_head_is_enough():
    assert detection.HEAD_BYTES <= 1 << 20, "a stream shows no more without being read"
    assert not_text(os.urandom(HEAD_BYTES)) == "not text (binary)"
