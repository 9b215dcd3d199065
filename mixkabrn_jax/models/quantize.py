"""A trained model's matrices in another number format, and what their codes look like."""

import dataclasses
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import KINDS, QUANTIZERS, IntegerLinear, Linear, by_basis, over_matrices
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.ops import ternary


class WeightStatistics(NamedTuple):
    """Of a model's quantised matrices, each counted once whatever its size."""

    zeros: jax.Array
    """Share of codes that are 0."""
    flips: jax.Array
    """Share of codes that an update changed."""
    scale: jax.Array


def quantize(model: LanguageModel, kind: str, patterns: Iterable[str]) -> LanguageModel:
    """The model with some of its matrices in another number format; their trained weights are kept as they are.

    Embedding, head, norms and router never change, nor do spline coefficients: a `KanLayer` changes its base matrix.

    Args:
        kind: one of `KINDS`; where all layers have it in the end, so does the model's config.
        patterns: shell patterns of layers' paths such as "routed_blocks.ffn.experts.up" or "*.mixer.*".
    Raises: ValueError for an unknown kind, and for a pattern that matches no layer.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: one of {KINDS} is needed")
    model = nnx.merge(*nnx.split(model))  # a new tree over the same arrays
    layers = dict(_layers(model))
    for pattern in patterns:
        matched = [path for path in layers if fnmatchcase(path, pattern)]
        if not matched:
            raise ValueError(f"patterns: {pattern!r} matches no layer; there are {', '.join(layers)}")
        for path in matched:
            layers[path].kind = kind
    if all(layer.kind == kind for layer in layers.values()):
        model.config = dataclasses.replace(model.config, linear=kind)
    return model


def to_integers(model: LanguageModel) -> LanguageModel:
    """The model with every quantised `Linear` as an `IntegerLinear`, for evaluation; KAN layers stay as they are.

    Raises: ValueError when no layer is quantised.
    """
    model = nnx.merge(*nnx.split(model))
    quantised = [(path, layer) for path, layer in _layers(model) if isinstance(layer, Linear) and layer.kind != "dense"]
    if not quantised:
        raise ValueError("no Linear of this model is quantised: quantize(model, 'ternary', ['*']) makes them so")
    for path, layer in quantised:
        *parents, name = path.split(".")
        owner = model
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, IntegerLinear(layer))
    return model


def weight_statistics(old: LanguageModel, new: LanguageModel) -> WeightStatistics | None:
    """Of the codes after an update; None for a model without quantised matrices.

    Costs two readings of the weights, as little as one of the optimiser's several.
    """
    totals, count = None, 0
    for (quantizer, old_w), (_, new_w) in zip(_quantised(old), _quantised(new), strict=True):

        def of_one(old_w, new_w, quantizer=quantizer):
            flips = ternary.flip_rate(old_w, new_w, quantizer)
            zeros, scale = ternary.statistics(new_w, quantizer)
            return WeightStatistics(zeros, flips, scale)

        part = jax.tree.map(jnp.sum, over_matrices(of_one, old_w, new_w))
        totals = part if totals is None else jax.tree.map(jnp.add, totals, part)
        count += old_w[..., 0, 0].size
    return None if totals is None else jax.tree.map(lambda total: total / count, totals)


def has_quantised(model: LanguageModel) -> bool:
    """Whether any matrix has codes."""
    return bool(_quantised(model))


def _layers(model):
    """Paths and layers whose number format is a choice."""
    for path, layer in nnx.iter_modules(model):
        if isinstance(layer, (Linear, KanLayer)):
            yield ".".join(str(part) for part in path), layer


def _quantised(model):
    """(quantiser, matrices `[..., D, F]`) of everything that has codes."""
    found = []
    for _, layer in _layers(model):
        if layer.kind in QUANTIZERS:
            found.append((QUANTIZERS[layer.kind], (layer.kernel if isinstance(layer, Linear) else layer.base)[...]))
        if isinstance(layer, KanLayer) and layer.spline_kind in QUANTIZERS:
            found.append((QUANTIZERS[layer.spline_kind], by_basis(layer.spline[...], layer.features.num_basis)))
    return found
