"""The loss curve of a run as a picture."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot(records: list[dict], path: Path) -> None:
    """Writes a PNG of bits per byte against steps for every split in the records of `metrics.jsonl`."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    axes = figure.add_subplot()
    for split, style in (("train", "-"), ("validation", "o-")):
        points = [(record["step"], record["bits_per_byte"]) for record in records if record["split"] == split]
        points = [(step, bits) for step, bits in points if bits is not None]  # null: a record of skipped updates alone
        if points:
            axes.plot(*zip(*points, strict=True), style, label=f"{split} (last {points[-1][1]:.3f})", markersize=4)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=120)
