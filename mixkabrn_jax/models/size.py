"""How large a model is: parameters, bytes on disk, and the state that it carries."""

import jax

from mixkabrn_jax.models import codes
from mixkabrn_jax.models.language import LanguageModel, count_parameters


def sizes(model: LanguageModel, sequence_length: int) -> dict:
    """What stands beside every score.

    parameters: `total`, `active` for one token, `embedding` (with the head, where it is a table of its own).
    parameter_bytes: `stored` as they are trained; `packed` to be run, with four codes of a ternary matrix to a byte;
        `file`, the least that they take to be kept, with five ternary codes to a byte, eight binary ones, two of int4;
        `int8_file`, the same where matrices and tables that training left in float32 are rounded to 8 bits.
    low_bit: the share of parameters that have codes.
    state_bytes: of one text; for attention, whose cache grows, at `sequence_length` tokens.
    """
    state = jax.eval_shape(lambda: model.init_state(1, sequence_length))
    stored, coded, parameters = _num_bytes(model), list(codes.coded(model)), count_parameters(model)
    numbers = sum(each.variable.size for each in coded)

    def after(num_bytes, coded=coded):
        return stored + sum(num_bytes(each) + 4 * each.total_scales - 4 * each.variable.size for each in coded)

    kept = codes.Coded.num_bytes
    files = {"file": after(kept), "int8_file": after(kept, codes.coded(model, "int8"))}
    return {
        "parameters": parameters,
        "parameter_bytes": {"stored": stored, "packed": after(_run_bytes)} | files,
        "low_bit": numbers / parameters["total"],
        "state_bytes": _num_bytes(state),
    }


def _num_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _run_bytes(each):
    """Of codes to be multiplied by, packed along the rows of each matrix."""
    per_byte = {"ternary": 4, "binary": 4}.get(each.kind, codes.PACKINGS[each.kind].per_byte)
    rows = each.variable.shape[-2] // each.num_scales
    return each.total_scales * -(-rows // per_byte) * each.variable.shape[-1]
