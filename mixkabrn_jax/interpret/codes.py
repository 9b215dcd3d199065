"""The ternary codes of a model: how many of each there are, and which of them training still changes."""

from collections.abc import Mapping

import jax
import numpy as np

from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import ROUNDED, Linear, by_basis, over_matrices
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.models.quantize import linear_type
from mixkabrn_jax.ops import ternary


def ternary_codes(model: LanguageModel) -> dict[str, jax.Array]:
    """Of all ternary matrices by path: int8 in their shapes, splines as `[..., G, D, F]`; layers and experts lead.

    A model that was read from a file holds codes times scales, and gives these codes again.
    """
    found = {}
    for path, layer in surgery.layers(model, (Linear, KanLayer)):
        linear = linear_type(layer)
        if (model.config.linear if linear == ROUNDED else linear) == "ternary":
            name, variable = ("kernel", layer.kernel) if isinstance(layer, Linear) else ("base", layer.base)
            found[f"{path}.{name}"] = variable[...]
        if isinstance(layer, KanLayer) and model.config.kan.spline_linear == "ternary":
            found[f"{path}.spline"] = by_basis(layer.spline[...], layer.features.num_basis)
    return {name: over_matrices(lambda matrix: ternary.quantize_weight(matrix)[0], w) for name, w in found.items()}


def shares(codes: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The parts of each array's codes that are -1, 0 and 1: `[3]`, which add up to 1."""
    return {
        name: np.array([np.mean(np.asarray(array) == code) for code in (-1, 0, 1)]) for name, array in codes.items()
    }


def flips(old: Mapping[str, jax.Array], new: Mapping[str, jax.Array]) -> dict[str, float]:
    """The part of each array's codes that are others in `new` than in `old`."""
    return {name: float(np.mean(np.asarray(old[name]) != np.asarray(new[name]))) for name in old}
