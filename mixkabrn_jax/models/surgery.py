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
    return _match(dict(layers(model, kinds)), patterns, "layer")


def matrices(model: nnx.Module) -> dict[str, nnx.Variable | nnx.Module]:
    """The matrices of layers and the embedding by the names that they have in a model's file, such as
    "routed_blocks.mixer.query.kernel"; each a variable, or a module of `layers.frozen` in its place."""
    found = {name: table for name in ("embedding_WD", "head_WD") if (table := getattr(model, name)) is not None}
    for path, layer in layers(model, (Linear, KanLayer)):
        names = ("kernel",) if isinstance(layer, Linear) else ("base", "spline")
        found |= {f"{path}.{name}": getattr(layer, name) for name in names}
    return found


def match_matrices(model: nnx.Module, patterns: Iterable[str]) -> dict[str, nnx.Variable | nnx.Module]:
    """The `matrices` whose names match any of the shell patterns. Raises: as `match`."""
    return _match(matrices(model), patterns, "matrix")


def _match(there, patterns, kind):
    found = {}
    for pattern in patterns:
        matched = {path: layer for path, layer in there.items() if fnmatchcase(path, pattern)}
        if not matched:
            raise ValueError(f"patterns: {pattern!r} matches no {kind}; there are {', '.join(there)}")
        found |= matched
    return found


def copy(model: nnx.Module) -> nnx.Module:
    """A new tree of modules over the same arrays: what is changed in it leaves the old one as it is."""
    return nnx.merge(*nnx.split(model))


def replace(model: nnx.Module, path: str, layer: nnx.Module | nnx.Variable) -> None:
    """Puts a layer or variable in the place of the one at a path; in place, so of a `copy`."""
    *parents, name = path.split(".")
    owner = model
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, layer)
