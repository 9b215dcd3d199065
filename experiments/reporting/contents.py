"""What a report says, section by section: sentences, a table, figures."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.reporting import configurations, figures, scaling, statistics
from experiments.reporting.configurations import Configuration, Design
from experiments.reporting.runs import Run
from experiments.reporting.tables import Column, Table, figure

ALPHA = 0.05
"""A corrected p value below it is called a difference."""
_COSTS = {
    "parameters": ("parameters", ",.0f"),
    "active_parameters": ("active parameters", ",.0f"),
    "file_bytes": ("file bytes", ",.0f"),
    "int8_file_bytes": ("int8 file bytes", ",.0f"),
    "flops": ("training flops", ".3g"),
    "seconds": ("training seconds", ",.0f"),
}
_BITS, _NATS = "bits per byte", "nats per token"


class Picture(NamedTuple):
    """A figure that is still to be drawn."""

    title: str
    """What it shows."""
    draw: Callable[[Path], None]
    """Writes it to a file."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    sentences: Sequence[str]
    table: Table | None = None
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    """By the names of their files."""


def sections(design: Design, baseline: Configuration, left_out: Mapping[str, str]) -> Iterator[Section]:
    """All sections in order."""
    yield _configurations(design)
    if len(design.configurations) > 1:
        yield _differences(design, baseline)
        yield _effects(design)
        yield from _costs(design)
    yield _curves(design)
    if found := configurations.families(design):
        yield _scaling(found)
    if len(design.configurations) > 1:
        yield _fields(design)
    yield _runs(design, left_out)


def _estimate(configuration, metric):
    return statistics.estimate(list(configuration.of(metric).values()))


def _configurations(design):
    found = design.configurations
    columns = [Column("rank", "d"), Column("configuration"), Column("seeds", "d")]
    columns += [Column(_BITS, ".4f", has_interval=True), Column(_NATS, ".4f", has_interval=True)]
    columns += [Column(title, spec) for title, spec in _COSTS.values()]
    columns += [Column("training tokens", ",.0f"), Column("tokens per second", ",.0f")]
    rows = [
        [
            *(rank, one.name, len(one.runs), _estimate(one, "bits_per_byte"), _estimate(one, "loss")),
            *(_cost(one, cost) for cost in _COSTS),
            *(one.one.tokens, one.mean("tokens_per_second")),
        ]
        for rank, one in enumerate(found, 1)
    ]
    known = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    table = Table("configurations", [columns[i] for i in known], [[row[i] for i in known] for row in rows])
    best, bits = found[0], figure(_estimate(found[0], "bits_per_byte"), ".4f")
    sentences = [
        f"The lowest is {best.name} with {bits} bits per byte of the held-out text."
        if len(found) > 1
        else f"{best.name}: {bits} bits per byte of the held-out text.",
        f"base is {design.describe(design.base).replace(',', ', ')}; the others are named for what differs.",
        "± is the half width of the 95% interval of the mean over seeds (Student's t); one seed alone has none.",
    ]
    rows = [
        figures.Row(f"{rank}  {one.name}", _estimate(one, "bits_per_byte"), list(one.of("bits_per_byte").values()))
        for rank, one in enumerate(found, 1)
    ]
    title = "Bits per byte of held-out text, lowest first"
    subtitle = f"dot: mean; bar: its 95% interval; ticks: seeds\n{design.title(design.base)}"
    drawn = Picture(title, partial(figures.forest, rows, title, subtitle, _BITS, ".4f"))
    return Section("Configurations", sentences, table, {"configurations.png": drawn})


