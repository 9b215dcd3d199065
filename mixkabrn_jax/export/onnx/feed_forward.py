"""What a block does to each position by itself: KAN, MLP, gated layers, and mixtures of them."""

import numpy as np

from mixkabrn_jax.export.onnx.functions import edges
from mixkabrn_jax.export.onnx.graph import FLOAT, Graph, whole
from mixkabrn_jax.export.onnx.linear import linear, rms_norm, silu
from mixkabrn_run.feed_forward import Kan, Mixture, Mlp


def feed_forward(g: Graph, layer: Kan | Mlp | Mixture, x: str) -> str:
    """`[1, D]` -> `[1, D]`."""
    return {Kan: _kan, Mlp: _mlp, Mixture: _mixture}[type(layer)](g, layer, x)


def _kan(g, layer, x):
    for index, (base, functions, spline, scales) in enumerate(layer.layers):
        width, num_hidden = base.values.shape
        values_GD = edges(g, functions, x, width)
        if scales is not None:  # of each function; weights become floats once, where the graph is loaded
            spline = g.codes(spline.reshape(len(scales), width, num_hidden), FLOAT)
            spline = g.root("Reshape", g.root("Mul", spline, scales[:, :, None]), whole([-1, num_hidden]))
        y = g("MatMul", g("Reshape", values_GD, whole([1, -1])), spline)
        y = g("Add", linear(g, [base], silu(g, x))[0], y)
        x = rms_norm(g, y, num_hidden, layer.epsilon) if index == 0 else y
    return y


def _mlp(g, layer, x):
    up, *gate = linear(g, [layer.up] if layer.gate is None else [layer.up, layer.gate], x)
    if layer.kind == "mlp":
        hidden = g("Gelu", up, approximate="tanh")
    else:
        hidden = g("Mul", silu(g, *gate) if layer.kind == "swiglu" else g("Gelu", *gate), up)
    return linear(g, [layer.down], hidden)[0]


def _mixture(g, layer, x):
    """Experts that are not chosen cost one condition each, which is less than to gather the weights of the others."""
    d_model, num_experts = layer.router.shape
    read = x if layer.epsilon is None else rms_norm(g, x, d_model, layer.epsilon)
    gates_1E = _gates(g, layer, g("MatMul", read, layer.router))
    # In front, so that what all experts do to the input is there before any of them is.
    outputs = [feed_forward(g, expert, x) for expert in layer.shared]
    for gate, expert in zip(g.split(gates_1E, [1] * num_experts), layer.experts, strict=True):

        def weighted(inside, gate=gate, expert=expert):
            return inside("Mul", feed_forward(inside, expert, x), gate)

        outputs.append(g.when(g("Greater", gate, 0.0), weighted, np.zeros((1, d_model), np.float32)))
    return g("Sum", *outputs)


def _gates(g, layer, logits_1E):
    """What each expert's output is weighted by, 0 where it is not chosen: `[1, E]`."""
    config, is_softmax = layer.config, layer.config["score"] == "softmax"
    score_1E = g("Softmax", logits_1E, axis=1) if is_softmax else g("Sigmoid", logits_1E)
    choice_1E = g("Add", score_1E, layer.bias)
    if config["num_groups"] > 1:
        choice_1E = _best_groups(g, choice_1E, config, 1 if is_softmax else 2)
    chosen_1N = g("TopK", choice_1E, whole([config["experts_per_token"]]), axis=1, outputs=2)[1]
    gates_1N = g("GatherElements", score_1E, chosen_1N, axis=1)
    if config["normalize"] and is_softmax:
        gates_1N = g("Softmax", g("GatherElements", logits_1E, chosen_1N, axis=1), axis=1)
    elif config["normalize"]:
        gates_1N = g("Div", gates_1N, g("ReduceSum", gates_1N, whole([1])))
    gates_1N = g("Mul", gates_1N, float(config["scale"]))
    return g("ScatterElements", np.zeros((1, len(layer.bias)), np.float32), chosen_1N, gates_1N, axis=1)


def _best_groups(g, choice_1E, config, best):
    """Scores of the groups with the highest sums of so many best; minus infinity in the others."""
    num_groups, kept = config["num_groups"], config["groups_per_token"]
    choice_PE = g("Reshape", choice_1E, whole([num_groups, -1]))
    highest = g("TopK", choice_PE, whole([best]), axis=1, outputs=2)[0]
    groups = g("TopK", g("ReduceSum", highest, whole([1]), keepdims=0), whole([kept]), axis=0, outputs=2)[1]
    lost_P = g("ScatterElements", np.full(num_groups, -np.inf, np.float32), groups, np.zeros(kept, np.float32), axis=0)
    return g("Reshape", g("Add", choice_PE, g("Reshape", lost_P, whole([-1, 1]))), whole([1, -1]))
