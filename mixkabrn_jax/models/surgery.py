"""Layers of a model found by the names of their paths, and changed there."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from flax import nnx

from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import IntegerLinear, Linear


def layers(model: nnx.Module, kinds: tuple[type, ...] = (Linear, KanLayer, IntegerLinear)) -> Iterator[tuple]:
    """(path, layer) for every layer of these kinds, in order; a path is like "routed_blocks.ffn.experts.up"."""
    for path, layer in nnx.iter_modules(model):
        if isinstance(layer, kinds):
            yield ".".join(str(part) for part in path), layer


def match(
    model: nnx.Module, patterns: Iterable[str], kinds: tuple[type, ...] = (Linear, KanLayer)
) -> dict[str, nnx.Module]:
    """The layers whose paths match any of the shell patterns, such as "*.mixer.*", by path.

    Raises: ValueError for a pattern that matches no layer.
    """
    there = dict(layers(model, kinds))
    found = {}
    for pattern in patterns:
        matched = {path: layer for path, layer in there.items() if fnmatchcase(path, pattern)}
        if not matched:
            raise ValueError(f"patterns: {pattern!r} matches no layer; there are {', '.join(there)}")
        found |= matched
    return found


def copy(model: nnx.Module) -> nnx.Module:
    """A new tree of modules over the same arrays: what is changed in it leaves the old one as it is."""
    return nnx.merge(*nnx.split(model))


def replace(model: nnx.Module, path: str, layer: nnx.Module) -> None:
    """Puts a layer in the place of the one at a path of `layers`; in place, so of a `copy`."""
    *parents, name = path.split(".")
    owner = model
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, layer)
