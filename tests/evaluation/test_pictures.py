import html
import re

import numpy as np
import pytest

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.evaluation import pictures
from mixkabrn_jax.evaluation.score import Piece

TOKENIZER = tokenizers.Bytes()
PNG = b"\x89PNG\r\n\x1a\n"


def pieces(text, sizes):
    """A document whose byte i costs i % 3 bits."""
    tokens_T = TOKENIZER.encode(text.encode())
    nats_T = (np.arange(len(tokens_T)) % 3 * np.log(2)).astype(np.float32)
    document = Document(b"", "", "<name>")
    at = 0
    for size in sizes:
        part, is_last = slice(at, at + size), at + size >= len(tokens_T)
        yield Piece(document, at, tokens_T[part], nats_T[part], nats_T[part] > 1, 1.0 if is_last else None)
        at += size


def test_pictures_are_drawn_without_a_display(tmp_path):
    bins = [(0, 16), (16, 32), (32, 64)]
    positions = [{"from": a, "to": b, "bits_per_byte": 2.0, "windowed_bits_per_byte": 2.5} for a, b in bins]
    pictures.bits_by_position(positions, tmp_path / "a.png")
    pictures.bits_by_domain({"x": {"bits_per_byte": 1.0}, "": {"bits_per_byte": 2.0}}, 1.5, tmp_path / "b.png")
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in ("a.png", "b.png"))


def test_the_page_shows_the_text_as_it_is_and_what_each_character_costs(tmp_path):
    text = "<b> & \u00e4\U0001f600\n"
    for sizes in ([100], [7, 2, 1, 100]):  # cut within a character too
        pictures.text_in_colours(pieces(text, sizes), TOKENIZER, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert "<name>" not in page
        assert "&lt;name&gt;" in page
        body = page.partition("<pre>\n")[2].partition("</pre>")[0]
        found = re.findall(r'<i class="b(\d+)" title="([\d.]+)">(.*?)</i>', body, re.DOTALL)
        assert "".join(html.unescape(shown) for *_, shown in found) == text.replace("\n", "\u21b5\n")
        costs = [float(title) for _, title, _ in found]
        # Six ASCII characters, two bytes, four bytes, a line end.
        assert costs == [0, 1, 2, 0, 1, 2, 0 + 1, 2 + 0 + 1 + 2, 0]
        assert "http" not in page


def test_a_page_of_nothing_is_refused_and_not_begun(tmp_path):
    with pytest.raises(ValueError, match="no document to show"):
        pictures.text_in_colours(iter(()), TOKENIZER, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_the_page_stops_where_it_would_be_too_heavy(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_TOKENS", 10)

    def endless():
        while True:
            yield from pieces("a" * 100, [4])

    pictures.text_in_colours(endless(), TOKENIZER, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("title=") == 10
    assert "its first 10 bytes" in page
