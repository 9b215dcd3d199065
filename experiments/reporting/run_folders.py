"""The runs that a report is of, read from their folders alone."""

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mixkabrn_jax.runs import metrics, workdir
from mixkabrn_jax.runs.config import flatten


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: str
    config: Mapping
    """All fields by their dotted names."""
    records: Sequence[dict]
    data: Mapping[str, str]
    """What identifies each part of the data; {} where the run does not say."""
    tokenizer: str
    """A digest."""

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @cached_property
    def final(self) -> dict | None:
        """The record of the validation after the last step, over all of the validation data; None before it."""
        return metrics.final(self.records, self.config["num_steps"])

    @cached_property
    def training(self) -> list[dict]:
        """The records of training; those of skipped updates alone, which have a rate of 0, aside."""
        return [record for record in self.records if record["split"] == "train" and record.get("tokens_per_second")]

    @property
    def tokens(self) -> int:
        """Positions trained on, padding included."""
        return self.config["num_steps"] * self._tokens_per_step

    @property
    def tokens_per_second(self) -> float:
        """Median over the records of training: compilation and pauses weigh nothing."""
        return statistics.median(record["tokens_per_second"] for record in self.training)

    @property
    def seconds(self) -> float:
        """Of training alone: evaluation and checkpoints do not count. Of every record, its tokens over their rate."""
        before, total = 0, 0.0
        for record in self.training:
            updates = record["step"] - before - record.get("skipped", 0)
            total += updates * self._tokens_per_step / record["tokens_per_second"]
            before = record["step"]
        return total

    @property
    def flops(self) -> float | None:
        """What the model needs for its training, whatever is recomputed on the way; None where the log has no rate."""
        devices = 1
        for axis in ("data", "expert", "model", "context"):
            devices *= self.config.get(f"mesh.{axis}", 1)  # the log's rate is of one device
        last = self.training[-1]
        if "model_flops_per_second" not in last:
            return None
        return round(last["model_flops_per_second"] * devices / last["tokens_per_second"]) * self.tokens

    @property
    def _tokens_per_step(self):
        return self.config["data.batch_size"] * self.config["data.sequence_length"]


def find(folders: Iterable[str]) -> tuple[list[Run], dict[str, str]]:
    """The finished runs by path, and of the others why each is left out; each folder is a run, or holds some.

    Raises: ValueError naming a folder that is not there, or without a run, or where no run is finished.
    """
    runs, left_out, seen = [], {}, set()
    for folder in sorted(set(folders)):
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


def require_comparable(runs: Sequence[Run]) -> None:
    """Raises: ValueError naming two runs whose losses are of different tokens."""
    one = runs[0]
    for other in runs[1:]:
        apart = "their losses do not compare: report on them apart"
        if one.tokenizer != other.tokenizer:
            raise ValueError(f"{other.path} has another tokenizer than {one.path}, so {apart}")
        validated = [(run.data.get("validation", ""), run.final.get("tokens")) for run in (one, other)]
        if validated[0] != validated[1]:
            texts = [text or f"{tokens} tokens" for text, tokens in validated]
            raise ValueError(f"{other.path} is validated on {texts[1]}, {one.path} on {texts[0]}, so {apart}")


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