def _differences(design, baseline):
    others = [one for one in design.configurations if one is not baseline]
    found = {metric: [_paired(one, baseline, metric) for one in others] for metric in ("bits_per_byte", "loss")}
    corrected = {metric: _corrected(estimates) for metric, estimates in found.items()}
    columns = [Column("configuration"), Column(*_COSTS["file_bytes"]), Column("pairs", "d")]
    for unit in (_BITS, _NATS):
        columns += [
            Column(unit, "+.4f", has_interval=True),
            Column(f"p, {unit}", ".2g"),
            Column(f"Holm, {unit}", ".2g"),
        ]
    rows = [
        [
            *(one.name, _cost(one, "file_bytes"), len(one.runs.keys() & baseline.runs.keys())),
            *(bits, bits and bits.p, corrected["bits_per_byte"][i]),
            *(nats, nats and nats.p, corrected["loss"][i]),
        ]
        for i, (one, bits, nats) in enumerate(zip(others, *found.values(), strict=True))
    ]
    holm = corrected["bits_per_byte"]
    tested = [p for p in holm if p is not None]
    sentences = [
        f"Each against {baseline.name}, seed by seed; below 0 is better than it.",
        f"{sum(p < ALPHA for p in tested)} of {len(tested)} differ from it in bits per byte at 5%, after Holm's "
        "correction for the number of comparisons."
        if tested
        else "None of them shares two seeds with it, so there are no intervals and no tests.",
    ]
    drawn = [
        figures.Row(one.name, estimate, is_full=p is not None and p < ALPHA)
        for one, estimate, p in zip(others, found["bits_per_byte"], holm, strict=True)
        if estimate
    ]
    pictures = {}
    if drawn:
        title = f"Difference from {baseline.name}"
        subtitle = "left is better; dot: mean of pairs of one seed; bar: 95% interval; full: not 0 at 5%, after Holm"
        subtitle += f"\n{design.title(design.base)}"
        draw = partial(figures.forest, drawn, title, subtitle, "difference in bits per byte", "+.4f")
        pictures["differences.png"] = Picture(title, draw)
    return Section(f"Differences from {baseline.name}", sentences, Table("differences", columns, rows), pictures)


def _effects(design):
    fields, cells, missing = configurations.factorial(design)
    if missing:
        return Section("Effects of the ideas", [f"Not estimated: {missing}."])
    labels = [configurations.label(field, list(cells.values())) for field in fields]
    found = statistics.effects({cell: one.of("bits_per_byte") for cell, one in cells.items()})
    nats = statistics.effects({cell: one.of("loss") for cell, one in cells.items()})
    names = {
        factors: " x ".join(labels[factor][0] for factor in factors)
        if len(factors) > 1
        else f"{labels[factors[0]][0]}: {labels[factors[0]][2]} for {labels[factors[0]][1]}"
        for factors in found
    }
    corrected = _corrected(list(found.values()))
    columns = [Column("effect"), Column(_BITS, "+.4f", has_interval=True), Column("p", ".2g"), Column("Holm", ".2g")]
    columns.append(Column(_NATS, "+.4f", has_interval=True))
    rows = [
        [names[factors], one, one.p, p, nats[factors]]
        for (factors, one), p in zip(found.items(), corrected, strict=True)
    ]
    seeds = next(iter(found.values())).n
    sentences = [
        f"All {len(cells)} combinations of {len(fields)} switches are there, with {seeds} seeds in all of them.",
        "A main effect is what a switch changes on average over all settings of the others; an interaction (x) is half "
        "of what one switch's effect changes by when the other is on; below 0 is better.",
    ]
    drawn = [
        figures.Row(names[factors], one, is_full=p is not None and p < ALPHA)
        for (factors, one), p in zip(found.items(), corrected, strict=True)
    ]
    title = "What each idea changes, and with which others"
    subtitle = "left is better; dot: mean over seeds; bar: 95% interval; full: not 0 at 5%, after Holm"
    picture = Picture(title, partial(figures.forest, drawn, title, subtitle, "change in bits per byte", "+.4f"))
    return Section("Effects of the ideas", sentences, Table("effects", columns, rows), {"effects.png": picture})


def _costs(design):
    columns = [
        Column("cost"),
        Column("configuration"),
        Column("value", ",.0f"),
        Column(_BITS, ".4f", has_interval=True),
    ]
    rows, pictures = [], {}
    for cost, (title, _) in _COSTS.items():
        values = [_cost(one, cost) for one in design.configurations]
        if None in values or len(set(values)) == 1:
            continue
        points = [
            figures.Point(design.title(one), value, _estimate(one, "bits_per_byte"))
            for one, value in zip(design.configurations, values, strict=True)
        ]
        front = statistics.pareto_front([(point.cost, point.loss.mean) for point in points])
        rows += [[title, design.configurations[i].name, points[i].cost, points[i].loss] for i in front]
        words = f"Bits per byte against {title}"
        pictures[f"pareto_{cost}.png"] = Picture(words, partial(figures.costs, points, words, title))
    if rows:
        sentences = ["For each cost, those that no other one beats: none is as cheap and better."]
        yield Section("What a bit costs", sentences, Table("pareto", columns, rows), pictures)


