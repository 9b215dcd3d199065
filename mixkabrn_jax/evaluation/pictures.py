"""Where a model finds text hard, as pictures: by position and by domain, and token by token in colours."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.evaluation.score import Piece

MOST_TOKENS = 50_000
"""Of a document are shown: a page of more is too heavy for a browser."""
_MOST_BITS = 12
"""A token that costs so much, or more, has the full colour."""
_FULL = (228, 87, 46)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.7 ui-monospace, monospace; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222;
  background: #fff; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; }}
i {{ font-style: normal; border-radius: 2px; }}
.scale i {{ padding: 0 .6em; }}
{colours}
</style></head><body>
<h1>{title}</h1>
<p class="scale">Bits of a token, given all before it: {scale}. The pointer on a token shows its own.</p>
<pre>
"""


def bits_by_position(positions: Sequence[Mapping], path: Path, *, both: bool = True) -> None:
    """Writes a PNG of bits per byte against the position in the document.

    Args:
        positions: of `tasks.bits_per_byte`.
        both: the windowed figures too, where they are others.
    """
    figure, axes = _figure()
    # A bin is drawn in its middle, as a logarithm has it; the first begins at 0.
    middles = [math.sqrt(max(one["from"], one["to"] / 4) * one["to"]) for one in positions]
    axes.plot(middles, [one["bits_per_byte"] for one in positions], "o-", label="state carried" if both else None)
    if both:
        axes.plot(middles, [one["windowed_bits_per_byte"] for one in positions], "s--", label="windows as trained")
        axes.legend()
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("bytes from the start of the document")
    axes.set_ylabel("bits per byte")
    figure.savefig(path, dpi=120)


def bits_by_domain(domains: Mapping[str, Mapping], overall: float, path: Path) -> None:
    """Writes a PNG of a bar for each domain, the hardest one on top, and a line for all of them together."""
    figure, axes = _figure(height=1.6 + 0.3 * len(domains))
    names = sorted(domains, key=lambda name: domains[name]["bits_per_byte"])
    bars = axes.barh([name or "(no domain)" for name in names], [domains[name]["bits_per_byte"] for name in names])
    axes.bar_label(bars, fmt="%.3f", label_type="center", color="white")
    axes.axvline(overall, color="black", linewidth=1, linestyle="--")
    axes.set_title(f"overall {overall:.3f}", fontsize="medium")
    axes.set_xlabel("bits per byte")
    figure.savefig(path, dpi=120)


def text_in_colours(pieces: Iterable[Piece], tokenizer: Tokenizer, path: Path) -> None:
    """Writes a page that shows a document with each token in the colour of what it costs; it needs nothing besides.

    Args:
        pieces: of one document, as a scorer gives them; they are written as they come, and no more are asked for than
            are shown. Tokens within one character are shown, and counted, together.
    Raises: ValueError where there is none.
    """
    pieces = iter(pieces)
    if (piece := next(pieces, None)) is None:
        raise ValueError("there is no document to show")
    title = html.escape(piece.document.id)
    scale = " ".join(f'<i class="b{bits}">{bits}</i>' for bits in range(0, _MOST_BITS + 1, 2))
    colours = "\n".join(f".b{bits} {{ background: {_colour(bits)}; }}" for bits in range(_MOST_BITS + 1))
    decoder, bits, total_bits, num_bytes, num_tokens = tokenizer.stream_decoder(), 0.0, 0.0, 0, 0
    with path.open("w", encoding="utf-8") as file:
        file.write(_PAGE.format(title=title, scale=scale, colours=colours))
        while piece is not None:
            shown = slice(0, MOST_TOKENS - num_tokens)
            for token, nats in zip(piece.tokens_T[shown], piece.nats_T[shown], strict=True):
                bits += float(nats) / math.log(2)
                num_bytes += len(tokenizer.piece(int(token)))
                if text := decoder.decode(int(token)):
                    file.write(_token(text, bits))
                    total_bits, bits = total_bits + bits, 0.0
            num_tokens += len(piece.tokens_T[shown])
            is_cut = num_tokens == MOST_TOKENS
            piece = None if is_cut or piece.separator_nats is not None else next(pieces)
        file.write(_token(decoder.finish(), bits))
        per_byte = (total_bits + bits) / max(num_bytes, 1)
        first = "its first " if is_cut else ""
        file.write(f"</pre>\n<p>{per_byte:.3f} bits per byte over {first}{num_bytes:,} bytes.</p></body></html>\n")


def _token(text, bits):
    """A line end is shown as an arrow before it."""
    shown = html.escape(text).replace("\n", "\u21b5\n")
    return f'<i class="b{min(max(round(bits), 0), _MOST_BITS)}" title="{bits:.1f}">{shown}</i>' if text else ""


def _colour(bits):
    """White for nothing, to the full colour."""
    share = bits / _MOST_BITS
    return "#" + "".join(f"{round(255 + (full - 255) * share):02x}" for full in _FULL)


def _figure(height=4.5):
    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes
