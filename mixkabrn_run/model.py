"""One token of a MixKABRN model after the other, in NumPy.

What is computed is `mixkabrn_jax.models.language`; the order of every sum is fixed (`arithmetic`). Letters: D width of
the stream, F hidden units, G functions on an edge, H head, K key width, V value width, E expert, W token of the
vocabulary.
"""

import numpy as np

from mixkabrn_run import arithmetic
from mixkabrn_run.arithmetic import exp64, log64, product, rms_norm, silu
from mixkabrn_run.file import File, Matrix
from mixkabrn_run.functions import Functions
from mixkabrn_run.routing import route

_ONE = np.float32(1)


class Linear:
    """y = x W with the input rounded where the matrix is."""

    def __init__(self, matrix: Matrix, bits: int, normalize: bool, epsilon: float):
        self.bits, self.epsilon = bits, epsilon if normalize else None
        # float32 holds sums of codes exactly up to 2^24, in any order.
        self.values = np.ascontiguousarray(matrix.values, np.float32)
        self.scale = None if matrix.scales is None else matrix.scales.reshape(())[()]

    def __call__(self, x):
        """`[D]` -> `[F]`."""
        if self.epsilon is not None:
            x = rms_norm(x, self.epsilon)
        if self.scale is None:
            return product(x, self.values)
        codes, scale = arithmetic.quantize(x, self.bits)
        return (codes @ self.values) * (scale * self.scale)


