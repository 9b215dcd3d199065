"""Finished runs, found in their folders or in files of them."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from experiments.reporting import run_file
from experiments.reporting.runs import Run
from mixkabrn_jax.runs import metrics, workdir
from mixkabrn_jax.runs.config import flatten


def find(folders: Iterable[str]) -> tuple[list[Run], dict[str, str]]:
    """The finished runs by path, and of the others why each is left out.

    Args:
        folders: each is a run's, or holds some, or is a file of them.
    Raises: ValueError naming a folder that is not there, or without a run, or where no run is finished.
    """
    runs, left_out, seen = [], {}, set()
    for folder in sorted(set(folders)):
        if Path(folder).is_file():
            runs += run_file.read(Path(folder))
            continue
        for path in _run_folders(Path(folder)):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            try:
                runs.append(_read(path))
            except (KeyError, OSError, ValueError) as error:
                reason = f"config.json lacks {error}" if isinstance(error, KeyError) else str(error)
                left_out[str(path)] = reason.removeprefix(f"{path}/")
    if not runs:
        path, reason = next(iter(left_out.items()))
        more = f", and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        raise ValueError(f"none of these runs is finished: {path} ({reason}){more}")
    return sorted(runs, key=lambda run: run.path), left_out


def _run_folders(folder):
    if not folder.is_dir():
        raise ValueError(f"--workdir={folder}: there is no such folder; a run's, or a sweep's, is needed")
    if (folder / "config.json").exists():
        return [folder]
    # A trial that ended before it wrote its config has a log alone.
    found = [path for path in sorted(folder.iterdir()) if any((path / n).exists() for n in ("config.json", "log.txt"))]
    if not found:
        raise ValueError(f"--workdir={folder} is no run and holds none: one with a config.json is needed")
    return found


def _read(path):
    """Raises: ValueError, OSError or KeyError where the run is not finished, or not whole."""
    config = flatten(workdir.load_config(path))
    if not (path / "metrics.jsonl").exists():
        raise ValueError("not begun: it has no metrics.jsonl")
    records = metrics.read(path / "metrics.jsonl")
    run = Run(str(path), config, records, workdir.load_data(path), _digest(path / "tokenizer.json"))
    if run.final is None:
        last = max((record["step"] for record in records), default=0)
        raise ValueError(f"unfinished: step {last} of {config['num_steps']}")
    numbers = [run.final.get(name) for name in ("loss", "bits_per_byte", "parameters", "active_parameters")]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError("broken: its last validation has no loss, bits_per_byte, parameters or active_parameters")
    if not run.training:
        raise ValueError("broken: its records of training have no tokens_per_second")
    _ = run.seed, run.tokens  # of a config without them, a KeyError now
    return run


def _digest(path):
    if not path.exists():
        return ""
    return hashlib.sha256(json.dumps(json.loads(path.read_text()), sort_keys=True).encode()).hexdigest()
