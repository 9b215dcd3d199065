"""Is a run that was killed again and again the run that it would have been? And one whose checkpoints were damaged?

    python -m tests.endurance.survive                 # 20 kills, most of them while a checkpoint is being written
    python -m tests.endurance.survive --damage        # and every file of the newest checkpoint cut, flipped and removed
    python -m tests.endurance.survive --processes=2   # 10 kills, each of one of two processes that share the run

A small configs/lm.py:tiny is trained once to its end. A second run of it is killed (SIGKILL) at random moments and
started again each time; then the bytes of all that the two ended with are compared. Where two processes share a run,
on a mesh of 8 simulated devices, the one that is left has to end by itself. Prints tables and writes them to
tests/endurance/results/survive.md and survive.json, those of several processes to survive-processes.md and .json.
"""

import argparse
import datetime
import json
import logging
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile
from typing import NamedTuple

import jax

from tests.endurance import damage, kills
from tests.endurance.life import ROOT, Run

RESULTS = pathlib.Path(__file__).parent / "results"


class Survival(NamedTuple):
    """What became of a run."""

    record: dict
    """For JSON: the kills, what each run ended with and, where checkpoints were damaged, what was found."""
    lines: list[str]
    """The same for people, in Markdown."""
    is_whole: bool
    """Whether all runs ended with the same bytes, every damage was found and no process waited for a killed one."""


def main():
    options = _options()
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))  # as the runs do
    about = _about(options)
    number = None if options.damage else 0
    with tempfile.TemporaryDirectory() as folder:
        survival = endure(pathlib.Path(folder), options.processes, options.kills, options.seed, num_damaged=number)
    print("\n".join(survival.lines))
    name = "survive" if options.processes == 1 else "survive-processes"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"about": about, **survival.record}, indent=1) + "\n")
    head = ", ".join(f"{key} {value}" for key, value in about.items())
    (RESULTS / f"{name}.md").write_text("\n".join([head, "", *survival.lines]) + "\n")
    print(f"written: {RESULTS}/{name}.md and .json")
    return 0 if survival.is_whole else 1


def endure(
    folder: pathlib.Path, processes: int, num_kills: int, seed: int, *, num_damaged: int | None, num_steps=None
) -> Survival:
    """Trains a run to its end in an empty folder, and one that is killed so often at moments that the seed decides.

    So many files of the newest checkpoint are damaged, all of them for None; with 0, no checkpoint is.
    """
    whole, killed = (Run(folder / name, processes, num_steps) for name in ("whole", "killed"))
    with whole.living() as life:
        life.finish()
    print(f"uninterrupted: {whole.changes['num_steps']} steps", flush=True)
    lives = kills.again_and_again(killed, num_kills, random.Random(seed))
    ends = {"uninterrupted": whole.end(), "killed": killed.end()}
    lines = [*kills.table(lives), "", *kills.ends_table(ends)]
    record = {"kills": lives, "ends": ends}
    if num_damaged != 0:
        record["damage"] = damage.of_each_file(whole, folder, num_damaged)
        with_damage, warnings = damage.trained_on(whole, folder)
        record |= {"damaged_run": with_damage, "warnings": warnings}
        lines += ["", *damage.table(record["damage"], with_damage == ends["uninterrupted"], warnings)]
    is_same = len({json.dumps(one) for one in (*ends.values(), record.get("damaged_run", ends["killed"]))}) == 1
    is_found = all(case["found"] for case in record.get("damage", []))
    return Survival(record, lines, is_same and is_found and kills.others_ended(lives))


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="20, or 10 of several processes, where it is not given")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--damage", action="store_true", help="damage checkpoints too")
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2), help="that share a run")
    options = parser.parse_args()
    if options.kills is None:
        options.kills = 20 if options.processes == 1 else 10
    if options.kills < 0:
        parser.error(f"--kills={options.kills}: 0 or more is needed")
    return options


def _about(options):
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return {
        "command": f"`python -m tests.endurance.survive {' '.join(sys.argv[1:])}`",
        "date": str(datetime.date.today()),
        "commit": commit or "unknown",
        "seed": options.seed,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
