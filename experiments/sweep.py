"""Trains what a config's sweep generator yields, and makes a table of it; running the same command again goes on:

    python -m experiments.sweep --config=configs/lm.py:tiny --sweep=ablation --workdir=runs/ablation [--slots=2] \\
        [--seeds=3]

A sweep is a public generator function of the config file: from the config, it yields for each trial a dict of what the
trial sets, such as {"model.mixer": "attention"}. Where it declares what is equal in all trials, widths that make it so
are found for each, and stand in its command line. With --dry_run the trials' command lines are printed.
"""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import command_line
from experiments.sweeping import results, trials
from experiments.sweeping.executor import Job, LocalExecutor, try_lock

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
_SLOTS = flags.DEFINE_integer(
    "slots",
    1,
    "trials at a time, each with its share of the processors: on two cores 2 give half as many trials again in an hour "
    "(losses depend on the number of threads by rounding); on one accelerator more than 1 needs "
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    lower_bound=1,
)
command_line.require("sweep", "ablation")
command_line.require("workdir", "runs/ablation")


def main():
    config_flag = flags.FLAGS["config"]
    config_file, base = config_flags.get_config_filename(config_flag), config_flags.get_override_values(config_flag)
    folder = Path(_WORKDIR.value)
    with command_line.user_errors():
        found, doubles = _expand(config_file, base, folder)
        for line in doubles:
            _note(line)
        if _DRY_RUN.value:
            for trial in found:
                print(shlex.join(["python", *trial.command[1:]]), flush=True)
                if trial.equality:
                    _note(f"{trial.name}: {trial.equality}")
            return 0
        folder.mkdir(parents=True, exist_ok=True)
    arguments = [f"--config={config_file}", f"--sweep={_SWEEP.value}", f"--workdir={folder}"]
    arguments += [f"--seeds={_SEEDS.value}"] if _SEEDS.value > 1 else []
    arguments += [f"--equal={_EQUAL.value}"] if _EQUAL.value else []
    command = shlex.join(["python", "-m", "experiments.sweep", *arguments, *trials.command_line(base)])
    with (folder / "sweep.lock").open("a") as lock:
        if not try_lock(lock):  # the tables have one writer
            sys.exit(f"error: --workdir={folder}: another sweep is running in it")
        return run(found, folder, command, _SLOTS.value)


def run(found: list[trials.Trial], folder: Path, command: str, slots: int) -> int:
    """Runs the trials that are not complete.

    Returns: 0 when all are complete in the end, 1 when one failed, 128 + the signal's number when stopped by one.
    """
    rows = {trial.name: results.read(trial) for trial in found}
    missing = {trial.name: trial for trial in found if rows[trial.name].status != "complete"}
    _note(f"{len(found)} trials, {len(found) - len(missing)} of them complete; results in {folder / 'results.md'}")
    jobs = [Job(name, trial.command, trial.workdir / "log.txt") for name, trial in missing.items()]
    results.write(folder, list(rows.values()), command)
    starts = {}
    with LocalExecutor(slots) as executor:
        for event in executor.run(jobs, is_done=lambda job: results.is_complete(missing[job.name])):
            name = event.job.name
            if event.kind == "waits":
                starts[name] = time.monotonic()
                _note(f"{name}: still trained by a process of an earlier sweep; waiting for it")
            elif event.kind == "started":
                starts[name] = time.monotonic()
                _note(f"{name}: started, output in {event.job.log}")
            else:
                rows[name] = row = _outcome(missing[name], event)
                results.write(folder, list(rows.values()), command)
                loss = f", validation loss {row.validation_loss:.4f}" if row.status == "complete" else ""
                error = f", {row.error}" if row.error else ""
                _note(f"{name}: {row.status} after {time.monotonic() - starts[name]:.0f} s{loss}{error}")
        if executor.received:
            _note("stopping: each trial that runs saves its state first; once more to kill them")
    rows = {trial.name: results.read(trial, rows[trial.name].error) for trial in found}
    results.write(folder, list(rows.values()), command)
    print(results.markdown(list(rows.values())), end="")
    num_complete = sum(row.status == "complete" for row in rows.values())
    if executor.received:
        _note(f"stopped with {num_complete} of {len(rows)} trials complete; the same command goes on from there")
        return 128 + executor.received[0]
    return 0 if num_complete == len(rows) else 1


def _outcome(trial, event):
    if event.exit_code == 0 and results.is_complete(trial):
        return results.read(trial)
    output = event.job.log.read_text(errors="replace").rpartition(event.job.header)[2]
    return results.read(trial, results.find_error(output, event.exit_code))


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


def _yielded(sweep: Callable, path: str) -> Iterator[Mapping]:
    """What a sweep yields; an error of its own code, of whatever kind, is the user's to mend."""
    try:
        overrides = list(sweep(_CONFIG.value))
    except Exception as error:
        place = command_line.locate(error, path) or f"{type(error).__name__}: {error}"
        raise ValueError(place) from error
    for number in range(_SEEDS.value):
        for each in overrides:
            is_seeded = _SEEDS.value > 1 and isinstance(each, Mapping)
            yield {**each, "seed": each.get("seed", _CONFIG.value.get("seed", 0)) + number} if is_seeded else each


def _note(line):
    """For people: standard output is for command lines and tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command_line.run(main)
