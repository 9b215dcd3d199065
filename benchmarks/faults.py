"""The faults of other implementations, shown: each law is tried on the peer and on MixKABRN, in one table.

    python3.11 -m venv .venv-peers
    .venv-peers/bin/pip install --no-deps -r benchmarks/requirements-peers.txt
    .venv-peers/bin/python -m benchmarks.faults            # writes benchmarks/results/faults.md

Without all of them nothing is tried, and what was written before stays. The same laws are tests here
(`tests/peer_faults/`), which need no peer.
"""

import argparse
import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable

from benchmarks.laws.verdict import Verdict

RESULTS = pathlib.Path(__file__).parent / "results"
PEERS = ("torchscale", "pykan", "jaxkan", "bitnet", "torch")
"""The last one is what three of them are written in."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    missing = [name for name in PEERS if version(name) is None]
    if missing:
        sys.exit(
            f"error: not installed: {', '.join(missing)}; {RESULTS / 'faults.md'} stays as it is (--help says how)"
        )
    # Only here, so that --help and a missing peer are answered at once: JAX comes with them.
    from benchmarks.laws import kan, retention, ternary

    lines, are_missing, are_broken = ["| peer | law | peer | MixKABRN |", "|---|---|---|---|"], False, False
    for law in (*retention.LAWS, *kan.LAWS, *ternary.LAWS):
        theirs, ours = attempt(law.theirs), attempt(law.ours)
        are_missing |= theirs is None or ours is None
        are_broken |= ours is not None and not ours.holds
        lines.append(f"| {law.peer} | {law.text} | {cell(theirs)} | {cell(ours)} |")
        print(lines[-1], flush=True)
    if are_missing:
        sys.exit(f"error: a peer lacks a module that it needs; {RESULTS / 'faults.md'} stays")
    versions = ", ".join(f"{name} {version(name)}" for name in (*PEERS, "jax"))
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True, cwd=RESULTS.parent).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    header = f"{datetime.date.today()}, commit {commit}; {machine}; {versions}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "faults.md").write_text("\n".join([f"`python -m benchmarks.faults`, {header}", "", *lines, ""]))
    return int(are_broken)


def attempt(law: Callable[[], Verdict]) -> Verdict | None:
    """Tries a law. A peer that crashes has not kept it either; None without a module that the peer needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return law()
        except ModuleNotFoundError:
            return None
        except Exception as error:
            return Verdict(False, f"{type(error).__name__}: {' '.join(str(error).split())[:70]}")


def cell(verdict: Verdict | None) -> str:
    """A verdict as the table shows it."""
    if verdict is None:
        return "not installed"
    return f"{'holds' if verdict.holds else '**fails**'}: {verdict.seen}"


def version(package: str) -> str | None:
    """The version that is installed, if any is."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