def _curves(design):
    split = "validation" if all(_num_points(one) > 2 for one in design.configurations) else "train"
    lines = [_curve(one, design.title(one), split) for one in design.configurations]
    title = f"Learning curves: {'held-out' if split == 'validation' else 'training'} text"
    subtitle = "line: mean over seeds; band: lowest to highest seed"
    picture = Picture(title, partial(figures.curves, lines, title, subtitle))
    sentences = ["The last point is over all of the held-out text, those before it over a part."]
    return Section("Learning curves", sentences * (split == "validation"), None, {"learning_curves.png": picture})


def _scaling(found):
    columns = [Column("family"), Column("sizes", "d"), Column("runs", "d")]
    columns += [Column(name, ".4g", has_interval=True) for name in "abc"] + [Column("unit of N", ",.0f")]
    rows, drawn = [], {}
    for name, members in found:
        pairs = [
            (one.one.final["active_parameters"], bits) for one in members for bits in one.of("bits_per_byte").values()
        ]
        sizes, losses = zip(*sorted(pairs), strict=True)
        enough = len(set(sizes)) >= scaling.FEWEST_SIZES
        law = scaling.fit(sizes, losses) if enough else None
        drawn[name or "all"] = sizes, losses, law
        numbers = [law.a, law.b, law.c, law.unit] if law else [None] * 4
        rows.append([name or "all", len(set(sizes)), len(sizes), *numbers])
    sentences = [
        "Bits per byte = a + b (N / unit)^-c of N active parameters, by least squares; 95% intervals by bootstrap of "
        f"residuals. Fewer than {scaling.FEWEST_SIZES} sizes are drawn and not fitted.",
    ]
    title = "Bits per byte against size"
    picture = Picture(title, partial(figures.scaling, drawn, title))
    return Section("Scaling", sentences, Table("scaling", columns, rows), {"scaling.png": picture})


def _fields(design):
    names = [name for name in design.base.values if len({str(o.values[name]) for o in design.configurations}) > 1]
    columns = [Column("configuration"), *map(Column, names)]
    rows = [[one.name, *map(one.values.get, names)] for one in design.configurations]
    return Section("What they differ in", [], Table("fields", columns, rows))


def _runs(design, left_out):
    columns = [Column("run"), Column("configuration"), Column("seed", "d"), Column(_BITS, ".4f"), Column(_NATS, ".4f")]
    columns += [Column("training seconds", ",.0f"), Column("status")]
    rows = [
        [run.path, one.name, seed, run.final["bits_per_byte"], run.final["loss"], run.seconds, "finished"]
        for one in design.configurations
        for seed, run in one.runs.items()
    ]
    sentences = [f"Finished, and counted: {len(rows)}."]
    rows += [[path, None, None, None, None, None, reason] for path, reason in left_out.items()]
    if left_out:
        named = "; ".join(f"{path} ({reason})" for path, reason in left_out.items())
        sentences.append(f"Left out: {named}.")
    return Section("Runs", sentences, Table("runs", columns, rows))


def _cost(configuration, cost):
    """None where the runs do not say."""
    values = [run.final.get(cost, getattr(run, cost, None)) for run in configuration.runs.values()]
    return None if None in values else float(np.mean(values))


def _paired(one, other, metric):
    """The difference of runs with the same seed; None where there is no such pair."""
    mine, theirs = one.of(metric), other.of(metric)
    differences = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    return statistics.estimate(differences) if differences else None


def _corrected(estimates):
    """Holm's p values; None where there is none."""
    known = [one.p for one in estimates if one is not None and one.p is not None]
    corrected = iter(statistics.holm(known))
    return [None if one is None or one.p is None else next(corrected) for one in estimates]


def _points(run: Run, split):
    return {
        record["step"]: record["bits_per_byte"]
        for record in run.records
        if record["split"] == split and record.get("bits_per_byte") is not None
    }


def _num_points(configuration):
    return min(len(_points(run, "validation")) for run in configuration.runs.values())


def _curve(configuration, name, split):
    by_seed = [_points(run, split) for run in configuration.runs.values()]
    steps = sorted(set.intersection(*map(set, by_seed)))
    values_SR = np.array([[points[step] for points in by_seed] for step in steps])
    means = [math.fsum(row) / len(row) for row in values_SR]
    return figures.Curve(name, steps, means, list(values_SR.min(1)), list(values_SR.max(1)))
