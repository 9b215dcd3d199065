"""What a sweep found, from the files its trials wrote: a table for people and one for programs."""

import csv
import io
import re
import signal
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from experiments.sweeping.trials import Trial
from mixkabrn_jax.runs import metrics
from mixkabrn_jax.runs.workdir import write_atomically

_FORMATS = {
    "parameters": ",",
    "active_parameters": ",",
    "file_bytes": ",",
    "validation_loss": ".4f",
    "bits_per_byte": ".4f",
    "tokens_per_second": ",.0f",
    "flops": ".3e",
}
_ERROR_WIDTH = 100
_ERROR_LINE = re.compile(r"error: |(\w+\.)*\w*(Error|Exception|Interrupt|Exit)(: |$)")


@dataclass(frozen=True)
class Row:
    """A trial's line in the tables; the fields are the columns, and None is an empty cell."""

    trial: str
    overrides: str
    status: str
    """complete, failed or pending."""
    parameters: int | None
    active_parameters: int | None
    """For one token."""
    file_bytes: int | None
    """Of the model in a file, with its codes packed."""
    steps: int
    validation_loss: float | None
    """Nats per token over all of the validation data, after the last step; this and the next only when complete."""
    bits_per_byte: float | None
    tokens_per_second: float | None
    """Median over the records of training: compilation and pauses weigh nothing."""
    error: str
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """What else the sweep is read by: columns in front of the error."""

    def columns(self) -> dict:
        """The values of a line by the names of their columns."""
        own = {each.name: getattr(self, each.name) for each in fields(self)[:-2]}
        return {**own, **self.metrics, "error": self.error}


def read(trial: Trial, error: str = "") -> Row:
    """The row of a trial as its workdir says; `error` is how a process of it ended, "" when it ended well."""
    records = _records(trial)
    final = metrics.final(records, trial.num_steps)
    speeds = [record["tokens_per_second"] for record in records if record["split"] == "train"]
    return Row(
        trial=trial.name,
        overrides=" ".join(f"{field}={value}" for field, value in trial.overrides.items()),
        status="complete" if final else "failed" if error else "pending",
        parameters=final and final["parameters"],
        active_parameters=final and final["active_parameters"],
        file_bytes=final and final.get("file_bytes"),
        steps=max((record["step"] for record in records), default=0),
        validation_loss=final and final["loss"],
        bits_per_byte=final and final["bits_per_byte"],
        tokens_per_second=statistics.median(speeds) if speeds else None,
        error=error,
        metrics=_metrics(trial, records, final),
    )


def _metrics(trial, records, final):
    """What the sweep declares and is no column anyway, of the last evaluation or else of the last record of training;
    and the flops that trials have in common, which no record holds."""
    training = [record for record in records if record["split"] == "train"]
    last = {**(training[-1] if training else {}), **final} if final else {}
    known = {each.name for each in fields(Row)}
    found = {name: last.get(name) for name in trial.metrics if name not in known}
    if trial.equality is not None and trial.equality.quantity == "flops":
        found["flops"] = trial.equality.value
    return found


def is_complete(trial: Trial) -> bool:
    """Whether the evaluation after the last step, training's last record, is there."""
    return metrics.final(_records(trial), trial.num_steps) is not None


def find_error(output: str, exit_code: int) -> str:
    """One line that says why a process failed, from what it wrote: the error that ended it, or its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # What ends a module's main thread has passed through runpy; what background threads then die of is of no interest.
    _, is_main, tail = output.rpartition('File "<frozen runpy>"')
    errors = [line for line in tail.splitlines() if _ERROR_LINE.match(line)]
    if errors and exit_code >= 0:
        return errors[0 if is_main else -1].strip().removeprefix("error: ")
    how = f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
    return f"{how}; last line: {lines[-1]}" if lines else how


def write(folder: Path, rows: Sequence[Row], command: str) -> None:
    """`results.csv`, and `results.md` with the command that made it; each whole or not at all."""
    text = io.StringIO()
    table = csv.DictWriter(text, _names(rows), lineterminator="\n")
    table.writeheader()
    table.writerows(row.columns() for row in rows)
    write_atomically(folder / "results.csv", text.getvalue())
    write_atomically(folder / "results.md", f"    {command}\n\n{markdown(rows)}")


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, with columns in line for those who read it as plain text."""
    names = _names(rows)
    cells = [[name.replace("_", " ") for name in names]]
    cells += [[_cell(name, value) for name, value in row.columns().items()] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    is_text = {each.name for each in fields(Row) if each.type is str}
    is_number = [name not in is_text for name in names]

    def line(texts):
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, is_number, strict=True)
        ]
        return f"| {' | '.join(padded)} |\n"

    separator = [
        "-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, is_number, strict=True)
    ]
    return "".join([line(cells[0]), line(separator), *map(line, cells[1:])])


def _names(rows):
    """The columns; without rows, as a search begins, those that every table has."""
    return list(rows[0].columns()) if rows else [each.name for each in fields(Row)[:-1]]


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    text = " ".join(format(value, _FORMATS.get(name, ".4g" if isinstance(value, float) else "")).split())
    if name == "error" and len(text) > _ERROR_WIDTH:  # the whole of it is in results.csv and in the trial's log
        text = text[: _ERROR_WIDTH - 3] + "..."
    return re.sub(r"([\\|<])", r"\\\1", text)  # a bar would end the cell, and `<class 'int'>` would be a tag


def _records(trial: Trial) -> list[dict]:
    path = trial.workdir / "metrics.jsonl"
    try:
        return metrics.read(path) if path.exists() else []
    except ValueError:
        return []  # the trial counts as incomplete, so training reads the file next, and fails with what is wrong in it
