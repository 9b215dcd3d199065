"""Trains what a config's sweep generator yields, and makes a table of it; running the same command again goes on:

    python -m experiments.sweep --config=configs/lm.py:tiny --sweep=ablation --workdir=runs/ablation [--slots=2] \\
        [--seeds=3] [--executor=slurm] [--timeout_minutes=60] [--retries=1]

A sweep is a public generator function of the config file: from the config, it yields for each trial a dict of what the
trial sets, such as {"model.mixer": "attention"}. Where it declares what is equal in all trials, widths that make it so
are found for each, and stand in its command line. With --dry_run the trials' command lines are printed.

A search seeks instead (docs/clusters.md): --search=rates --num_trials=30, for a function of the config file that
returns ranges, such as {"optimizer.peak_rate": (1e-3, 3e-2, "log")}.
"""

import itertools
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import command_line, executor_flags
from experiments.sweeping import results, trials
from experiments.sweeping.executor import Executor, Job, try_lock
from experiments.sweeping.live import LiveTable
from experiments.sweeping.search import Search, check

_CONFIG = command_line.define_config()
_SWEEP = flags.DEFINE_string("sweep", None, "generator of trials: a function of the config file")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the trials' workdirs and of the tables of results")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "check the trials, print their command lines and do nothing")
_EQUAL = flags.DEFINE_enum(
    "equal",
    None,
    ["none", *trials.QUANTITIES],
    "what every trial has as much of as the config, within 1%, in place of what the sweep declares",
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 1, "of each trial: config.seed and those after it, all trials with the first one first", lower_bound=1
)
_SEARCH = flags.DEFINE_string("search", None, "in place of --sweep, ranges to search: a function of the config file")
_NUM_TRIALS = flags.DEFINE_integer("num_trials", 20, "of a search, those of earlier commands included", lower_bound=1)
flags.register_multi_flags_validator(
    ["sweep", "search"],
    lambda given: bool(given["sweep"]) != bool(given["search"]),
    f"--sweep=ablation is needed: {flags.FLAGS['sweep'].help}, or --search",
)
command_line.require("workdir", "runs/ablation")


def main():
    config_flag = flags.FLAGS["config"]
    config_file, base = config_flags.get_config_filename(config_flag), config_flags.get_override_values(config_flag)
    folder = Path(_WORKDIR.value)
    with command_line.user_errors():
        found, doubles = (_ends if _SEARCH.value else _expand)(config_file, base, folder)
        for line in doubles:
            _note(line)
        if _DRY_RUN.value:
            for trial in found:
                print(shlex.join(["python", *trial.command[1:]]), flush=True)
                if trial.equality:
                    _note(f"{trial.name}: {trial.equality}")
            return 0
        executor = executor_flags.make(folder)
        folder.mkdir(parents=True, exist_ok=True)
        search = _search(config_file, base, folder) if _SEARCH.value else None
    kind = f"--search={_SEARCH.value}" if search else f"--sweep={_SWEEP.value}"
    arguments = [f"--config={config_file}", kind, f"--workdir={folder}"]
    arguments += [f"--num_trials={_NUM_TRIALS.value}"] if search else []
    arguments += [f"--seeds={_SEEDS.value}"] if _SEEDS.value > 1 else []
    arguments += [f"--equal={_EQUAL.value}"] if _EQUAL.value else []
    command = shlex.join(["python", "-m", "experiments.sweep", *arguments, *trials.command_line(base)])
    with (folder / "sweep.lock").open("a") as lock:
        if not try_lock(lock):  # the tables have one writer
            sys.exit(f"error: --workdir={folder}: another sweep is running in it")
        with command_line.user_errors():
            return run(search.found if search else found, folder, command, executor, search)


