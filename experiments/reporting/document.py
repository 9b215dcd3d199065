"""A text whose tables and figures are those of reports on files of runs.

A table stands below a line such as `<!-- effects of active | effect, bits per byte -->`: of the report on
`active.jsonl`, the table `effects`, its columns so named. With `effects of active time` the second of these columns is
there once of each file, and `<!-- ranks of short long -->` is how files rank the settings of the ideas. A link to a
figure ends in `/active-effects.png`: of the same report, `effects.png`.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.reporting import configurations, contents, run_file, statistics, tables
from experiments.reporting.configurations import SWITCHES
from experiments.reporting.contents import Picture, Section
from experiments.reporting.runs import require_comparable
from experiments.reporting.tables import Column, Table

_TABLE = re.compile(r"^(<!-- (\w+) of ([\w ]+?)(?: \| (.+?))? -->\n)(?:\n(?:\|.*\n)+)?", re.MULTILINE)
_FIGURE = re.compile(r"\]\(((?:\S*/)?(\w+)-(\w+\.png))\)")


def fill(text: str, folder: Path) -> str:
    """The text with its tables as the files of the folder have them.

    Raises: ValueError naming a file, a table or a column that is not there.
    """

    def filled(found):
        line, kind, names, columns = found.groups()
        made = _table(folder, kind, names.split(), columns.split(", ") if columns else [])
        return f"{line}\n{tables.to_markdown(made)}"

    return _TABLE.sub(filled, text)


def pictures(text: str, folder: Path) -> dict[str, Picture]:
    """The figures that a text links to, by the paths that it says. Raises: ValueError where a report has no such."""
    found = {}
    for path, name, figure in _FIGURE.findall(text):
        drawn = {key: value for section in _sections(folder, name) for key, value in section.pictures.items()}
        found[path] = _one(drawn, figure, f"the report on {name}.jsonl")
    return found


def _table(folder: Path, kind: str, names: Sequence[str], columns: Sequence[str]) -> Table:
    if kind == "ranks":
        return _ranks({name: _design(folder, name) for name in names})
    made = []
    for name in names:
        known = {section.table.name: section.table for section in _sections(folder, name) if section.table}
        made.append(_chosen(_one(known, kind, f"the report on {name}.jsonl"), columns))
    return made[0] if len(made) == 1 else _beside(made, names)


def _chosen(table, columns):
    """The table with these columns alone; all, where none is named."""
    places = {column.name: i for i, column in enumerate(table.columns)}
    kept = [_one(places, column, f"the table {table.name}") for column in columns] or list(places.values())
    return Table(table.name, [table.columns[i] for i in kept], [[row[i] for i in kept] for row in table.rows])


def _beside(made, names):
    """Of tables of two columns, the first, then the second of each, called by its file."""
    by_key = [dict(table.rows) for table in made]
    keys = list(dict.fromkeys(key for rows in by_key for key in rows))
    first, _ = made[0].columns
    columns = [first, *(replace(table.columns[1], name=name) for name, table in zip(names, made, strict=True))]
    return Table(made[0].name, columns, [[key, *(rows.get(key) for rows in by_key)] for key in keys])


def _ranks(designs):
    """Settings of the ideas that all designs have, by bits per byte in each; with Spearman's correlation of two."""
    found = [{tuple(each.values[f] for f in SWITCHES): each for each in one.configurations} for one in designs.values()]
    shared = [key for key in found[0] if all(key in settings for settings in found)]
    rows = [[found[0][key].name, *(settings[key].mean("bits_per_byte") for settings in found)] for key in shared]
    first, *others = zip(*(row[1:] for row in rows), strict=True)
    correlations = [statistics.spearman(first, other) for other in others]
    columns = [Column("configuration"), *(Column(name, ".4f") for name in designs)]
    return Table("ranks", columns, [*rows, [f"rank correlation with {next(iter(designs))}", 1.0, *correlations]])


@functools.cache
def _design(folder, name):
    path = folder / f"{name}.jsonl"
    if not path.exists():
        raise ValueError(f"there is no {path}: a report leaves it as runs.jsonl")
    runs = run_file.read(path)
    require_comparable(runs)
    return configurations.arrange(runs)


@functools.cache
def _sections(folder: Path, name: str) -> list[Section]:
    design = _design(folder, name)
    return list(contents.sections(design, configurations.baseline(design), {}))


def _one(known, name, place):
    """Raises: ValueError where the place has none of that name."""
    if name not in known:
        raise ValueError(f"{place} has no {name!r}: there are {', '.join(known)}")
    return known[name]
