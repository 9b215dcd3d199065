"""Which experts a token goes to, and what their outputs are weighted by: `mixkabrn_jax.ops.routing` for one token."""

import numpy as np

from mixkabrn_run import arithmetic


def route(logits_E: np.ndarray, bias_E: np.ndarray, config: dict) -> tuple[np.ndarray, list[int]]:
    """Returns (gates `[N]`, experts, best first)."""
    is_softmax = config["score"] == "softmax"
    score_E = arithmetic.softmax(logits_E) if is_softmax else arithmetic.sigmoid(logits_E)
    choice_E = score_E + bias_E
    if config["num_groups"] > 1:
        choice_E = _best_groups(choice_E, config["num_groups"], config["groups_per_token"], 1 if is_softmax else 2)
    chosen = _best(choice_E, config["experts_per_token"])
    gates = score_E[chosen]
    if config["normalize"]:
        gates = arithmetic.softmax(logits_E[chosen]) if is_softmax else gates / arithmetic.total(gates)
    return gates * np.float32(config["scale"]), chosen


def _best(values, count):
    """Of equal ones the first."""
    return np.argsort(-values, kind="stable")[:count].tolist()


def _best_groups(choice_E, num_groups, groups_per_token, best):
    by_group = choice_E.reshape(num_groups, -1)
    scores = np.array([arithmetic.total(np.sort(group)[::-1][:best]) for group in by_group])
    kept = np.full(by_group.shape, -np.inf, np.float32)
    for group in _best(scores, groups_per_token):
        kept[group] = by_group[group]
    return kept.reshape(-1)
