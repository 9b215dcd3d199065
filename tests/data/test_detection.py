"""Text told from what is none."""

import gzip
import random
import zlib

import pytest

from mixkabrn_jax.data import detection

ENGLISH = "It is a truth universally acknowledged, that a single man must be in want of a wife.\n" * 40
GERMAN = "Im Jahre 1801 kehrte ich zurück von einem Besuch bei größeren Übeln.\r\n" * 40


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"a",
        ENGLISH.encode(),
        GERMAN.encode(),
        "日本語の文章です。".encode() * 40,
        b"\xef\xbb\xbf" + GERMAN.encode(),
        GERMAN.encode() + "ü".encode()[:1],  # the head ends within a character
        ENGLISH.encode() * 10 + b"\xff" + ENGLISH.encode() * 10,
        b"a page\n\f\nanother\x1b[1m bold\n" * 9,
        b'{"a": "\\u00e9"}\n' * 9,
    ],
)
def test_text_in_utf8_is_text(head):
    assert detection.not_text(head) is None


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (ENGLISH.encode("utf-16"), "UTF-16"),
        (ENGLISH.encode("utf-16-le"), "UTF-16"),
        (GERMAN.encode("utf-16-be"), "UTF-16"),
        (ENGLISH.encode("utf-32"), "UTF-32"),
        (GERMAN.encode("latin-1"), "Latin-1"),
        (random.Random(0).randbytes(5000), "binary"),
        (zlib.compress(random.Random(0).randbytes(5000)), "binary"),
        (gzip.compress(ENGLISH.encode()), "gzip"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"PK\x03\x04\x14\0", "zip"),
        (b"\x7fELF\x02\x01\x01", "program"),
        (b"PAR1\x15\x04", "Parquet"),
        (bytes(range(1, 32)) * 9, "binary"),
    ],
)
def test_what_is_no_text_is_named(head, kind):
    assert kind in detection.not_text(head)
    assert detection.not_text(head).startswith("not text (")
