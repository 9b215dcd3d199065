"""What mixes positions: a retention's or an attention's step, with what it keeps."""

import numpy as np

from mixkabrn_jax.export.onnx.functions import cos_and_sin
from mixkabrn_jax.export.onnx.graph import DOUBLE, FLOAT, Graph, Port, whole
from mixkabrn_jax.export.onnx.linear import linear, rms_norm, silu
from mixkabrn_run.mixers import Attention, Heads, Retention


def ports(mixer: Heads, index: int) -> list[Port]:
    """What the mixer of a layer keeps: sums `[H, K, V]` of a retention, keys and values so far of an attention."""
    heads, key, value = mixer.num_heads, mixer.key_width, mixer.value_width
    if isinstance(mixer, Retention):
        return [Port(f"sums_{index}", FLOAT, (heads, key, value))]
    return [
        Port(f"{name}_{index}", FLOAT, (1, heads, None, width)) for name, width in (("keys", key), ("values", value))
    ]


def mix(g: Graph, mixer: Heads, x: str, memory: list[str], position: str) -> tuple[str, list[str]]:
    """(`[1, D]`, what is kept)."""
    return {Retention: _retention, Attention: _attention}[type(mixer)](g, mixer, x, memory, position)


def _retention(g, mixer, x, memory, position):
    heads, key_width, value_width = mixer.num_heads, mixer.key_width, mixer.value_width
    # 1 / sqrt(K) belongs to the keys, whatever the queries are.
    query, key, value, gate = _project(g, mixer, x, position, mixer.key_scale)
    kept_H11, norm_H11 = _decay(g, mixer, x, position)
    key_HK1 = g("Reshape", key, whole([heads, key_width, 1]))
    value_H1V = g("Reshape", value, whole([heads, 1, value_width]))
    sums_HKV = g("Add", g("Mul", memory[0], kept_H11), g("Mul", key_HK1, value_H1V))
    y_H1V = g("MatMul", g("Reshape", query, whole([heads, 1, key_width])), sums_HKV)
    if mixer.config["normalization"] == "sqrt_sum":
        y_H1V = g("Mul", y_H1V, norm_H11)
    y = g("Reshape", rms_norm(g, y_H1V, value_width, mixer.epsilon), whole([1, -1]))
    y = g("Mul", silu(g, gate), y)
    if mixer.sub_norm:
        y = rms_norm(g, y, heads * value_width, mixer.epsilon)
    return linear(g, [mixer.out], y)[0], [sums_HKV]


def _attention(g, mixer, x, memory, position):
    query, key, value = _project(g, mixer, x, position, np.float32(1))
    value = g("Reshape", value, whole([1, mixer.num_heads, 1, mixer.value_width]))
    y, *memory = g("Attention", query, key, value, "", *memory, outputs=3)
    return linear(g, [mixer.out], g("Reshape", y, whole([1, -1])))[0], memory


def _project(g, mixer, x, position, key_scale):
    """Queries and keys, turned by the position, `[1, H, 1, K]`; values, and gates of a retention, `[1, H V]`."""
    query, key, *others = linear(g, mixer.inputs, x)
    heads = mixer.num_heads
    both = g("Reshape", g("Concat", query, key, axis=1), whole([1, 2 * heads, 1, -1]))
    if key_scale != 1:
        both = g("Mul", both, np.repeat(np.float32([1, key_scale]), heads)[:, None, None])
    turns_1P = g("Mul", g("Cast", position, to=DOUBLE), mixer.turns_P[None, None])
    layout = int(mixer.layout == "interleaved")
    both = g("RotaryEmbedding", both, *cos_and_sin(g, turns_1P), interleaved=layout)
    return *g.split(both, [heads, heads]), *others


def _decay(g, mixer, x, position):
    """(what each head keeps of a step, 1 / sqrt of the sum of its powers so far or None): `[H, 1, 1]`."""
    if mixer.decay_gate is not None:
        read = rms_norm(g, x, mixer.decay_gate.shape[0], mixer.epsilon) if mixer.normalize_gate_input else x
        kept = g("Sigmoid", g("MatMul", read, mixer.decay_gate))
        for _ in range(4):  # the sixteenth root
            kept = g("Sqrt", kept)
        return g("Reshape", kept, whole([-1, 1, 1])), None
    # Of a head that keeps all, where the sum of a geometric series would be 0 / 0, nearly all.
    decay_H11 = np.minimum(mixer.decay_H, np.nextafter(1.0, 0.0))[:, None, None]
    count = g("Add", g("Cast", position, to=DOUBLE), np.float64(1))
    norm_H11 = g("Div", g("Sub", np.float64(1), g("Pow", decay_H11, count)), 1 - decay_H11)
    return decay_H11.astype(np.float32), g("Cast", g("Div", np.float64(1), g("Sqrt", norm_H11)), to=FLOAT)
