"""How large a model is: parameters, bytes on disk, and the state that it carries."""

import jax

from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import QUANTIZERS, Linear
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.language import LanguageModel, count_parameters


def sizes(model: LanguageModel, sequence_length: int) -> dict:
    """What stands beside every score.

    parameters: `total`, `active` for one token, `embedding` (with the head, where it is a table of its own).
    parameter_bytes: `stored` as they are trained, and `packed` with four codes of a quantised matrix to a byte.
    state_bytes: of one text; for attention, whose cache grows, at `sequence_length` tokens.
    """
    state = jax.eval_shape(lambda: model.init_state(1, sequence_length))
    stored = _num_bytes(model)
    saved = sum(_saved(layer) for _, layer in surgery.layers(model, (Linear, KanLayer)))
    return {
        "parameters": count_parameters(model),
        "parameter_bytes": {"stored": stored, "packed": stored - saved},
        "state_bytes": _num_bytes(state),
    }


def _num_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _saved(layer):
    """Bytes that packing a layer's matrices saves."""
    if isinstance(layer, Linear):
        return _saved_of(layer.kernel, layer.config.linear, 1)
    features = layer.features
    of_base = _saved_of(layer.base, layer.linear.linear, 1)
    return of_base + _saved_of(layer.spline, features.config.spline_linear, features.num_basis)


def _saved_of(weight, linear, num_basis):
    """Of matrices `[..., D, F]`, or of splines whose basis functions have matrices of their own within them."""
    if linear not in QUANTIZERS:
        return 0
    d_in, d_out = weight.shape[-2] // num_basis, weight.shape[-1]
    num_matrices = weight.size // (d_in * d_out)
    return weight.size * weight.dtype.itemsize - num_matrices * (-(-d_in // 4) * d_out + 4)  # and a scale each
