"""From a config's sweep generator to trials: a config, a name and a command line each."""

import hashlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.command_line import wrong_flag
from mixkabrn_jax.runs import workdir
from mixkabrn_jax.runs.config import flatten
from mixkabrn_jax.runs.moved import nested

TRAIN = (sys.executable, "-m", "experiments.train")
QUANTITIES = ("total_parameters", "active_parameters", "flops", "file_bytes", "int8_file_bytes")
"""What all trials of a sweep can have as much of; flops are those of the whole training."""


class Equality(NamedTuple):
    """How much of a quantity a trial has."""

    quantity: str
    value: float
    target: float
    """What the sweep's own config has."""

    def __str__(self):
        return f"{self.value:,.0f} {self.quantity} ({self.value / self.target - 1:+.2%})"


@dataclass(frozen=True)
class Trial:
    """One training run of a sweep."""

    name: str
    """What it overrides, for people, and a hash of its config, which is what identifies it."""
    overrides: Mapping
    """What the generator yielded, and the widths that make it equal."""
    num_steps: int
    workdir: Path
    command: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    """Fields of its records that the sweep is read by."""
    equality: Equality | None = None


def generators(path: str) -> dict[str, Callable[[ConfigDict], Iterator[Mapping]]]:
    """The sweeps that a config file offers: its public generator functions, those that it imports too."""
    return {name: value for name, value in functions(path).items() if inspect.isgeneratorfunction(value)}


def functions(path: str) -> dict[str, Callable]:
    """The public functions of a config file, those that it imports too."""
    spec = importlib.util.spec_from_file_location("sweep_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: value for name, value in inspect.getmembers(module, inspect.isfunction) if name[0] != "_"}


def check(config: Mapping) -> None:
    """Raises: TypeError or ValueError that names the field, for a config that training would refuse."""
    # Only here, so that a wrong flag is answered at once: JAX comes with it.
    from mixkabrn_jax.training.experiment import Experiment

    Experiment.from_dict(config)


def equalise(config: Mapping, base: Mapping, quantity: str) -> tuple[dict, Equality]:
    """The fields that a trial changes to have as much of a quantity as the sweep's config, and what it then has.

    Raises: ValueError where widths do not reach it.
    """
    from experiments.sweeping import equal  # only here, for the same reason

    widths = equal.equalise(config, base, quantity)
    value = equal.count(nested(flatten(config) | widths))[quantity]
    return widths, Equality(quantity, value, equal.count(base)[quantity])


def expand(
    config_file: str,
    base: Mapping,
    overrides_of_trials: Iterator[Mapping],
    parent: Path,
    *,
    metrics: tuple[str, ...] = (),
    equal: str = "none",
) -> tuple[list[Trial], list[str]]:
    """The trials in the generator's order, and a line for each that is left out as another one's double.

    Args:
        config_file: the `--config` value with its size.
        base: the overrides of the command line.
        overrides_of_trials: what the generator yields.
        parent: the folder that holds the trials' workdirs.
        metrics: of each trial.
        equal: one of `QUANTITIES`, or none.
    Raises: ValueError naming the trial and the override that training would not take.
    """
    base_config = resolve(config_file, base)[0]
    fields = flatten(base_config)
    if "num_steps" not in fields:
        raise ValueError(f"--config={config_file} has no field num_steps, which tells when a trial is complete")
    trials, doubles = {}, []
    for number, overrides in enumerate(overrides_of_trials, 1):
        if not isinstance(overrides, Mapping):
            raise ValueError(f"{overrides!r} is not a dict of overrides such as {{'num_steps': 10}}")
        for field in overrides:
            if field not in fields:
                raise ValueError(f"{dict(overrides)} overrides config.{field}, which --config={config_file} lacks")
        # One flag a field: a tuple's flag would collect both values.
        config, taken = resolve(config_file, {**base, **overrides})
        for field, value in overrides.items():
            if taken[field] != value:
                raise ValueError(f"{dict(overrides)}: config.{field}={value!r} would be taken as {taken[field]!r}")
        widths, equality = {}, None
        try:
            check(config)
            if equal != "none":
                widths, equality = equalise(config, base_config, equal)
                config, _ = resolve(config_file, {**base, **overrides, **widths})
                check(config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"trial {number}, {dict(overrides)}: {error}") from error
        digest = _digest(config)
        name = next((path.name for path in sorted(parent.glob(f"*-{digest}"))), f"{_prefix(overrides)}-{digest}")
        if digest in trials:
            doubles.append(f"{dict(overrides)} gives the same config as {trials[digest].name}: one trial")
            continue
        all_set = {**overrides, **widths}
        arguments = [f"--config={config_file}", f"--workdir={parent / name}", *command_line({**base, **all_set})]
        command = (*TRAIN, *arguments)
        trials[digest] = Trial(name, all_set, config["num_steps"], parent / name, command, metrics, equality)
    if not trials:
        raise ValueError("it yields no trials")
    return list(trials.values()), doubles


def resolve(config_file: str, overrides: Mapping) -> tuple[dict, dict]:
    """The config that training makes of these overrides, and their values in it: from the parser that training uses.

    Raises: ValueError when it does not take them.
    """
    argv = ["sweep", f"--config={config_file}", *command_line(overrides)]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except flags.Error as error:
        raise ValueError(wrong_flag(error, values)) from error
    return values["config"].value.to_dict(), config_flags.get_override_values(values["config"])


def command_line(overrides: Mapping) -> list[str]:
    """`{"model.mixer": "attention"}` as `--config.model.mixer=attention`."""
    return [
        f"--config.{field}={value.to_dict() if isinstance(value, ConfigDict) else value}"
        for field, value in overrides.items()
    ]


def _digest(config: Mapping) -> str:
    """Eight hex digits that change with any field of the experiment, and with nothing else."""
    fields = flatten(config)
    fields = {field: value for field, value in fields.items() if not workdir.is_bookkeeping(field)}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def _prefix(overrides: Mapping) -> str:
    """`mixer=attention,d_model=64`, cut to what a file name and an eye can take; "base" without overrides."""
    text = ",".join(f"{field.rpartition('.')[2]}={value}" for field, value in overrides.items())
    return re.sub(r"[^\w.,=+-]+", "_", text)[:80] or "base"
