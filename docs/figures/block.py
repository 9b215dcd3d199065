"""Draws one block of the model, as in configs/lm.py: python docs/figures/block.py [--out=block.png]

Mosaics are ternary matrices, plain boxes are float32. Letters are those of README, "The shape is in the name".
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

INK, GREY, PANEL = "#1f2937", "#6b7280", "#f6f7f9"
CODES = {-1: "#f2b880", 0: "#fbfaf7", 1: "#8fbcd4"}
SPLINES = ("#2a6f97", "#c8553d", "#588157", "#8d6a9f", "#b08900")
TIMES = "\N{MULTIPLICATION SIGN}"
STREAM = 0.6  # where the residual stream runs down


class Drawing:
    """Boxes, mosaics and arrows on one pair of axes in inches."""

    def __init__(self, width, height):
        self.figure = Figure(figsize=(width, height), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()
        self.random = np.random.default_rng(3)

    def text(self, x, y, text, size=10.5, color=INK, **options):
        options = {"ha": "center", "va": "center", "zorder": 8, **options}
        self.axes.text(x, y, text, fontsize=size, color=color, **options)

    def panel(self, x, y, width, height, *, face=PANEL, edge="#d7dbe0", order=0):
        style = "round,pad=0,rounding_size=0.12"
        patch = FancyBboxPatch((x, y), width, height, boxstyle=style, fc=face, ec=edge, lw=1.1, zorder=order)
        self.axes.add_patch(patch)

    def box(self, x, y, text, width=0.95, height=0.42, face="white"):
        """A float32 operation around (x, y)."""
        self.panel(x - width / 2, y - height / 2, width, height, face=face, edge=INK, order=5)
        self.text(x, y, text)

    def matrix(self, x, y, text, width=1.2, height=0.5):
        """A ternary matrix around (x, y): a mosaic of its codes."""
        rows, columns = 5, round(5 * width / height)
        codes = self.random.choice([-1, 0, 1], (rows, columns))
        left, bottom = x - width / 2, y - height / 2
        for (row, column), code in np.ndenumerate(codes):
            corner = left + column * width / columns, bottom + row * height / rows
            size = width / columns, height / rows
            self.axes.add_patch(Rectangle(corner, *size, fc=CODES[code], ec="white", lw=0.4, zorder=5))
        self.axes.add_patch(Rectangle((left, bottom), width, height, fc="none", ec=INK, lw=1.3, zorder=6))
        plate = {"boxstyle": "round,pad=0.16", "fc": "white", "ec": "none", "alpha": 0.88}
        if text:
            self.text(x, y, text, bbox=plate)

    def splines(self, x, y, text, width=1.2, height=0.62):
        """B-spline basis functions around (x, y), each a line of its own."""
        self.panel(x - width / 2, y - height / 2, width, height, face="white", edge=INK, order=5)
        place = np.linspace(0, 1, 121)
        for number, color in enumerate(SPLINES):
            u = np.abs(4 * place - number) * 1.25
            bump = (np.maximum(2 - u, 0) ** 3 - 4 * np.maximum(1 - u, 0) ** 3) / 6
            at_x, at_y = x - 0.45 * width + 0.9 * width * place, y - 0.4 * height + 0.52 * height * bump
            self.axes.plot(at_x, at_y, color=color, lw=1.5, zorder=7, solid_capstyle="round")
        self.text(x, y + 0.3 * height, text, size=9.5)

    def sign(self, x, y, sign, radius=0.15):
        self.axes.add_patch(Circle((x, y), radius, fc="white", ec=INK, lw=1.4, zorder=6))
        self.text(x, y - 0.01, sign, size=13)

    def line(self, *points, width=1.4, color=INK):
        self.axes.plot(*zip(*points, strict=True), color=color, lw=width, zorder=3, solid_joinstyle="round")

    def arrow(self, *points, width=1.4, color=INK):
        """Along the points; the last part ends in a head."""
        if len(points) > 2:
            self.line(*points[:-1], width=width, color=color)
        shape = {"arrowstyle": "-|>,head_width=0.26,head_length=0.5", "color": color, "lw": width}
        shape |= {"shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", points[-1], points[-2], arrowprops=shape, zorder=4)

    def letters(self, x, y, name, letters, **options):
        """An array's name with its letters below the line."""
        name = rf"${name}_{{\mathsf{{{letters}}}}}$" if name else rf"$\mathsf{{{letters}}}$"
        self.text(x, y, name, size=10.5, color="#2a6f97", **options)


