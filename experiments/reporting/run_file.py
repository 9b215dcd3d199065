"""Finished runs in one file, for where their folders are not kept.

Each line is a JSON object: the first has what all runs have in common, the others are a run each, with what it has
besides. Fields of configs are called `config.model.d_model`, parts of the data `data.train`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.reporting.runs import Run


def write(path: Path, runs: Sequence[Run]) -> None:
    """Writes runs to a file; of their paths, the last two parts."""
    lines = [_flat(run) for run in runs]
    common = {name: value for name, value in lines[0].items() if all(line.get(name, ...) == value for line in lines)}
    lines = [common, *({name: value for name, value in line.items() if name not in common} for line in lines)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read(path: Path) -> list[Run]:
    """The runs of a file. Raises: ValueError where it is none that `write` has written."""
    try:
        common, *lines = map(json.loads, path.read_text().splitlines())
        return [_run(common | line, path) for line in lines]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"--workdir={path} is no file of runs, as a report's runs.jsonl is: {error!r}") from error


def _flat(run):
    config = {f"config.{name}": value for name, value in run.config.items()}
    data = {f"data.{name}": value for name, value in run.data.items()}
    path = "/".join(Path(run.path).parts[-2:])
    return {"path": path, **config, **data, "tokenizer": run.tokenizer, "records": list(run.records)}


def _run(line, path):
    def part(prefix):
        return {name.removeprefix(prefix): value for name, value in line.items() if name.startswith(prefix)}

    return Run(f"{path}/{line['path']}", part("config."), line["records"], part("data."), line["tokenizer"])
