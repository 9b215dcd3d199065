"""A trained model's matrices in another number format, and what their codes look like."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import LINEAR_TYPES, QUANTIZERS, IntegerLinear, Linear, by_basis, over_matrices
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.ops import ternary


class WeightStatistics(NamedTuple):
    """Of a model's quantised matrices, each counted once whatever its size."""

    zeros: jax.Array
    """Share of codes that are 0."""
    flips: jax.Array
    """Share of codes that an update changed."""
    scale: jax.Array


def quantize(model: LanguageModel, linear: str, patterns: Iterable[str]) -> LanguageModel:
    """The model with some of its matrices in another number format; their trained weights are kept as they are.

    Embedding, head, norms and router never change, nor do spline coefficients: a `KanLayer` changes its base matrix.

    Args:
        linear: one of `LINEAR_TYPES`; where all layers have it in the end, so does the model's config.
        patterns: shell patterns of layers' paths such as "routed_blocks.ffn.experts.up" or "*.mixer.*".
    Raises: ValueError for an unknown number format, and for a pattern that matches no layer.
    """
    if linear not in LINEAR_TYPES:
        raise ValueError(f"linear={linear!r}: one of {LINEAR_TYPES} is needed")
    model = surgery.copy(model)
    for layer in surgery.match(model, patterns).values():
        if isinstance(layer, KanLayer):
            layer.linear = dataclasses.replace(layer.linear, linear=linear)
        else:
            layer.config = dataclasses.replace(layer.config, linear=linear)
    if all(linear_type(layer) == linear for _, layer in surgery.layers(model)):
        model.config = dataclasses.replace(model.config, linear=linear)
    return model


def to_integers(model: LanguageModel) -> LanguageModel:
    """The model with every quantised `Linear` as an `IntegerLinear`, for evaluation; KAN layers stay as they are.

    Raises: ValueError when no layer is quantised.
    """
    model = surgery.copy(model)
    quantised = [(path, layer) for path, layer in surgery.layers(model, (Linear,)) if layer.config.linear != "dense"]
    if not quantised:
        raise ValueError("no Linear of this model is quantised: quantize(model, 'ternary', ['*']) makes them so")
    for path, layer in quantised:
        surgery.replace(model, path, IntegerLinear(layer))
    return model


def linear_type(layer: Linear | KanLayer | IntegerLinear) -> str:
    """The number format of a layer's matrix, "integers" for one that is packed."""
    if isinstance(layer, IntegerLinear):
        return "integers"
    return (layer.linear if isinstance(layer, KanLayer) else layer.config).linear


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


def _quantised(model):
    """(quantiser, matrices `[..., D, F]`) of everything that has codes."""
    found = []
    for _, layer in surgery.layers(model, (Linear, KanLayer)):
        linear = linear_type(layer)
        if linear in QUANTIZERS:
            found.append((QUANTIZERS[linear], (layer.kernel if isinstance(layer, Linear) else layer.base)[...]))
        if isinstance(layer, KanLayer) and layer.features.config.spline_linear in QUANTIZERS:
            matrices = by_basis(layer.spline[...], layer.features.num_basis)
            found.append((QUANTIZERS[layer.features.config.spline_linear], matrices))
    return found
