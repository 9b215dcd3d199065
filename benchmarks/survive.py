"""Is a run that was killed again and again the run that it would have been? And one whose checkpoints were damaged?

    python -m benchmarks.survive                 # 20 kills, most of them while a checkpoint is being written
    python -m benchmarks.survive --damage        # and every file of the newest checkpoint cut, flipped and removed

A small configs/lm.py:tiny is trained once to its end. A second run of it is killed (SIGKILL) at random moments and
started again each time; then the bytes of all that the two ended with are compared. Prints tables and writes them to
benchmarks/results/survive.md and survive.json.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import logging
import os
import pathlib
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # where two runs of one program give the same bits

import jax

from mixkabrn_jax.training import guard, metrics, optimizer, step, workdir
from mixkabrn_jax.training.checkpoint import Checkpoints
from mixkabrn_jax.training.experiment import Experiment

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CHANGES = {
    "num_steps": 200,
    "log_every": 3,
    "evaluate_every": 40,
    "evaluate_windows": 8,
    "checkpoint.every": 4,
    "checkpoint.keep": 3,
    "data.path": "LICENSE",
    "data.sequence_length": 64,
    "data.batch_size": 4,
    "model.d_model": 32,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.key_width": 16,
    "model.value_width": 16,
    "model.hidden_width": 32,
    "training.router_bias_rate": 0.001,
}
MOMENTS = ("write", "write", "training", "write", "start")
"""Of five kills, which come while a checkpoint is written, at any time of training, and before its first step."""
MACHINE = {"tokens_per_second", "model_flops_per_second", "model_flops_utilisation", "peak_memory_bytes"}


class Life:
    """One process of a run."""

    def __init__(self, directory: pathlib.Path):
        self.directory, self._output = directory, directory.with_suffix(".txt")
        # Programs this small are not kept otherwise, and most of a life would be their compilation.
        keep = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        changes = [f"--config.{field}={value}" for field, value in CHANGES.items()]
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "experiments.train",
                "--config=configs/lm.py:tiny",
                f"--workdir={directory}",
                *changes,
            ],
            stdout=self._output.open("w"),
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | keep,
        )
        self.began = time.monotonic()

    def until(self, happens) -> bool:
        """Waits for it, and says whether it came before the end of the process."""
        while self._process.poll() is None:
            if happens():
                return True
            time.sleep(0.001)
        return False

    def is_training(self) -> bool:
        """Whether the log says where this process started from: what follows is the first step."""
        return self.started_from() is not None

    def started_from(self) -> int | None:
        found = re.search(r"going on from step (\d+) in|new run in", self._output.read_text())
        return found and int(found[1] or 0)

    def warnings(self) -> list[str]:
        return [line.partition("] ")[2] for line in self._output.read_text().splitlines() if "is damaged" in line]

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def finish(self):
        if self._process.wait():
            sys.exit(f"a run that was to end well did not:\n{self._output.read_text()}")


def main():
    options = _options()
    about = _about(options)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = pathlib.Path(folder, "whole"), pathlib.Path(folder, "killed")
        with living(whole) as life:
            life.finish()
        print(f"uninterrupted: {CHANGES['num_steps']} steps", flush=True)
        kills = kill_again_and_again(killed, options.kills, random.Random(options.seed))
        ends = {"uninterrupted": end(whole), "killed": end(killed)}
        lines = [*_kills_table(kills), "", *_ends_table(ends)]
        record = {"kills": kills, "ends": ends}
        if options.damage:
            record["damage"] = damages(whole, pathlib.Path(folder))
            with_damage, warnings = trained_on_after_damage(whole, pathlib.Path(folder, "damaged"))
            record |= {"damaged_run": with_damage, "warnings": warnings}
            lines += ["", *_damage_table(record["damage"], with_damage == ends["uninterrupted"], warnings)]
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "survive.json").write_text(json.dumps({"about": about, **record}, indent=1) + "\n")
    (RESULTS / "survive.md").write_text("\n".join([", ".join(f"{k} {v}" for k, v in about.items()), "", *lines]) + "\n")
    print(f"written: {RESULTS}/survive.md and .json")
    is_same = len({json.dumps(one) for one in (*ends.values(), record.get("damaged_run", ends["killed"]))}) == 1
    return 0 if is_same and all(case["found"] for case in record.get("damage", [])) else 1


@contextlib.contextmanager
def living(directory):
    """A life that does not outlast us."""
    life = Life(directory)
    try:
        yield life
    finally:
        life.kill()


def kill_again_and_again(directory, number, chance):
    """One record a kill: its moment, the step of the log it came at, where its process had started from."""
    kills, starting = [], 5.0
    checkpoints = directory / "checkpoints"
    while len(kills) < number:
        moment = MOMENTS[len(kills) % len(MOMENTS)]
        with living(directory) as life:
            if moment == "start":
                time.sleep(chance.uniform(0, starting))
                came = True
            else:
                came = life.until(life.is_training)
                starting = time.monotonic() - life.began
            if moment == "write":
                for _ in range(chance.randint(1, 4)):
                    came = came and life.until(lambda: not any(checkpoints.glob("*.partial*")))
                    came = came and life.until(lambda: any(checkpoints.glob("*.partial*")))
                time.sleep(chance.uniform(0, 0.2))
            elif moment == "training":
                to = (life.started_from() or 0) + chance.randint(1, 12)
                came = came and life.until(lambda to=to: _logged(directory) >= to)
                time.sleep(chance.uniform(0, 0.05))
            life.kill()
            if not came:
                print(f"the run came to its end after {len(kills)} kills", flush=True)
                break
            left = sorted(path.name for path in checkpoints.glob("*.partial*"))
            kills.append({"moment": moment, "from": life.started_from(), "at": _logged(directory), "left": left})
        print(f"kill {len(kills)}: {kills[-1]}", flush=True)
    with living(directory) as life:
        life.finish()
        print(f"ended, from step {life.started_from()}", flush=True)
        kills.append({"moment": "none", "from": life.started_from(), "at": CHANGES["num_steps"], "left": []})
    return kills


def _logged(directory):
    """The last step of the log."""
    log = directory / "metrics.jsonl"
    return max((record["step"] for record in metrics.read(log)), default=0) if log.exists() else 0


def end(directory):
    """SHA-256 of each part of what a finished run leaves."""
    state, iterator = _restore(directory)
    records = [{k: v for k, v in r.items() if k not in MACHINE} for r in metrics.read(directory / "metrics.jsonl")]
    parts = {name: part for name, part in state._asdict().items() if name != "step"}
    digests = {name: _digest(leaf.tobytes() for leaf in jax.device_get(jax.tree.leaves(parts[name]))) for name in parts}
    return (
        digests
        | {"position of the data": _digest([json.dumps(iterator).encode()])}
        | {"log": _digest(json.dumps(record).encode() for record in records)}
    )


def damages(whole, folder):
    """One record for each file of the newest checkpoint and each way to damage it."""
    cases, log = [], logging.getLogger("mixkabrn_jax")
    log.propagate = False
    names = sorted(p.relative_to(_newest(whole)) for p in _newest(whole).rglob("*") if p.is_file())
    for name in names:
        for way, change in WAYS.items():
            copy = folder / "copy"
            shutil.copytree(whole / "checkpoints", copy)
            newest = max((path for path in copy.iterdir()), key=lambda path: int(path.name))
            change(newest / name)
            told = _Told()
            log.addHandler(told)
            with Checkpoints(copy) as checkpoints:
                back_to = checkpoints.latest_intact_step()
            log.removeHandler(told)
            is_found = back_to == CHANGES["num_steps"] - CHANGES["checkpoint.every"] and len(told.lines) == 1
            is_kept = (copy / f"{newest.name}.damaged").is_dir()
            lines = [line.replace(str(copy), "runs/copy") for line in told.lines]
            cases.append({"file": str(name), "way": way, "found": is_found and is_kept, "told": lines})
            shutil.rmtree(copy)
    return cases


def trained_on_after_damage(whole, directory):
    """A run with its two newest checkpoints damaged, started again: what it ends with, and what it says."""
    shutil.copytree(whole, directory)
    _flip(next((_newest(directory) / "model").rglob("manifest.ocdbt")))
    second = sorted((directory / "checkpoints").iterdir(), key=lambda path: int(path.name))[-2]
    _cut(max((path for path in (second / "optimizer").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size))
    with living(directory) as life:
        life.finish()
        warnings = life.warnings()
    return end(directory), [line.replace(str(directory), "runs/damaged") for line in warnings]


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


def _newest(directory):
    return max((directory / "checkpoints").iterdir(), key=lambda path: int(path.name))


def _restore(directory):
    experiment = Experiment.from_dict(workdir.load_config(directory))
    vocab_size = workdir.load_tokenizer(directory).vocab_size
    rule = optimizer.make(experiment.optimizer, experiment.num_steps)
    abstract = jax.eval_shape(
        lambda: step.init(experiment.new_model(vocab_size), rule, guard.init(experiment.guard, experiment.log_every))
    )
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        at = checkpoints.latest_intact_step()
        if at != experiment.num_steps:
            sys.exit(f"{directory} ended at step {at}")
        return checkpoints.restore(at, abstract)


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _kills_table(kills):
    # Before its first step, a process may not have come to remove what the one before left.
    hits = sum(bool(kill["left"]) for kill in kills if kill["moment"] != "start")
    yield f"{len(kills) - 1} kills, {hits} of them while a checkpoint was written or deleted, and one life to the end."
    yield ""
    yield "| life | started from step | killed | after the log's step | half written or deleted |"
    yield "|---|---|---|---|---|"
    for number, kill in enumerate(kills, 1):
        origin = "-" if kill["from"] is None else kill["from"]
        left = ", ".join(kill["left"]) or "-"
        yield f"| {number} | {origin} | {kill['moment']} | {kill['at']} | {left} |"


def _ends_table(ends):
    yield "| SHA-256 of | uninterrupted | killed | |"
    yield "|---|---|---|---|"
    for part, digest in ends["uninterrupted"].items():
        other = ends["killed"][part]
        yield f"| {part} | {digest[:16]} | {other[:16]} | {'the same' if digest == other else '**another**'} |"


def _damage_table(cases, is_same, warnings):
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


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--damage", action="store_true", help="damage checkpoints too")
    options = parser.parse_args()
    if options.kills < 0:
        parser.error(f"--kills={options.kills}: 0 or more is needed")
    return options


def _about(options):
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return {
        "command": f"`python -m benchmarks.survive {' '.join(sys.argv[1:])}`",
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
