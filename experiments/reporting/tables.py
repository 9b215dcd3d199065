"""A table in three forms: CSV with every digit for programs, Markdown and HTML for people."""

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.reporting.statistics import Estimate


@dataclass(frozen=True)
class Column:
    """A column, and how people see its numbers."""

    name: str
    format: str = ""
    """Of a number, as Python's `format`; "" for a text."""
    has_interval: bool = False
    """Its cells are estimates: in CSV three columns, `name`, `name low` and `name high`."""


@dataclass(frozen=True)
class Table:
    """Rows of cells: texts, numbers, estimates, and None where nothing is known."""

    name: str
    """Of its files."""
    columns: Sequence[Column]
    rows: Sequence[Sequence]


def to_csv(table: Table) -> str:
    """The table with a line of headings, every digit of its numbers, and empty cells for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("", " low", " high")
    writer.writerow(
        column.name + part for column in table.columns for part in (parts if column.has_interval else parts[:1])
    )
    for row in table.rows:
        writer.writerow(
            value for column, cell in zip(table.columns, row, strict=True) for value in _values(column, cell)
        )
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """The table with columns in line for those who read it as plain text."""
    cells = [[column.name for column in table.columns]]
    cells += [[re.sub(r"([\\|<])", r"\\\1", text) for text in row] for row in _texts(table)]
    # At least three: a colon alone is no ruler.
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(table.columns))]
    is_number = [bool(column.format) for column in table.columns]
    ruler = ["-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, is_number, strict=True)]
    padded = [
        [text.rjust(width) if right else text.ljust(width) for text, width, right in zip(*row, strict=True)]
        for row in ((row, widths, is_number) for row in cells)
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in (padded[0], ruler, *padded[1:]))


def to_html(table: Table) -> str:
    """The table in a box of its own that scrolls sideways where the page is narrow."""
    kinds = ['class="number"' if column.format else "" for column in table.columns]

    def line(tag, texts):
        cells = [
            f"<{tag} {kind}".rstrip() + f">{_breakable(text)}</{tag}>" for kind, text in zip(kinds, texts, strict=True)
        ]
        return f"<tr>{''.join(cells)}</tr>\n"

    head = line("th", [column.name for column in table.columns])
    body = "".join(line("td", row) for row in _texts(table))
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody></table></div>\n'


def figure(value: float | Estimate | None, spec: str) -> str:
    """A number for people; an estimate as `1.447 ± 0.003`, or with its ends where they are not alike."""
    if value is None:
        return ""
    if not isinstance(value, Estimate):
        return format(value, spec)
    if value.low is None:
        return format(value.mean, spec)
    below, above = value.mean - value.low, value.high - value.mean
    if abs(below - above) <= 1e-9 * max(abs(value.mean), above):
        return f"{value.mean:{spec}} ± {above:{spec.replace('+', '')}}"
    return f"{value.mean:{spec}} ({value.low:{spec}} to {value.high:{spec}})"


def _breakable(text):
    """A long name may go on in the next line behind a comma and between folders."""
    return re.sub(r"([,/])(?=\D)", r"\1<wbr>", html.escape(text))


def _values(column, cell):
    if not column.has_interval:
        return ["" if cell is None else cell]
    return ["" if value is None else value for value in ((cell.mean, cell.low, cell.high) if cell else (None,) * 3)]


def _texts(table):
    return [
        [
            figure(cell, column.format) if column.format else "" if cell is None else str(cell)
            for column, cell in zip(table.columns, row, strict=True)
        ]
        for row in table.rows
    ]
