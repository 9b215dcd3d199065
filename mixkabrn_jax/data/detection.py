"""Whether a file is text, by how it begins."""

import codecs

HEAD_BYTES = 64 << 10
"""How much of a file is looked at."""
_BINARY = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive or a document of an office program",
    b"\x1f\x8b": "gzip within a compressed file",
    b"\x7fELF": "a program",
    b"MZ\x90": "a program",
    b"OggS": "sound",
    b"ID3": "sound",
    b"RIFF": "sound or video",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "a database",
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
NOT_UTF8 = "not text (not UTF-8: Latin-1, or binary)"
_BROKEN_SHARE = 1e-3
"""So many of the bytes may be no UTF-8, as in a text with a few broken characters; Latin-1 in most languages has more
letters with accents."""


def not_text(head: bytes) -> str | None:
    """Why a file that begins so is no UTF-8 text, such as "not text (UTF-16)"; None where it is text.

    Args:
        head: the first `HEAD_BYTES` of it, or all.
    """
    for start, kind in _BINARY.items():
        if head.startswith(start):
            return f"not text ({kind})"
    if b"\0" in head:
        zeros = [head[place::2].count(0) for place in (0, 1)]
        is_utf16 = max(zeros) > len(head) / 5 and min(zeros) * 4 < max(zeros)  # every other byte, of Latin letters
        return "not text (UTF-16)" if is_utf16 else "not text (binary)"
    # A character that the end of the head cuts through is none of the broken ones.
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
    controls = sum(head.count(byte) for byte in range(32) if byte not in b"\t\n\r\f\v\b\x1b")
    broken = text.count("\ufffd") - head.count(b"\xef\xbf\xbd")
    if controls > len(head) / 20:
        return "not text (binary)"
    if broken > max(1, _BROKEN_SHARE * len(head)):
        return NOT_UTF8 if not controls else "not text (binary)"
    return None
