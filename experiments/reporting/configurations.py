"""Which runs differ by their seed alone, what to call them, and which of them is compared with which."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from experiments.reporting.runs import Run
from mixkabrn_jax.runs import workdir

SWITCHES = {
    "model.mixer": ("attention", "retention"),
    "model.ffn": ("mlp", "geglu", "swiglu", "kan"),
    "model.linear": ("dense", "binary", "ternary"),
    "model.num_experts": (0,),
}
"""The fields that switch an idea, with their values from plain to the idea; any number of experts is one."""
SIZES = (
    *("model.d_model", "model.num_layers", "model.num_heads", "model.key_width", "model.value_width"),
    *("model.hidden_width", "model.expert_width", "model.embedding_scale"),
)
_ORDER = {field: place for place, field in enumerate((*SWITCHES, "", *SIZES))}  # "" is all other fields
_PATHS = {"data.path", "data.validation_path"}


@dataclass(frozen=True)
class Configuration:
    """Runs that differ by their seed alone."""

    name: str
    """What it differs from the base configuration by; "base" is the base itself."""
    values: Mapping
    """Its values of all fields that not all configurations have alike."""
    runs: Mapping[int, Run]
    """By seed."""

    @cached_property
    def one(self) -> Run:
        """Any of the runs: they have the same sizes."""
        return self.runs[min(self.runs)]

    def of(self, metric: str) -> dict[int, float]:
        """A figure of the last validation (`loss`, `bits_per_byte`), or of `Run`, by seed."""
        return {
            seed: run.final[metric] if metric in run.final else getattr(run, metric) for seed, run in self.runs.items()
        }

    def mean(self, metric: str) -> float:
        """The mean of `of` over seeds."""
        return float(np.mean(list(self.of(metric).values())))


@dataclass(frozen=True)
class Design:
    """All configurations of a report, the best first, and what tells them apart."""

    configurations: Sequence[Configuration]
    essential: Sequence[str]
    """Fields that tell all configurations apart: the switches, then others, then sizes; a field whose value follows
    from those before it, as the widths that make up for a change, is left out."""
    base: Configuration
    """The one that differs from all others in the fewest of these fields; of equals, with the most ideas on."""
    doubles: Mapping[str, str]
    """Runs that are left out as another one's double, and why."""

    def setting(self, configuration: Configuration) -> dict:
        """The values of the essential fields."""
        return {field: configuration.values[field] for field in self.essential}

    def describe(self, configuration: Configuration) -> str:
        """`mixer=retention,ffn=kan,...`: the switches, and what else tells configurations apart."""
        fields = list(dict.fromkeys((*SWITCHES, *self.essential)))
        short = _short(fields)
        return ",".join(f"{short[field]}={_text(configuration.values[field])}" for field in fields)

    def title(self, configuration: Configuration) -> str:
        """Its name, and what the base is."""
        return f"base: {self.describe(configuration)}" if configuration is self.base else configuration.name


def arrange(runs: Sequence[Run]) -> Design:
    """Runs, in the order of their paths, as configurations."""
    by_key, doubles = {}, {}
    for run in runs:
        fields = _fields(run)
        seeds = by_key.setdefault(repr(sorted(fields.items())), (fields, {}))[1]
        if run.seed in seeds:
            doubles[run.path] = f"the configuration and seed of {seeds[run.seed].path}"
        seeds.setdefault(run.seed, run)
    found = list(by_key.values())
    names = sorted({name for fields, _ in found for name in fields}, key=_place)
    varying = [name for name in names if len({repr(fields.get(name)) for fields, _ in found}) > 1]
    essential = _essential(varying, [fields for fields, _ in found])
    settings = [tuple(fields.get(name) for name in essential) for fields, _ in found]
    base = min(
        range(len(found)), key=lambda i: (_distance(settings[i], settings), -_ideas(found[i][0]), str(settings[i]))
    )
    short = _short(essential)
    made = []
    for (fields, seeds), setting in zip(found, settings, strict=True):
        pairs = zip(essential, setting, settings[base], strict=True)
        differing = [f"{short[field]}={_text(value)}" for field, value, there in pairs if value != there]
        values = {name: fields.get(name) for name in dict.fromkeys((*SWITCHES, *varying))}
        made.append(Configuration(",".join(differing) or "base", values, dict(sorted(seeds.items()))))
    ranked = sorted(made, key=lambda one: (one.mean("bits_per_byte"), one.name))
    return Design(ranked, essential, made[base], doubles)


