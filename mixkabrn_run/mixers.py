"""What mixes positions: a retention's or an attention's step, with what it keeps. Letters as in `model`."""

import numpy as np

from mixkabrn_run import arithmetic
from mixkabrn_run.arithmetic import exp64, log64, product, rms_norm, silu
from mixkabrn_run.linear import Linear, normalizes_input


class Heads:
    """The matrices of a mixer, and how positions turn queries and keys."""

    def __init__(self, config, arrays):
        bits, epsilon, normalize = config["quantization"], config["norm_epsilon"], normalizes_input(config)
        is_retention = config["mixer"] == "retention"
        names = ("query", "key", "value", *(("gate",) if is_retention else ()))
        self.inputs = [Linear(arrays[f"{n}.kernel"], bits["activation_bits"], normalize, epsilon) for n in names]
        sub_norm = config["sub_norm"] and not is_retention  # a retention normalises what it writes by itself
        self.out = Linear(arrays["out.kernel"], bits["down_activation_bits"], normalize or sub_norm, epsilon)
        self.num_heads, self.layout = config["num_heads"], config["rotary"]["layout"]
        self.key_width, self.value_width = config["key_width"], config["value_width"]
        pairs = self.key_width // 2
        steps = max(pairs - 1, 1) if config["rotary"]["kind"] == "linspace" else pairs
        log_base = log64(config["rotary"]["base"])
        turns = [exp64(-log_base * (i / steps)) / 6.283185307179586 for i in range(pairs)]
        self.turns_P = np.array(turns, np.float64)

    def rotate(self, x_HK, position):
        cos, sin = arithmetic.cos_and_sin(self.turns_P * position)
        if self.layout == "half":
            a, b = np.split(x_HK, 2, axis=1)
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)
        a, b = x_HK[:, 0::2], x_HK[:, 1::2]
        return np.stack([a * cos - b * sin, b * cos + a * sin], axis=2).reshape(x_HK.shape)

    def project(self, x):
        """Queries, keys, values and gates: `[H, K]`, `[H, K]`, `[H, V]`, and `[H V]` of a retention."""
        query, key, value, *gate = (layer(x) for layer in self.inputs)
        query, key, value = (a.reshape(self.num_heads, -1) for a in (query, key, value))
        return query, key, value, *gate


class Retention(Heads):
    """Multi-scale retention."""

    def __init__(self, config, arrays):
        super().__init__(config, arrays)
        self.epsilon, self.config = config["norm_epsilon"], config["retention"]
        self.sub_norm = config["sub_norm"] and not normalizes_input(config)
        self.normalize_gate_input = normalizes_input(config)
        self.decay_gate = arrays["decay_gate"].values if "decay_gate" in arrays else None
        self.decay_H = None
        if self.decay_gate is None:
            learned = arrays["decay_logit_H"].values if "decay_logit_H" in arrays else None
            self.decay_H = np.array(_decays(self.config, self.num_heads, learned), np.float64)
        self.key_scale = np.float32(1 / np.sqrt(np.float64(self.key_width)))

    def empty(self, max_length):  # noqa: ARG002
        """(sums of the powers of constant decays, what rows are scaled by; the recurrence)."""
        shape = (self.num_heads, self.key_width, self.value_width)
        return np.zeros(self.num_heads, np.float64), np.zeros(shape, np.float32)

    def __call__(self, x, memory, position):
        query, key, value, gate = self.project(x)
        query = self.rotate(query, position)
        key = self.rotate(key * self.key_scale, position)
        norms, sums = memory
        decay = self.decay_H
        if decay is None:
            read = rms_norm(x, self.epsilon) if self.normalize_gate_input else x
            kept = arithmetic.sigmoid(product(read, self.decay_gate))
            for _ in range(4):  # the sixteenth root
                kept = np.sqrt(kept)
        else:
            kept = decay.astype(np.float32)
            norms[:] = decay * norms + 1.0
        sums[:] = kept[:, None, None] * sums + key[:, :, None] * value[:, None, :]
        y_HV = np.stack([product(query[h], sums[h]) for h in range(self.num_heads)])
        if self.config["normalization"] == "sqrt_sum":
            y_HV = y_HV * (1.0 / np.sqrt(norms)).astype(np.float32)[:, None]
        y = np.concatenate([rms_norm(row, self.epsilon) for row in y_HV])
        y = silu(gate) * y
        return self.out(rms_norm(y, self.epsilon) if self.sub_norm else y)


class Attention(Heads):
    """Softmax attention over all earlier positions."""

    def __init__(self, config, arrays):
        super().__init__(config, arrays)
        self.query_scale = np.float32(1 / np.sqrt(np.float64(self.key_width)))

    def empty(self, max_length):
        """Keys and values of so many positions."""
        return tuple(
            np.zeros((max_length, self.num_heads, width), np.float32) for width in (self.key_width, self.value_width)
        )

    def __call__(self, x, memory, position):
        query, key, value = self.project(x)
        query, key = self.rotate(query, position), self.rotate(key, position)
        memory[0][position], memory[1][position] = key, value
        keys_SHK, values_SHV = (a[: position + 1] for a in memory)
        rows = []
        for h in range(self.num_heads):
            score = product(query[h], np.ascontiguousarray(keys_SHK[:, h].T)) * self.query_scale
            rows.append(product(arithmetic.softmax(score), np.ascontiguousarray(values_SHV[:, h])))
        return self.out(np.concatenate(rows))


def _decays(config, num_heads, learned):
    """What each head keeps a step, where that is constant; float64."""
    if learned is not None:
        return [1.0 / (1.0 + exp64(-float(logit))) for logit in learned]
    ln2 = 0.6931471805599453
    if config["decay"] == "lm":  # 1 - 1/32 to 1 - 1/512
        return [1.0 - exp64(-(5.0 + 4.0 * h / max(num_heads - 1, 1)) * ln2) for h in range(num_heads)]
    return [1.0 - exp64(-(config["first_decay_exponent"] + h) * ln2) for h in range(num_heads)]
