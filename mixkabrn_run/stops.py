"""Texts that end a continuation, found in what is streamed."""

import re
from collections.abc import Iterable, Iterator, Sequence

_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The text of pieces before the first stop that is whole in it, however it is cut; of two at once, the longer one.

    A piece comes as soon as it cannot be the beginning of a stop. Once one is found no more pieces are asked for.

    Returns: what a `yield from` of it gives is the stop that came, or "".
    Raises: ValueError, at the call, for a stop that is empty, and for a text in place of a list of them.
    """
    if isinstance(stops, str) or "" in stops:
        raise ValueError(f"stop={stops!r}: a list of texts is needed, none of them empty")
    return _until(pieces, stops)


def _until(pieces, stops):
    held = ""
    for piece in pieces:
        held += piece
        found = [(start + len(stop), start) for stop in stops if (start := held.find(stop)) >= 0]
        ready = min(found)[1] if found else len(held) - _begun(held, stops)
        if ready:
            yield held[:ready]
        if found:
            end, start = min(found)
            return held[start:end]
        held = held[ready:]
    if held:
        yield held
    return ""


def _begun(text, stops):
    """How many characters at the end of a text may become a stop."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


def unescape(text: str) -> str:
    r"""A text of a command line, where \n, \t and \\ stand for a new line, a tab and a backslash."""
    return re.sub(r"\\([nt\\])", lambda found: _ESCAPES[found[1]], text)