def baseline(design: Design, wanted: str = "") -> Configuration:
    """What the others are compared with: the plain counterpart if it is there, else the base.

    Args:
        wanted: a configuration's name, or `field=value,...` that one configuration alone has.
    Raises: ValueError where it fits none or several.
    """
    if not wanted:
        near = {field: value for field, value in design.setting(design.base).items() if field not in SWITCHES}
        plain = [one for one in design.configurations if _ideas(one.values) == 0 and near.items() <= one.values.items()]
        return plain[0] if plain else design.base
    if named := [one for one in design.configurations if one.name == wanted]:
        return named[0]
    fitting = [one for one in design.configurations if _fits(one, wanted)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(one.name for one in (fitting or design.configurations))
    found = f"fits {len(fitting)} configurations ({names}): name more fields" if fitting else f"fits none of {names}"
    raise ValueError(f"--baseline={wanted} {found}")


def factorial(design: Design) -> tuple[list[str], dict[tuple[bool, ...], Configuration], str]:
    """The complete 2^k factorial of the switches around the base, if there is one.

    Returns: its fields, its cells by which of them are switched to the idea, and "" or, with no cells, what is missing.
    """
    switched = [field for field in SWITCHES if field in design.essential]
    others = {field: value for field, value in design.setting(design.base).items() if field not in SWITCHES}
    inside = [one for one in design.configurations if others.items() <= one.values.items()]
    levels = {field: sorted({_level(field, one.values[field]) for one in inside}) for field in switched}
    fields = [field for field in switched if len(levels[field]) > 1]
    if len(fields) < 2:
        return fields, {}, "a factorial needs two switches or more, each on and off with every other"
    crowded = [field for field in fields if len(levels[field]) > 2]
    if crowded:
        return fields, {}, f"a factorial needs two values of a switch: {_short(crowded)[crowded[0]]} has more"
    cells = {}
    for one in inside:
        key = tuple(_level(field, one.values[field]) == levels[field][1] for field in fields)
        if key in cells:
            return fields, {}, f"two configurations, {cells[key].name} and {one.name}, switch the same ideas"
        cells[key] = one
    if len(cells) < 2 ** len(fields):
        return fields, {}, f"{len(cells)} of the {2 ** len(fields)} combinations of {len(fields)} switches are there"
    return fields, dict(sorted(cells.items())), ""


def families(design: Design) -> list[tuple[str, list[Configuration]]]:
    """Configurations that differ in size alone, with what tells them from other families; two sizes or more."""
    kept = [field for field in design.essential if field not in SIZES]
    found = {}
    for one in design.configurations:
        found.setdefault(tuple(_text(one.values[field]) for field in kept), []).append(one)
    short = _short(kept)
    named = {
        ", ".join(f"{short[field]}={value}" for field, value in zip(kept, key, strict=True)): members
        for key, members in sorted(found.items())
    }
    return [(name, members) for name, members in named.items() if len(members) > 1]


def label(field: str, configurations: Sequence[Configuration]) -> tuple[str, str, str]:
    """(short name, value that is plain, value that is the idea) of a switch with two values."""
    values = sorted({one.values[field] for one in configurations}, key=lambda value: _level(field, value))
    return field.rpartition(".")[2], _text(values[0]), _text(values[-1])


def _fields(run):
    """What matters to the result: neither the seed, nor how a run is logged or laid out, nor where its data lies."""
    fields = {name: value for name, value in run.config.items() if name != "seed" and not workdir.is_bookkeeping(name)}
    if "train" in run.data:
        fields = {name: value for name, value in fields.items() if name not in _PATHS}
        size, _, digest = run.data["train"].partition(", SHA-256 ")
        fields["data.train"] = f"{size} {digest[:8]}".strip()
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _place(name):
    return _ORDER.get(name, _ORDER[""]), name


def _essential(varying, found):
    chosen, classes = [], 1
    for name in varying:
        more = len({tuple(repr(fields.get(one)) for one in (*chosen, name)) for fields in found})
        if more > classes:
            chosen, classes = [*chosen, name], more
    return chosen


def _distance(setting, settings):
    return sum(mine != theirs for other in settings for mine, theirs in zip(setting, other, strict=True))


def _ideas(fields):
    """How many of the ideas are on."""
    return sum(_level(field, fields.get(field)) > 0 for field in SWITCHES)


def _level(field, value):
    """0 for plain, more for the idea."""
    levels = SWITCHES[field]
    return levels.index(value) if value in levels else len(levels)


def _short(fields):
    """The last part of each field's name where it is the only one, else all of it."""
    last = Counter(field.rpartition(".")[2] for field in fields)
    return {field: short if last[short := field.rpartition(".")[2]] == 1 else field for field in fields}


def _text(value):
    return "none" if value is None else '""' if value == "" else str(value)


def _fits(configuration, wanted):
    """Raises: ValueError where `field=value` names no field that configurations differ in."""
    for pair in wanted.split(","):
        field, _, value = pair.partition("=")
        field = field.removeprefix("config.")
        known = [name for name in configuration.values if field in (name, name.rpartition(".")[2])]
        if not known or not value:
            raise ValueError(
                f"--baseline={wanted}: {pair!r} is not field=value of a field in which these configurations differ: "
                f"{', '.join(configuration.values)}"
            )
        if _text(configuration.values[known[0]]) != value:
            return False
    return True
