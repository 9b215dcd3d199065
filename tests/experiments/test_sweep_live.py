"""What a sweep shows on a terminal and elsewhere."""

import io
import json
import re
from pathlib import Path

import pytest

from experiments.sweeping import results
from experiments.sweeping.executor import Event, Job
from experiments.sweeping.live import LiveTable
from experiments.sweeping.trials import Trial


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def trials(tmp_path):
    return {name: Trial(name, {}, 600, tmp_path / name, ("train",)) for name in ("one", "two")}


def train(trial, step, bits=2.0):
    trial.workdir.mkdir(exist_ok=True)
    record = {"step": step, "split": "train", "loss": 4.0, "bits_per_byte": bits, "tokens_per_second": 5000.0}
    (trial.workdir / "metrics.jsonl").write_text(json.dumps(record) + "\n")


def event(name, kind):
    return Event(Job(name, ("train",), Path("log.txt")), kind)


def screen(text):
    """The lines of a terminal that was sent a text."""
    first, *others = re.split(r"\x1b\[(?=\d+F\x1b\[J)", text)
    lines = first.splitlines()
    for part in others:
        height, _, added = part.partition("F\x1b[J")
        lines = lines[: -int(height)] + added.splitlines()
    return lines


def test_below_what_stays_is_a_line_for_each_trial_that_runs(trials):
    rows = {name: results.read(trial) for name, trial in trials.items()}
    terminal = Terminal()
    live = LiveTable(trials, rows, terminal)
    live.note("one: started")
    live.update(event("one", "started"))
    live.update(event("two", "started"))
    assert [line.split() for line in screen(terminal.getvalue())] == [
        ["one:", "started"],
        ["0", "of", "2", "trials", "complete"],
        ["step", "0/600", "starting", "one"],
        ["step", "0/600", "starting", "two"],
    ]
    train(trials["two"], 150, bits=2.5)
    rows["two"] = results.read(trials["two"])
    live.update(event("two", "runs"))
    assert "0 of 2 trials complete, ETA " in screen(terminal.getvalue())[1]
    assert " ".join(screen(terminal.getvalue())[3].split()) == "step 150/600 2.5000 bits/byte 5,000 tokens/s two"
    rows["one"] = results.read(trials["one"], "killed")
    live.update(event("one", "ended"))
    live.note("one: failed")
    shown = screen(terminal.getvalue())
    assert shown[:2] == ["one: started", "one: failed"]
    assert shown[2].startswith("0 of 2 trials complete, 1 failed")
    assert [line.split()[-1] for line in shown[3:]] == ["two"]
    live.close()
    assert screen(terminal.getvalue()) == ["one: started", "one: failed"]


def test_the_time_left_is_at_the_pace_of_this_command(trials, monkeypatch):
    train(trials["one"], 300)  # by an earlier command
    rows = {name: results.read(trial) for name, trial in trials.items()}
    now = iter([100.0, 160.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    live = LiveTable(trials, rows, terminal := Terminal())
    train(trials["one"], 330)
    rows["one"] = results.read(trials["one"])
    live.update(event("one", "runs"))
    # 30 steps a minute, and 1200 - 330 left.
    assert screen(terminal.getvalue())[0] == "0 of 2 trials complete, ETA 0:29:00"


def test_elsewhere_there_are_only_lines_that_stay(trials):
    rows = {name: results.read(trial) for name, trial in trials.items()}
    stream = io.StringIO()
    live = LiveTable(trials, rows, stream)
    live.note("one: started")
    live.update(event("one", "started"))
    live.close()
    assert stream.getvalue() == "one: started\n"
