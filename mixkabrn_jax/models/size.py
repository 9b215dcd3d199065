"""How large a model is: parameters, bytes on disk, and the state that it carries."""

import jax

from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import Linear
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.language import LanguageModel, count_parameters


def sizes(model: LanguageModel, sequence_length: int) -> dict:
    """What stands beside every score.

    parameters: `total`, `active` for one token, `embedding` (with the head, where it is a table of its own).
    parameter_bytes: `stored` as they are trained; `packed` to be run, with four codes of a ternary matrix to a byte;
        `file`, the least that they take to be kept, with five ternary codes to a byte, eight binary ones, two of int4.
    low_bit: the share of parameters that have codes.
    state_bytes: of one text; for attention, whose cache grows, at `sequence_length` tokens.
    """
    state = jax.eval_shape(lambda: model.init_state(1, sequence_length))
    stored, coded = _num_bytes(model), list(_coded(model))
    numbers = sum(weight.size for weight, _, _ in coded)

    def after(codes_per_byte):
        return stored + sum(_bytes_of(*matrices, codes_per_byte) - 4 * matrices[0].size for matrices in coded)

    parameters = count_parameters(model)
    return {
        "parameters": parameters,
        "parameter_bytes": {"stored": stored, "packed": after(_RUN), "file": after(_FILE)},
        "low_bit": numbers / parameters["total"],
        "state_bytes": _num_bytes(state),
    }


_RUN = {"ternary": 4, "binary": 4, "int4": 2, "int8": 1}
_FILE = {**_RUN, "ternary": 5, "binary": 8}
"""Codes to a byte."""


def _num_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _coded(model):
    """(weight `[..., D, F]`, its number format, matrices of D that have a scale each) of all that is not dense."""
    found = []
    for _, layer in surgery.layers(model, (Linear, KanLayer)):
        if isinstance(layer, Linear):
            found.append((layer.kernel, layer.config.linear, 1))
        else:
            features = layer.features
            found.append((layer.base, layer.linear.linear, 1))
            found.append((layer.spline, features.config.spline_linear, features.num_basis))
    for table in (model.embedding_WD, model.head_WD):
        if table is not None:
            found.append((table, model.config.quantization.embedding, table.shape[0]))
    return [matrices for matrices in found if matrices[1] in _RUN]


def _bytes_of(weight, kind, num_scales, codes_per_byte):
    """Codes are packed along D; each matrix has a scale of four bytes."""
    d_in, d_out = weight.shape[-2] // num_scales, weight.shape[-1]
    num_matrices = weight.size // (d_in * d_out)
    return num_matrices * (-(-d_in // codes_per_byte[kind]) * d_out + 4)
