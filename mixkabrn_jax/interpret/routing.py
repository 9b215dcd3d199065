"""Which tokens choose which experts."""

import jax.numpy as jnp
import numpy as np

from mixkabrn_jax.interpret.inputs import Inputs, blocks
from mixkabrn_jax.models.language import LanguageModel


def choices(model: LanguageModel, read: Inputs) -> jnp.ndarray:
    """The experts that each token chooses in each mixture layer, best first: int32 `[L, B, T, N]`.

    Raises: ValueError for a model without experts.
    """
    if not model.config.num_experts:
        raise ValueError("num_experts=0: this model routes nothing")
    pairs = zip(blocks(model), read.ffn_LBTD, strict=True)
    return jnp.stack([block.ffn.route(x_BTD)[1] for block, x_BTD in pairs if block.routed])


def counts(choices_BTN, groups_BT, num_groups: int, num_experts: int) -> np.ndarray:
    """How often the tokens of each group chose each expert: int `[P, E]`; a group may be a domain, or a piece."""
    choices_BTN = np.asarray(choices_BTN)
    groups_BTN = np.broadcast_to(np.asarray(groups_BT)[..., None], choices_BTN.shape)
    counts_PE = np.zeros((num_groups, num_experts), np.int64)
    np.add.at(counts_PE, (groups_BTN, choices_BTN), 1)
    return counts_PE


def information(counts_PE) -> float:
    """The mutual information of group and expert in bits: 0 where they are independent, at most log2(E).

    Of few samples it is too high, by about (P - 1) (E - 1) / (2 ln 2) over their number.
    """
    joint_PE = np.asarray(counts_PE, np.float64) / np.sum(counts_PE)
    independent_PE = joint_PE.sum(axis=1, keepdims=True) * joint_PE.sum(axis=0, keepdims=True)
    some = joint_PE > 0
    return float(np.sum(joint_PE[some] * np.log2(joint_PE[some] / independent_PE[some])))