def retention(draw, top):
    """The first branch; `top` is where it leaves the stream."""
    query, key, value, gate = (top + 0.72 - 0.62 * i for i in range(4))
    back = top - 2.0
    draw.panel(1.15, back - 0.5, 8.7, 3.82)
    draw.text(1.33, top + 1.12, "retention", size=12.5, ha="left", weight="bold")
    draw.arrow((STREAM, top), (1.38, top))
    draw.letters(0.96, top + 0.15, "x", "BTD")
    draw.box(1.85, top, "norm")
    draw.line((2.32, top), (2.55, top))
    draw.line((2.55, query), (2.55, gate))
    for y, name in ((query, "query"), (key, "key"), (value, "value"), (gate, "gate")):
        draw.arrow((2.55, y), (2.8, y))
        draw.matrix(3.4, y, name)
    for y, name, letters in ((query, "q", "BTHK"), (key, "k", "BTHK")):
        draw.arrow((4.0, y), (4.4, y))
        draw.arrow((5.25, y), (6.35, y))
        draw.letters(5.8, y + 0.15, name, letters)
    draw.box(4.82, (query + key) / 2, "rotate", width=0.85, height=1.02)
    draw.arrow((4.0, value), (6.35, value))
    draw.letters(5.8, value + 0.15, "v", "BTHV")
    draw.box(7.3, key, "", width=1.9, height=1.74, face="#fff8e6")
    draw.text(7.3, key + 0.5, "recurrence", weight="bold")
    draw.text(7.3, key + 0.06, r"$S_t = \gamma\, S_{t-1} + k_t v_t^{\top}$", size=11)
    draw.text(7.3, key - 0.38, r"$y_t = q_t\, S_t$", size=11)
    draw.arrow((8.72, query), (8.25, query))
    draw.box(9.2, query, r"decay $\gamma_{\mathsf{H}}$", width=0.96)
    draw.arrow((8.25, key), (9.62, key), color=GREY)
    draw.letters(8.95, key + 0.15, "S", "BHKV")
    draw.text(8.95, key - 0.17, "state, to the next\ntoken or chunk", size=8.8, color=GREY, va="top")
    draw.arrow((7.3, key - 0.87), (7.3, back), (6.98, back))
    draw.letters(7.66, back + 0.4, "y", "BTHV")
    draw.box(6.42, back, "head norm", width=1.12)
    draw.arrow((5.86, back), (5.5, back))
    draw.sign(5.35, back, TIMES)
    draw.arrow((4.0, gate), (4.4, gate))
    draw.box(4.82, gate, "silu", width=0.85)
    draw.arrow((5.25, gate), (5.35, gate), (5.35, back + 0.15))
    draw.letters(5.75, gate - 0.3, "g", "BTHV")
    draw.arrow((5.2, back), (4.98, back))
    draw.box(4.6, back, "norm", width=0.76)
    draw.arrow((4.22, back), (4.0, back))
    draw.matrix(3.4, back, "out")
    draw.arrow((2.8, back), (STREAM + 0.15, back))
    draw.letters(2.1, back + 0.15, "", "BTD")
    draw.sign(STREAM, back, "+")


