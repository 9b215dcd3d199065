"""Whether a file is text, by how it begins."""

import codecs
import re

HEAD_BYTES = 64 << 10
"""How much of a file is looked at."""
_BINARY = (
    (rb"\x89PNG", "a PNG image"),
    (rb"\xff\xd8\xff", "a JPEG image"),
    (rb"GIF8[79]a", "a GIF image"),
    (rb"%PDF-\d", "a PDF document"),
    (rb"PK\x03\x04", "a zip archive or a document of an office program"),
    (rb"\x1f\x8b", "gzip within a compressed file"),
    (rb"\x7fELF|MZ.\0", "a program"),
    (rb"OggS\0|ID3[\x02-\x04]|RIFF....WAVE", "sound"),
    (rb"RIFF....AVI ", "video"),
    (rb"RIFF....WEBP", "a WebP image"),
    (rb"PAR1\x15", "a Parquet file"),
    (rb"SQLite format 3\0", "a database"),
    (rb"\xff\xfe\0\0|\0\0\xfe\xff", "UTF-32"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16"),
)
"""How a file begins, and what it is then; a text may begin with such letters, but not go on so."""
NOT_UTF8 = "not text (not UTF-8: Latin-1, or binary)"
_BROKEN_SHARE = 1e-3
"""So many of the bytes may be no UTF-8, as in a text with a few broken characters; Latin-1 in most languages has more
letters with accents."""


def not_text(head: bytes) -> str | None:
    """Why a file that begins so is no UTF-8 text, such as "not text (UTF-16)"; None where it is text.

    Args:
        head: the first `HEAD_BYTES` of it, or all.
    """
    if reason := another_format(head):
        return reason
    if b"\0" in head:
        return "not text (binary)"
    # A character that the end of the head cuts through is none of the broken ones.
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
    controls = sum(head.count(byte) for byte in range(32) if byte not in b"\t\n\r\f\v\b\x1b")
    broken = text.count("\ufffd") - head.count(b"\xef\xbf\xbd")
    if controls > len(head) / 20:
        return "not text (binary)"
    if broken > max(1, _BROKEN_SHARE * len(head)):
        return NOT_UTF8 if not controls else "not text (binary)"
    return None


def another_format(head: bytes) -> str | None:
    """As `not_text`, but only where it can be said what a file is instead: of what merely has damage, None."""
    for start, kind in _BINARY:
        if re.match(start, head, re.DOTALL):
            return f"not text ({kind})"
    zeros = [head[place::2].count(0) for place in (0, 1)]
    is_utf16 = max(zeros) > len(head) / 5 and min(zeros) * 4 < max(zeros)  # every other byte, of Latin letters
    return "not text (UTF-16)" if is_utf16 else None