def run(found: list[trials.Trial], folder: Path, command: str, executor: Executor, search: Search | None = None) -> int:
    """Runs the trials that are not complete, and those that a search proposes besides.

    Returns: 0 when all are complete in the end, 1 when one failed, 128 + the signal's number when stopped by one.
    """
    rows = {trial.name: results.read(trial) for trial in found}
    for trial in found if search else ():
        if rows[trial.name].status == "complete":  # of which a killed command could not tell
            search.tell(trial, rows[trial.name].validation_loss)
    missing = {trial.name: trial for trial in found if rows[trial.name].status != "complete"}
    _note(f"{len(found)} trials, {len(found) - len(missing)} of them complete; results in {folder / 'results.md'}")
    results.write(folder, list(rows.values()), command)
    starts, live = dict.fromkeys(missing, time.monotonic()), LiveTable(missing, rows)

    def jobs():
        for trial in itertools.chain(list(missing.values()), search.propose() if search else ()):
            missing[trial.name] = trial
            rows.setdefault(trial.name, results.read(trial))
            yield Job(trial.name, trial.command, trial.workdir / "log.txt")

    with executor:
        for event in executor.run(jobs(), is_done=lambda job: results.is_complete(missing[job.name])):
            name = event.job.name
            if event.kind in ("waits", "started"):
                starts[name] = time.monotonic()
                live.note(f"{name}: {event.kind}, {event.note}")
            else:
                rows[name] = row = _outcome(missing[name], event)
                results.write(folder, list(rows.values()), command)
                if search and row.status == "complete":
                    search.tell(missing[name], row.validation_loss)
                if event.kind == "ended":
                    loss = f", validation loss {row.validation_loss:.4f}" if row.status == "complete" else ""
                    error = f", {row.error}" if row.error else ""
                    live.note(f"{name}: {row.status} after {time.monotonic() - starts[name]:.0f} s{loss}{error}")
            live.update(event)
        live.close()
        if executor.received:
            _note(f"stopping: {executor.stopping}")
    rows = {trial.name: results.read(trial, rows[trial.name].error) for trial in found}
    results.write(folder, list(rows.values()), command)
    print(results.markdown(list(rows.values())), end="")
    num_complete = sum(row.status == "complete" for row in rows.values())
    if executor.received:
        _note(f"stopped with {num_complete} of {len(rows)} trials complete; the same command goes on from there")
        return 128 + executor.received[0]
    return 0 if num_complete == len(rows) else 1


def _outcome(trial, event):
    """Its row as an event leaves it."""
    if event.exit_code == 0 and (event.kind == "runs" or results.is_complete(trial)):
        return results.read(trial)
    output = event.job.log.read_text(errors="replace") if event.job.log.exists() else ""
    error = results.find_error(output.rpartition(event.job.header)[2], event.exit_code)
    return results.read(trial, "; ".join(filter(None, [event.note, error])))


def _expand(config_file, base, folder):
    path = config_file.partition(":")[0]
    sweeps = trials.generators(path)
    if _SWEEP.value not in sweeps:
        offered = f"its sweeps are {', '.join(sweeps)}" if sweeps else "it defines no sweeps"
        raise ValueError(f"--sweep={_SWEEP.value} is not in {path}: {offered} (public functions that yield)")
    sweep = sweeps[_SWEEP.value]
    # One that declares nothing is a plain generator.
    equal, metrics = _EQUAL.value or getattr(sweep, "equal", "none"), getattr(sweep, "metrics", ())
    try:
        if equal not in ("none", *trials.QUANTITIES):
            raise ValueError(f"equal={equal!r}: none or one of {trials.QUANTITIES} is needed")
        return trials.expand(config_file, base, _yielded(sweep, path), folder, metrics=metrics, equal=equal)
    except ValueError as error:
        raise ValueError(f"--sweep={_SWEEP.value}: {error}") from error


def _ends(config_file, base, folder):
    """Of a search, the trials at the two ends of its ranges: between them training would take all."""
    if executor_flags.EXECUTOR.value == "slurm":
        raise ValueError("--search asks for a trial when another has ended: --executor=local or ray is needed")
    path = config_file.partition(":")[0]
    functions = trials.functions(path)
    if _SEARCH.value not in functions:
        raise ValueError(f"--search={_SEARCH.value}: {path} has no such function")
    try:
        space = _result(functions[_SEARCH.value], path)
        check(space)
        ends = ({field: float(given[end]) for field, given in space.items()} for end in (0, 1))
        return trials.expand(config_file, base, ends, folder)
    except ValueError as error:
        raise ValueError(f"--search={_SEARCH.value}: {error}") from error


def _search(config_file, base, folder):
    """The study, which is begun or gone on with."""

    def make(overrides):
        return trials.expand(config_file, base, iter([overrides]), folder)[0][0]

    space = trials.functions(config_file.partition(":")[0])[_SEARCH.value](_CONFIG.value)
    study = f"{_SEARCH.value}-{make({}).name[-8:]}"  # with the hash of the config: another one's losses are others
    return Search(folder / "search.jsonl", study, space, _NUM_TRIALS.value, make)


def _result(function: Callable, path: str):
    """What a function of the config file makes of the config; its errors, of whatever kind, are the user's to mend."""
    try:
        return function(_CONFIG.value)
    except Exception as error:
        place = command_line.locate(error, path) or f"{type(error).__name__}: {error}"
        raise ValueError(place) from error


def _yielded(sweep: Callable, path: str) -> Iterator[Mapping]:
    """What a sweep yields, for each seed."""
    overrides = _result(lambda config: list(sweep(config)), path)
    for number in range(_SEEDS.value):
        for each in overrides:
            is_seeded = _SEEDS.value > 1 and isinstance(each, Mapping)
            yield {**each, "seed": each.get("seed", _CONFIG.value.get("seed", 0)) + number} if is_seeded else each


def _note(line):
    """For people: standard output is for command lines and tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command_line.run(main)