def kan_layer(draw, x, y, letters):
    """Base matrix and splines of one KAN layer; x is where it begins. Returns where it ends."""
    draw.line((x, y), (x + 0.16, y))
    draw.line((x + 0.16, y + 0.42), (x + 0.16, y - 0.42))
    draw.arrow((x + 0.16, y + 0.42), (x + 0.34, y + 0.42))
    draw.matrix(x + 0.94, y + 0.42, "silu → base")
    draw.arrow((x + 0.16, y - 0.42), (x + 0.34, y - 0.42))
    draw.splines(x + 0.94, y - 0.42, "splines", height=0.66)
    draw.arrow((x + 1.54, y + 0.42), (x + 1.78, y + 0.42), (x + 1.78, y + 0.15))
    draw.arrow((x + 1.54, y - 0.42), (x + 1.78, y - 0.42), (x + 1.78, y - 0.15))
    draw.sign(x + 1.78, y, "+")
    draw.letters(x + 0.94, y - 0.91, "", letters)
    return x + 1.93


def experts(draw, top):
    """The second branch."""
    middle, gates, shared, back = top - 0.35, top - 1.72, top - 2.24, top - 2.86
    draw.panel(1.15, back - 0.4, 8.7, 4.24)
    draw.text(1.33, top + 0.76, "mixture of KAN experts", size=12.5, ha="left", weight="bold")
    draw.arrow((STREAM, middle), (1.38, middle))
    draw.letters(0.96, middle + 0.15, "x", "BTD")
    draw.box(1.85, middle, "norm")
    draw.arrow((2.32, middle), (2.6, middle))
    draw.box(3.05, middle, "router", width=0.9)
    for shift in (0.16, 0.08, 0):
        draw.panel(4.2 + shift, middle - 1.12 + shift, 4.92, 2.0, face="white", edge=GREY, order=1)
    draw.text(4.34, middle + 0.68, "one expert of E; each token is sent to N of them", size=9.5, color=GREY, ha="left")
    draw.arrow((3.5, middle), (4.2, middle))
    draw.letters(3.84, middle + 0.16, "", "RD")
    end = kan_layer(draw, 4.2, middle - 0.08, "GDF")
    draw.arrow((end, middle - 0.08), (6.36, middle - 0.08))
    draw.box(6.72, middle - 0.08, "norm", width=0.7)
    end = kan_layer(draw, 7.07, middle - 0.08, "GFD")
    draw.arrow((end, middle - 0.08), (9.5, middle - 0.08), (9.5, gates + 0.15))
    draw.line((3.05, middle - 0.21), (3.05, gates), (9.2, gates))
    draw.arrow((9.2, gates), (9.35, gates))
    draw.letters(3.62, gates + 0.15, "gates", "BTN")
    draw.sign(9.5, gates, TIMES)
    draw.line((2.45, middle), (2.45, shared))
    draw.arrow((2.45, shared), (4.2, shared))
    draw.panel(4.2, shared - 0.26, 4.92, 0.52, face="white", edge=GREY, order=1)
    draw.text(6.66, shared, "shared expert: built alike, and every token passes through it", size=9.8)
    draw.arrow((9.12, shared), (9.35, shared))
    draw.arrow((9.5, gates - 0.15), (9.5, shared + 0.15))
    draw.sign(9.5, shared, "+")
    draw.arrow((9.5, shared - 0.15), (9.5, back), (STREAM + 0.15, back))
    draw.letters(2.1, back + 0.15, "", "BTD")
    draw.sign(STREAM, back, "+")


def block():
    """The whole picture."""
    draw = Drawing(10, 9.15)
    first, second = 7.4, 3.65
    draw.arrow((STREAM, 9.05), (STREAM, 0.1), width=2.6)
    draw.text(STREAM - 0.32, 6.4, "residual stream", rotation=90, color=GREY, size=10)
    retention(draw, first)
    experts(draw, second)
    draw.matrix(1.5, 0.17, "", width=0.6, height=0.25)
    draw.text(
        1.95,
        0.17,
        "ternary matrix: codes -1, 0, 1 and one scale, times 8-bit activations; all else is float32",
        size=9.8,
        ha="left",
    )
    return draw.figure


def main(path):
    with matplotlib.rc_context(
        {"svg.hashsalt": "block", "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}
    ):
        figure = block()
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".svg"), help="an .svg or a .png")
    main(parser.parse_args().out)
