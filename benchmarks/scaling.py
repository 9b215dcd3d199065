"""Curves of what a training step costs: against tokens, length, experts, depth and width, beside a straight line.

    python -m benchmarks.scaling          # writes benchmarks/results/scaling.png and scaling.json

All of configs/lm.py:tiny but for what is on the axis; milliseconds are medians, models are timed in turns.
"""

import argparse
import json
import pathlib

RESULTS = pathlib.Path(__file__).parent / "results"
SORTED = {"model.router.dispatch": "sorted"}
AXES = {
    "rows of 256 tokens": {rows: {"data.batch_size": rows} for rows in (2, 4, 8, 16)},
    "length, 2048 tokens in all": {
        length: {"data.sequence_length": length, "data.batch_size": 2048 // length} for length in (128, 512, 2048)
    },
    "length with attention": {
        length: {"data.sequence_length": length, "data.batch_size": 2048 // length, "model.mixer": "attention"}
        for length in (128, 512, 2048)
    },
    "experts, two of them a token": {
        experts: {"model.num_experts": experts, "model.expert_width": 32, **SORTED} for experts in (4, 16, 64)
    },
    "layers": {layers: {"model.num_layers": layers} for layers in (2, 4, 8)},
    "width": {width: {"model.d_model": width} for width in (64, 128, 256)},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    # Only here, so that --help is answered at once: JAX comes with them.
    from benchmarks.cases import models
    from benchmarks.measure import Case, measure
    from mixkabrn_jax import host

    host.keep_freed_memory()
    curves = {}
    for axis, points in AXES.items():
        first, *_ = points
        case = Case(
            [models.lm_step("ours" if at == first else "part", str(at), **changes) for at, changes in points.items()]
        )
        curves[axis] = {int(row.name): row.milliseconds for row in measure(axis, case, turns=9)}
        print(axis, {at: round(value) for at, value in curves[axis].items()}, flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scaling.json").write_text(json.dumps(curves, indent=1) + "\n")
    _plot(curves, RESULTS / "scaling.png")


def _plot(curves, path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    for axes, (axis, points) in zip(figure.subplots(2, 3).flat, curves.items(), strict=True):
        at, milliseconds = list(points), list(points.values())
        axes.loglog(at, milliseconds, "o-", label="a step")
        axes.loglog(at, [milliseconds[-1] * x / at[-1] for x in at], ":", color="gray", label="in proportion")
        axes.set_xticks(at, [str(x) for x in at], minor=False)
        axes.minorticks_off()
        ticks = sorted({round(milliseconds[0]), round(milliseconds[-1])})
        axes.set_yticks(ticks, [str(y) for y in ticks])
        axes.set_xlabel(axis)
        axes.set_ylabel("ms a step")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
