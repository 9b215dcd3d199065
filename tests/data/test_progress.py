"""What is said of work that takes long."""

import io

from mixkabrn_jax.data import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(monkeypatch, stream, seconds, num_bytes=1_000_000, total=100_000_000):
    """A million bytes each second."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.Progress("encoding", total, stream)
    for _ in range(seconds):
        now[0] += 1
        shown.add(num_bytes)
    shown.close()
    return stream.getvalue()


def test_what_is_done_in_a_moment_is_not_told(monkeypatch):
    assert run(monkeypatch, Terminal(), 2) == run(monkeypatch, io.StringIO(), 2) == ""


def test_a_terminal_has_one_line_that_is_gone_at_the_end(monkeypatch):
    text = run(monkeypatch, Terminal(), 5)
    assert text.split("\r\x1b[K")[1:] == [
        "encoding: 3 of 100 MB, 1.0 MB/s, 97 s left",
        "encoding: 4 of 100 MB, 1.0 MB/s, 96 s left",
        "encoding: 5 of 100 MB, 1.0 MB/s, 95 s left",
        "",
    ]


def test_a_file_has_a_line_now_and_then(monkeypatch):
    text = run(monkeypatch, io.StringIO(), 25, total=0)
    assert text == "encoding: 3 MB, 1.0 MB/s\nencoding: 13 MB, 1.0 MB/s\nencoding: 23 MB, 1.0 MB/s\n"