class Kan:
    """Two KAN layers; the hidden layer is normalised in between."""

    def __init__(self, config, arrays, bits):
        self.epsilon = config["norm_epsilon"]
        self.layers = []
        for name, base_bits in zip(("up", "down"), bits, strict=True):
            layer = {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
            base = Linear(layer["base"], base_bits, False, self.epsilon)
            functions = Functions(config["kan"], base.values.shape[0], layer)
            spline, scales = layer["spline"].values.astype(np.float32), layer["spline"].scales
            if scales is not None:  # of each function, which is multiplied by it beforehand
                scales = scales.reshape(-1, 1)
            self.layers.append((base, functions, spline, scales))

    def __call__(self, x):
        for index, (base, functions, spline, scales) in enumerate(self.layers):
            values_GD = functions(x)
            if scales is not None:
                values_GD = values_GD * scales
            y = base(silu(x)) + product(values_GD.reshape(-1), spline)
            x = rms_norm(y, self.epsilon) if index == 0 else y
        return y


class Mlp:
    """gelu(x W_up) W_down, or with a gate."""

    def __init__(self, config, arrays, bits):
        normalize, epsilon = _normalizes_input(config), config["norm_epsilon"]
        self.kind = config["ffn"]
        self.up = Linear(arrays["up.kernel"], bits[0], normalize, epsilon)
        self.gate = None if self.kind == "mlp" else Linear(arrays["gate.kernel"], bits[0], normalize, epsilon)
        self.down = Linear(arrays["down.kernel"], bits[1], normalize or config["sub_norm"], epsilon)

    def __call__(self, x):
        up = self.up(x)
        if self.kind == "mlp":
            cubic = up + np.float32(0.044715) * (up * up * up)
            inner = np.float32(0.7978845608028654) * cubic
            return self.down(np.float32(0.5) * up * (_ONE + arithmetic.tanh(inner)))
        gate = self.gate(x)
        if self.kind == "swiglu":
            return self.down(silu(gate) * up)
        half = np.float32(0.5) * gate * (_ONE + arithmetic.erf(gate * np.float32(0.7071067811865476)))
        return self.down(half * up)


class Mixture:
    """The chosen experts times their gates, and the shared ones."""

    def __init__(self, config, arrays, make, has_norm):
        self.router, self.bias = arrays["router"].values, arrays["bias_E"].values
        self.config = {**config["router"], "experts_per_token": config["experts_per_token"]}
        self.epsilon = None if has_norm else config["norm_epsilon"]  # otherwise a router normalises what it reads
        experts, shared = (_below(arrays, name) for name in ("experts.", "shared."))
        self.experts = [make(_part(experts, e)) for e in range(config["num_experts"])]
        several = config["num_shared_experts"] > 1
        self.shared = [make(_part(shared, e) if several else shared) for e in range(config["num_shared_experts"])]

    def __call__(self, x):
        read = x if self.epsilon is None else rms_norm(x, self.epsilon)
        gates, chosen = route(product(read, self.router), self.bias, self.config)
        y = np.zeros_like(x)
        for gate, expert in zip(gates, chosen, strict=True):
            y = y + gate * self.experts[expert](x)
        if self.shared:
            shared = self.shared[0](x)
            for expert in self.shared[1:]:
                shared = shared + expert(x)
            y = y + shared
        return y


class Heads:
    """The matrices of a mixer, and how positions turn queries and keys."""

    def __init__(self, config, arrays):
        bits, epsilon, normalize = config["quantization"], config["norm_epsilon"], _normalizes_input(config)
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
        self.sub_norm = config["sub_norm"] and not _normalizes_input(config)
        self.normalize_gate_input = _normalizes_input(config)
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


class Block:
    """A mixer and a feed-forward, each added to the stream."""

    def __init__(self, config, arrays, *, routed):
        self.epsilon = config["norm_epsilon"]
        self.alpha = None
        if config["residual"] == "deepnorm":
            self.alpha = np.float32(np.sqrt(np.sqrt(np.float64(2 * config["num_layers"]))))
        self.mixer_norm, self.ffn_norm = (
            arrays[f"{name}.scale_D"].values if f"{name}.scale_D" in arrays else None
            for name in ("mixer_norm", "ffn_norm")
        )
        mixer = Retention if config["mixer"] == "retention" else Attention
        self.mixer = mixer(config, _below(arrays, "mixer."))
        bits = config["quantization"]["activation_bits"], config["quantization"]["down_activation_bits"]
        kind = Kan if config["ffn"] == "kan" else Mlp

        def make(arrays):
            return kind(config, arrays, bits)

        ffn = _below(arrays, "ffn.")
        self.ffn = Mixture(config, ffn, make, self.ffn_norm is not None) if routed else make(ffn)

    def __call__(self, x, memory, position):
        x = self._add(self.mixer_norm, x, self.mixer(self._before(self.mixer_norm, x), memory, position))
        return self._add(self.ffn_norm, x, self.ffn(self._before(self.ffn_norm, x)))

    def _norm(self, scale, x):
        return rms_norm(x, self.epsilon) * scale

    def _before(self, scale, x):
        return x if scale is None or self.alpha is not None else self._norm(scale, x)

    def _add(self, scale, x, y):
        return x + y if self.alpha is None else self._norm(scale, self.alpha * x + y)


class Model:
    """A language model, read from its file."""

    def __init__(self, file: File):
        config, arrays = file.model, file.arrays
        self.config, self.is_retention = config, config["mixer"] == "retention"
        self.embedding = arrays["embedding_WD"]
        self.head = arrays.get("head_WD", self.embedding)
        self.head_DW = np.ascontiguousarray(self.head.values.T, np.float32)
        self.convolution = arrays["convolution.weight_CD"].values if "convolution.weight_CD" in arrays else None
        final = arrays.get("final_norm.scale_D")
        self.final_norm = None if final is None else final.values
        self.blocks = []
        for name, routed in (("dense_blocks", False), ("routed_blocks", True)):
            stack = _below(arrays, f"{name}.")
            depth = len(next(iter(stack.values())).values) if stack else 0
            self.blocks += [Block(config, _part(stack, i), routed=routed) for i in range(depth)]

    @property
    def vocab_size(self) -> int:
        """W."""
        return self.embedding.values.shape[0]

    def session(self, max_length: int) -> "Session":
        """An empty one; an attention keeps so many positions."""
        return Session(self, max_length)

    def logits(self, token: int, session: "Session") -> np.ndarray:
        """Reads a token into a session."""
        x = self._embed(token)
        for i, earlier in enumerate(session.previous.tolist()[: session.position]):
            x = x + self._embed(earlier) * self.convolution[i]
        for block, memory in zip(self.blocks, session.layers, strict=True):
            x = block(x, memory, session.position)
        if self.final_norm is not None:
            x = rms_norm(x, self.config["norm_epsilon"]) * self.final_norm
        logits = product(x, self.head_DW)
        return logits if self.head.scales is None else logits * self.head.scales

    def _embed(self, token):
        row = self.embedding.values[token].astype(np.float32)
        if self.embedding.scales is not None:
            row = row * self.embedding.scales[token]
        scale = self.config["embedding_scale"]
        return row if scale == 1 else row * np.float32(scale)


class Session:
    """What a model keeps of one text that it reads."""

    def __init__(self, model: Model, max_length: int):
        self.model, self.max_length = model, max_length
        self.position = 0
        self.previous = np.zeros(model.config.get("conv_size", 1) - 1, np.int64)
        """The last tokens, for the short convolution, the last one first."""
        self.layers = [block.mixer.empty(max_length) for block in model.blocks]
        """Arrays of each layer's mixer."""

    def step(self, token: int) -> np.ndarray:
        """Reads a token: logits of the next one, `[W]`.

        Raises: ValueError for a token that there is not, or where there is no room.
        """
        model = self.model
        if not 0 <= token < model.vocab_size or (not model.is_retention and self.position >= self.max_length):
            raise ValueError(f"token {token}: there are {model.vocab_size}, and {self.max_length} positions")
        logits = model.logits(token, self)
        self.position += 1
        if len(self.previous):
            self.previous[1:] = self.previous[:-1].copy()
            self.previous[0] = token
        return logits


def _decays(config, num_heads, learned):
    """What each head keeps a step, where that is constant; float64."""
    if learned is not None:
        return [1.0 / (1.0 + exp64(-float(logit))) for logit in learned]
    ln2 = 0.6931471805599453
    if config["decay"] == "lm":  # 1 - 1/32 to 1 - 1/512
        return [1.0 - exp64(-(5.0 + 4.0 * h / max(num_heads - 1, 1)) * ln2) for h in range(num_heads)]
    return [1.0 - exp64(-(config["first_decay_exponent"] + h) * ln2) for h in range(num_heads)]


def _normalizes_input(config):
    return config["quantization"]["normalize_input"] and config["linear"] != "dense"


def _below(arrays, prefix):
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _part(arrays, index):
    return {name: array[index] for name, array in arrays.items()}
