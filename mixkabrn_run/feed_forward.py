"""What a block does to each position by itself: KAN, MLP, gated layers, and mixtures of them. Letters as in `model`."""

import numpy as np

from mixkabrn_run import arithmetic
from mixkabrn_run.arithmetic import product, rms_norm, silu
from mixkabrn_run.functions import Functions
from mixkabrn_run.linear import Linear, normalizes_input, plus_low_ranks
from mixkabrn_run.routing import route

_ONE = np.float32(1)


class Kan:
    """Two KAN layers; the hidden layer is normalised in between."""

    def __init__(self, config, arrays, bits):
        self.epsilon = config["norm_epsilon"]
        self.layers, self.low_ranks = [], []
        for name, base_bits in zip(("up", "down"), bits, strict=True):
            layer = {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
            base = Linear(layer["base"], base_bits, False, self.epsilon)
            functions = Functions(config["kan"], base.values.shape[0], layer)
            spline, scales = np.ascontiguousarray(layer["spline"].values, np.float32), layer["spline"].scales
            if scales is not None:  # of each function, which is multiplied by it beforehand
                scales = scales.reshape(-1, 1)
            self.layers.append((base, functions, spline, scales))
            self.low_ranks.append(layer["spline"].low_ranks)

    def __call__(self, x):
        for index, (base, functions, spline, scales) in enumerate(self.layers):
            values_GD = functions(x)
            scaled_GD = values_GD if scales is None else values_GD * scales
            y = base(silu(x)) + product(scaled_GD.reshape(-1), spline)
            y = plus_low_ranks(y, values_GD, self.low_ranks[index])
            x = rms_norm(y, self.epsilon) if index == 0 else y
        return y


class Mlp:
    """gelu(x W_up) W_down, or with a gate."""

    def __init__(self, config, arrays, bits):
        normalize, epsilon = normalizes_input(config), config["norm_epsilon"]
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
        experts, shared = (below(arrays, name) for name in ("experts.", "shared."))
        self.experts = [make(part(experts, e)) for e in range(config["num_experts"])]
        several = config["num_shared_experts"] > 1
        self.shared = [make(part(shared, e) if several else shared) for e in range(config["num_shared_experts"])]

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


def below(arrays, prefix):
    """Those of a module, by their names in it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def part(arrays, index):
    """One of stacked modules."""
    return {name: array[index] for name, array in arrays.items()}
