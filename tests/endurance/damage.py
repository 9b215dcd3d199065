"""Checkpoints of a finished run with one file damaged: are they found out, and gone around?"""

import logging
import pathlib
import shutil

from mixkabrn_jax.runs.checkpoint import Checkpoints
from tests.endurance.life import Run


def of_each_file(whole: Run, folder: pathlib.Path, number: int | None = None) -> list[dict]:
    """One record for each file of the newest checkpoint, or for so many of them, and each way to damage it."""
    cases, log = [], logging.getLogger("mixkabrn_jax")
    log.propagate = False
    newest, before = _newest(whole, 2)
    names = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    for name in names[:number]:
        for way, change in WAYS.items():
            copy = folder / "copy"
            shutil.copytree(whole.checkpoints, copy)
            change(copy / newest.name / name)
            told = _Told()
            log.addHandler(told)
            with Checkpoints(copy) as checkpoints:
                back_to = checkpoints.latest_intact_step()
            log.removeHandler(told)
            is_found = back_to == int(before.name) and len(told.lines) == 1
            is_kept = (copy / f"{newest.name}.damaged").is_dir()
            lines = [line.replace(str(copy), "runs/copy") for line in told.lines]
            cases.append({"file": str(name), "way": way, "found": is_found and is_kept, "told": lines})
            shutil.rmtree(copy)
    return cases


def trained_on(whole: Run, folder: pathlib.Path) -> tuple[dict[str, str], list[str]]:
    """A run with its two newest checkpoints damaged, started again: what it ends with, and what it says."""
    run = whole._replace(workdir=folder / "damaged")
    shutil.copytree(whole.workdir, run.workdir)
    newest, second = _newest(run, 2)
    _flip(next((newest / "model").rglob("manifest.ocdbt")))
    _cut(max((path for path in (second / "optimizer").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size))
    with run.living() as life:
        life.finish()
        warnings = life.warnings()
    return run.end(), [line.replace(str(run.workdir), "runs/damaged") for line in warnings]


def table(cases: list[dict], is_same: bool, warnings: list[str]):
    """Lines of Markdown."""
    yield "The newest checkpoint with one file damaged: found, told, kept aside, and the one before gone on with?"
    yield ""
    yield f"| file | {' | '.join(WAYS)} |"
    yield f"|---|{'---|' * len(WAYS)}"
    for name in dict.fromkeys(case["file"] for case in cases):
        cells = ["yes" if case["found"] else "**no**" for case in cases if case["file"] == name]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    ended = "ended the same" if is_same else "**ended differently**"
    yield f"A run with its two newest checkpoints damaged {ended}. It said:"
    yield ""
    yield from (f"    {line}" for line in warnings)


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


WAYS = {"cut to half": _cut, "one bit flipped": _flip, "removed": lambda path: path.unlink()}


class _Told(logging.Handler):
    """What is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def _newest(run, number):
    """The newest checkpoints, the newest first."""
    return sorted(run.checkpoints.iterdir(), key=lambda path: -int(path.name))[:number]
