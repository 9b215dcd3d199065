"""The pictures of a report: narrow, so that a phone shows words as large as its own; clear without colours."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.reporting import tables
from experiments.reporting.statistics import Estimate, pareto_front

_WIDTH, _ROW, _LINE = 5.2, 0.43, 0.165  # inches: of a figure, of a row with its name above it, of a line of a legend
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00")  # Okabe and Ito 2008
_STYLES = ("-", "--", "-.", ":")
_GREY = "#666666"
_LONGEST = 58
"""Letters of a name that fit beside its figure."""


@dataclass(frozen=True)
class Row:
    """A line of a forest plot."""

    name: str
    estimate: Estimate
    seeds: Sequence[float] = ()
    is_full: bool = True
    """A full dot; a hollow one is not told apart from 0."""


@dataclass(frozen=True)
class Point:
    """A configuration in a picture of costs."""

    name: str
    cost: float
    loss: Estimate


@dataclass(frozen=True)
class Curve:
    """Loss against steps: the mean over seeds, and the lowest and highest of them."""

    name: str
    steps: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def forest(rows: Sequence[Row], title: str, subtitle: str, x_label: str, spec: str, path: Path) -> None:
    """Writes a PNG of estimates with their intervals, each name and figure above its own; "+" in spec draws a 0."""
    figure, axes = _figure(title, subtitle, 1.05 + _ROW * len(rows))
    if "+" in spec:
        axes.axvline(0, color="black", linewidth=1)
    for place, row in enumerate(rows):
        y, one = -place, row.estimate
        axes.plot(row.seeds, [y] * len(row.seeds), "|", color=_GREY, markersize=9, markeredgewidth=1)
        if one.low is not None:
            axes.plot([one.low, one.high], [y, y], color=_COLOURS[0], linewidth=2, solid_capstyle="butt")
        axes.plot([one.mean], [y], "o", color=_COLOURS[0], markerfacecolor=_COLOURS[0] if row.is_full else "white")
        above = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8, "in_layout": False}
        above["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        name = row.name if len(row.name) <= _LONGEST else f"{row.name[: _LONGEST - 3]}..."  # the table has all of it
        axes.text(0, y + 0.45, name, ha="left", **above)
        axes.text(1, y + 0.45, tables.figure(one, spec), ha="right", **above)
    axes.set_ylim(-len(rows) + 0.55, 0.8)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_xlabel(x_label)
    _save(figure, path)


def costs(points: Sequence[Point], title: str, x_label: str, path: Path) -> None:
    """Writes a PNG of loss against a cost, with the line of those that no other one beats; numbers are ranks."""
    front = pareto_front([(point.cost, point.loss.mean) for point in points])
    names = [f"{i + 1}  {point.name}" for i, point in enumerate(points)]
    figure, axes = _figure(title, "left and low is better; line: no other one beats these", 3.4, names, has_lines=False)
    for i, point in enumerate(points):
        if point.loss.low is not None:
            axes.plot([point.cost] * 2, [point.loss.low, point.loss.high], color=_GREY, linewidth=1, zorder=2)
        face = _COLOURS[0] if i in front else "white"
        axes.plot([point.cost], [point.loss.mean], "o", color=_COLOURS[0], markerfacecolor=face, zorder=3)
    x_line, y_line = zip(*[(points[i].cost, points[i].loss.mean) for i in front], strict=True)
    axes.step(x_line, y_line, "-", where="post", color=_COLOURS[0], linewidth=1)
    least, most = min(point.cost for point in points), max(point.cost for point in points)
    if most > 10 * least > 0:
        axes.set_xscale("log")
    axes.margins(0.08, 0.12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.set_xlabel(x_label)
    axes.set_ylabel("bits per byte")
    _place(axes, [(point.cost, point.loss.mean) for point in points])
    _save(figure, path)


def curves(lines: Sequence[Curve], title: str, subtitle: str, path: Path) -> None:
    """Writes a PNG of learning curves, from a tenth of their length on, with their numbers at their ends."""
    names = [f"{i + 1}  {line.name}" for i, line in enumerate(lines)]
    figure, axes = _figure(title, subtitle, 3.6, names)
    tops, bottoms = [], []
    for i, line in enumerate(lines):
        colour, style = _line(i)
        axes.plot(line.steps, line.mean, style, color=colour, linewidth=1.4)
        axes.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        late = [step >= line.steps[-1] / 10 for step in line.steps]
        tops.append(max(high for high, is_late in zip(line.high, late, strict=True) if is_late))
        bottoms.append(min(line.low))
    room = (max(tops) - min(bottoms) or 1) * 0.04
    axes.set_ylim(min(bottoms) - room, max(tops) + room)
    axes.set_xlim(0, max(line.steps[-1] for line in lines))
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte")
    _label_ends(axes, [(line.steps[-1], line.mean[-1]) for line in lines])
    _save(figure, path)


def scaling(families: Mapping, title: str, path: Path) -> None:
    """Writes a PNG of loss against size for each family: {name: (sizes, losses of runs, law or None)}."""
    figure, axes = _figure(title, "dots: runs; lines: a + b N^-c", 3.4, list(families))
    for i, (sizes, losses, law) in enumerate(families.values()):
        colour, style = _line(i)
        axes.plot(sizes, losses, "osD^v<>"[i % 7], color=colour, markerfacecolor="white", markersize=5)
        if law is not None:
            grid = np.geomspace(min(sizes), max(sizes), 100)
            axes.plot(grid, law(grid), style, color=colour, linewidth=1.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.set_xlabel("active parameters N")
    axes.set_ylabel("bits per byte")
    _save(figure, path)


def _figure(title, subtitle, height, legend=(), *, has_lines=True):
    """A figure with a title, and below its axes a list of names, each with its line."""
    entries = [_wrapped(name, 74, indent="    ") for name in legend]
    below = _LINE * sum(map(len, entries)) + 0.05
    figure = Figure(figsize=(_WIDTH, height + (below if entries else 0)), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    figure.suptitle("\n".join(_wrapped(title, 52)), fontsize=10, fontweight="bold", x=0.01, ha="left")
    if entries:
        axes, names = figure.subplots(2, 1, height_ratios=[height, below])
        names.axis("off")
        names.set_ylim(-below, 0)
        names.set_xlim(0, 1)
        y = -_LINE / 2
        for i, lines in enumerate(entries):
            colour, style = _line(i)
            names.plot([0, 0.055] if has_lines else [], [y, y] if has_lines else [], style, color=colour, linewidth=1.4)
            for line in lines:
                names.text(0.075 if has_lines else 0, y, line, fontsize=7.5, va="center")
                y -= _LINE
    else:
        axes = figure.subplots()
    lines = [line for part in subtitle.splitlines() for line in _wrapped(part, 74)]
    axes.set_title("\n".join(lines), fontsize=8, color=_GREY, loc="left")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_size(9)
    axes.yaxis.label.set_size(9)
    return figure, axes


def _wrapped(text, width, indent=""):
    """Lines that break behind the commas of names, too."""
    lines = textwrap.wrap(text.replace(",", ", "), width, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace(", ", ",") for line in lines]


def _line(i):
    """Colour and style of a line; 28 differ, and neighbours do in grey."""
    return _COLOURS[i % len(_COLOURS)], _STYLES[i % len(_STYLES)]


def _label_ends(axes, ends):
    """A number beside each line's end, moved up or down where it would hide another."""
    low, high = axes.get_ylim()
    order = sorted(range(len(ends)), key=lambda i: ends[i][1])
    places, gap = [(ends[i][1] - low) / (high - low) for i in order], 0.04
    for j in range(1, len(places)):
        places[j] = max(places[j], places[j - 1] + gap)
    if places[-1] > 1:
        places[-1] = 1
        for j in reversed(range(len(places) - 1)):
            places[j] = min(places[j], places[j + 1] - gap)
    for i, place in zip(order, places, strict=True):
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": _GREY}
        axes.annotate(str(i + 1), ends[i], (1.05, place), textcoords=axes.transAxes, annotation_clip=False, fontsize=8)
        axes.texts[-1].set(va="center")
        axes.annotate("", ends[i], (1.045, place), textcoords=axes.transAxes, annotation_clip=False, arrowprops=line)


