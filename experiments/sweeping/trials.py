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

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.command_line import wrong_flag
from mixkabrn_jax.runs import workdir
from mixkabrn_jax.runs.config import flatten

TRAIN = (sys.executable, "-m", "experiments.train")


@dataclass(frozen=True)
class Trial:
    """One training run of a sweep."""

    name: str
    """What it overrides, for people, and a hash of its config, which is what identifies it."""
    overrides: Mapping
    """What the generator yielded."""
    num_steps: int
    workdir: Path
    command: tuple[str, ...]


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


def expand(
    config_file: str, base: Mapping, overrides_of_trials: Iterator[Mapping], parent: Path
) -> tuple[list[Trial], list[str]]:
    """The trials in the generator's order, and a line for each that is left out as another one's double.

    Args: the `--config` value with its size, the overrides of the command line, what the generator yields, and the
        folder that holds the trials' workdirs.
    Raises: ValueError naming the trial and the override that training would not take.
    """
    fields = flatten(resolve(config_file, base)[0])
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
        try:
            check(config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"trial {number}, {dict(overrides)}: {error}") from error
        digest = _digest(config)
        name = next((path.name for path in sorted(parent.glob(f"*-{digest}"))), f"{_prefix(overrides)}-{digest}")
        if digest in trials:
            doubles.append(f"{dict(overrides)} gives the same config as {trials[digest].name}: one trial")
            continue
        arguments = [f"--config={config_file}", f"--workdir={parent / name}", *command_line({**base, **overrides})]
        trials[digest] = Trial(name, dict(overrides), config["num_steps"], parent / name, (*TRAIN, *arguments))
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
