"""The faults of other implementations, shown: each law is tried on the peer and on MixKABRN, in one table.

    python3.11 -m venv .venv-peers
    .venv-peers/bin/pip install --no-deps -r benchmarks/requirements-peers.txt
    .venv-peers/bin/python -m benchmarks.faults            # writes benchmarks/results/faults.md

The same laws are tests here (`tests/peer_faults/`), which need no peer. A peer that is not installed is left out, and
said to be.
"""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import warnings
from collections.abc import Callable

from benchmarks.laws import kan, retention, ternary
from benchmarks.laws.trial import Trial

RESULTS = pathlib.Path(__file__).parent / "results"
PEERS = ("torchscale", "pykan", "jaxkan", "bitnet")


def attempt(trial: Callable[[], Trial]) -> Trial | None:
    """A peer that crashes has not kept the law either; None without it or what it needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return trial()
        except ModuleNotFoundError:
            return None
        except Exception as error:
            return Trial(False, f"{type(error).__name__}: {' '.join(str(error).split())[:70]}")


def cell(trial: Trial | None) -> str:
    if trial is None:
        return "not installed"
    return f"{'holds' if trial.holds else '**fails**'}: {trial.seen}"


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main():
    lines = ["| peer | law | peer | MixKABRN |", "|---|---|---|---|"]
    broken = 0
    for law in (*retention.LAWS, *kan.LAWS, *ternary.LAWS):
        ours = attempt(law.ours)
        broken += ours is not None and not ours.holds
        lines.append(f"| {law.peer} | {law.text} | {cell(attempt(law.theirs))} | {cell(ours)} |")
        print(lines[-1], flush=True)
    versions = ", ".join(f"{name} {version(name)}" for name in (*PEERS, "torch", "jax"))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    header = f"{datetime.date.today()}, commit {commit}; {machine}; {versions}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "faults.md").write_text("\n".join([f"`python -m benchmarks.faults`, {header}", "", *lines, ""]))
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()