def _place(axes, points):
    """A number beside each point, on the first side where it hides neither a point nor another number."""
    axes.figure.draw_without_rendering()
    scale = axes.figure.dpi / 72
    pixels = axes.transData.transform(points) / scale
    taken = [(x, y, 8, 8) for x, y in pixels]  # middle, width and height
    for i, (x, y) in enumerate(pixels):
        sides = [(r * dx, r * dy) for r in (9, 15, 21, 28) for dx, dy in ((1, 0), (0, 1), (0, -1), (-1, 0))]
        boxes = [(x + dx, y + dy, 5.5 * len(str(i + 1)), 8) for dx, dy in sides]
        free = [
            side for side, box in zip(sides, boxes, strict=True) if not any(_overlap(box, other) for other in taken)
        ]
        side = free[0] if free else sides[0]
        taken.append(boxes[sides.index(side)])
        axes.annotate(str(i + 1), points[i], side, textcoords="offset points", ha="center", va="center", fontsize=8)


def _overlap(one, other):
    return all(abs(one[i] - other[i]) < (one[i + 2] + other[i + 2]) / 2 for i in (0, 1))


def _short(value):
    """12_500_000 as `12.5 M`."""
    for size, letter in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def _save(figure, path):
    figure.savefig(path, dpi=150, metadata={"Software": None})  # the same bytes from the same runs
