"""A language model's step as a graph, and a whole text's as a loop over it."""

import json

import numpy as np
import onnx

from mixkabrn_jax.export.onnx.feed_forward import feed_forward
from mixkabrn_jax.export.onnx.graph import BOOL, FLOAT, INT64, Graph, Port, to_model, whole
from mixkabrn_jax.export.onnx.mixers import mix, ports
from mixkabrn_run.file import File
from mixkabrn_run.model import Block, Model


def step(file: File) -> onnx.ModelProto:
    """`token` `[1]` and the state -> `logits` `[W]` and the state behind it, whose parts are named `next_...`."""
    model, g = Model(file), Graph()
    state = _state(model)
    logits, kept = _step(g, model, "token", [port.name for port in state])
    inputs, outputs = [Port("token", INT64, [1]), *state], [Port("logits", FLOAT, [model.vocab_size]), *_after(state)]
    _name(g, [logits, *kept], outputs)
    return _model(g.to_proto(inputs, outputs, "step"), file)


def prefill(file: File) -> onnx.ModelProto:
    """`tokens` `[T]` and the state as in `step` -> `logits` `[T, W]`, and the state behind the last of them."""
    model, g = Model(file), Graph()
    state = _state(model)
    body = Graph(g)
    count, is_on, *carried = (
        Port(body.name(), *port[1:]) for port in (Port("", INT64, []), Port("", BOOL, []), *state)
    )
    token = body("Gather", "tokens", body("Unsqueeze", count.name, whole([0])), axis=0)
    logits, kept = _step(body, model, token, [port.name for port in carried])
    outputs = [Port(body("Identity", is_on.name), BOOL, [])]
    outputs += [Port(name, *port[1:]) for name, port in zip(kept, state, strict=True)]
    outputs += [Port(logits, FLOAT, [model.vocab_size])]
    body = body.to_proto([count, is_on, *carried], outputs, "step")
    length = g("Squeeze", g("Shape", "tokens"))
    *kept, logits = g.loop(length, [port.name for port in state], body)
    inputs = [Port("tokens", INT64, ["length"]), *state]
    outputs = [Port("logits", FLOAT, ["length", model.vocab_size]), *_after(state)]
    _name(g, [logits, *kept], outputs)
    return _model(g.to_proto(inputs, outputs, "prefill"), file)


def describe(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """By number format, how many constants there are, their numbers and their bytes."""
    found = {}
    for tensor in model.graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        entry = found.setdefault(kind, {"count": 0, "numbers": 0, "bytes": 0})
        for key, value in (("count", 1), ("numbers", int(np.prod(tensor.dims))), ("bytes", len(tensor.raw_data))):
            entry[key] += value
    return found


def _state(model):
    """What goes from token to token: all zeros, and empty, at the start of a document."""
    mixers = [port for index, block in enumerate(model.blocks) for port in ports(block.mixer, index)]
    earlier = model.config.get("conv_size", 1) - 1
    return [Port("position", INT64, [1]), *([Port("previous", INT64, [earlier])] if earlier else []), *mixers]


def _after(state):
    return [Port(f"next_{port.name}", *port[1:]) for port in state]


def _name(g, values, outputs):
    """Gives the outputs of a graph their names."""
    g.nodes += [
        onnx.helper.make_node("Identity", [value], [port.name]) for value, port in zip(values, outputs, strict=True)
    ]


def _step(g, model, token, state):
    """(logits `[W]`, the next state)."""
    position, *state = state
    table_WD = _table(g, model.embedding)
    tokens, kept = token, [g("Add", position, whole([1]))]
    if model.convolution is not None:
        previous, *state = state
        tokens = g("Concat", token, previous, axis=0)
        kept.append(g("Slice", tokens, whole([0]), whole([-1]), whole([0])))
    x = g("Gather", table_WD, tokens, axis=0)
    if model.embedding.scales is not None:
        x = g("Mul", x, g("Gather", model.embedding.scales[:, None], tokens, axis=0))
    if model.config["embedding_scale"] != 1:
        x = g("Mul", x, float(model.config["embedding_scale"]))
    if model.convolution is not None:
        x = _convolution(g, model.convolution, x, position)
    for block in model.blocks:
        number = len(ports(block.mixer, 0))
        x, memory = _block(g, block, x, state[:number], position)
        state, kept = state[number:], [*kept, *memory]
    if model.final_norm is not None:
        x = _norm(g, model.final_norm, x, model.config["norm_epsilon"])
    logits = g("Gemm", x, _table(g, model.head), transB=1)
    if model.head.scales is not None:
        logits = g("Mul", logits, model.head.scales)
    return g("Squeeze", logits, whole([0])), kept


def _table(g, matrix):
    """Values of an embedding or head, without their scales: `[W, D]`."""
    return g.constant(matrix.values) if matrix.scales is None else g.codes(matrix.values, FLOAT)


def _convolution(g, weight_CD, x_CD, position):
    """The token and the earlier ones that there are, channel by channel: `[1, D]`."""
    weight_CD = np.concatenate([np.ones_like(weight_CD[:1]), weight_CD])
    is_there_C1 = g("GreaterOrEqual", position, whole(range(len(weight_CD)))[:, None])
    x_CD = g("Mul", g("Mul", x_CD, weight_CD), g("Cast", is_there_C1, to=FLOAT))
    return g("ReduceSum", x_CD, whole([0]))


def _block(g, block: Block, x, memory, position):
    def before(scale, x):
        return x if scale is None or block.alpha is not None else _norm(g, scale, x, block.epsilon)

    def add(scale, x, y):
        if block.alpha is None:
            return g("Add", x, y)
        return _norm(g, scale, g("Add", g("Mul", x, block.alpha), y), block.epsilon)

    y, memory = mix(g, block.mixer, before(block.mixer_norm, x), memory, position)
    x = add(block.mixer_norm, x, y)
    return add(block.ffn_norm, x, feed_forward(g, block.ffn, before(block.ffn_norm, x))), memory


def _norm(g, scale, x, epsilon):
    return g("RMSNormalization", x, scale, axis=-1, epsilon=epsilon)


def _model(graph, file):
    model = to_model(graph)
    about = {"config": file.model, "tokenizer": file.tokenizer, "about": file.about}
    texts = {name: json.dumps(value, ensure_ascii=False, separators=(",", ":")) for name, value in about.items()}
    onnx.helper.set_model_props(model, texts | {"sha256": file.sha256})
    return model
