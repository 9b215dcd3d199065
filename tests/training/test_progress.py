import io
import re

from mixkabrn_jax.training import progress
from mixkabrn_jax.training.progress import Progress

VALUES = {"loss": 1.5, "bits_per_byte": 2.25, "tokens_per_second": 12345.6}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_printed_line_by_line_without_a_terminal():
    stream = io.StringIO()
    shown_by = Progress(100, 0, stream)
    shown_by.show(10, VALUES)
    shown_by.show(100, VALUES)
    shown_by.note("done")
    shown = stream.getvalue().splitlines()
    assert len(shown) == 3
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    for part in ("step 10/100", "loss 1.5000", "bits/byte 2.2500", "12,346 tokens/s", "ETA 0:00:00"):
        assert part in shown[0]
    assert shown[2] == "done"


def test_progress_redraws_one_line_on_a_terminal():
    stream = Terminal()
    shown_by = Progress(100, 0, stream)
    shown_by.show(10, VALUES)
    shown_by.show(50, VALUES)
    assert "\n" not in stream.getvalue()
    redrawn = stream.getvalue().split("\r\x1b[K")
    assert len(redrawn) == 3
    assert redrawn[2].startswith("[##########..........] step 50/100")
    shown_by.note("done")
    assert stream.getvalue().endswith("\r\x1b[Kdone\n")


def test_the_time_left_is_that_of_the_pace_since_the_start(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    shown_by = Progress(1000, 400, stream)  # of a resumed run
    now[0] += 50.0
    shown_by.show(500, VALUES)
    now[0] += 7150.0
    shown_by.show(500, VALUES)
    shown_by.show(1000, VALUES, seconds_after=61.0)
    etas = re.findall(r"ETA (\S+)", stream.getvalue())
    assert etas == ["0:04:10", "10:00:00", "0:01:01"]  # 500 steps at half a second, at 72 seconds, and what comes after
