"""One token of a MixKABRN model after the other, in NumPy.

What is computed is `mixkabrn_jax.models.language`; the order of every sum is fixed (`arithmetic`). Letters: D width of
the stream, F hidden units, G functions on an edge, H head, K key width, V value width, E expert, W token of the
vocabulary.
"""

import copy
from collections.abc import Iterable

import numpy as np

from mixkabrn_run.adapters import Adapter
from mixkabrn_run.arithmetic import product, rms_norm
from mixkabrn_run.feed_forward import Kan, Mixture, Mlp, below, part
from mixkabrn_run.file import File, LowRank
from mixkabrn_run.linear import plus_low_ranks, plus_rows
from mixkabrn_run.mixers import Attention, Retention


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
        self.mixer = mixer(config, below(arrays, "mixer."))
        bits = config["quantization"]["activation_bits"], config["quantization"]["down_activation_bits"]
        kind = Kan if config["ffn"] == "kan" else Mlp

        def make(arrays):
            return kind(config, arrays, bits)

        ffn = below(arrays, "ffn.")
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
        self.config, self.is_retention = file.model, file.model["mixer"] == "retention"
        # As they are multiplied, so that all models that `adapted` gives share them.
        self._arrays = {
            name: array
            if name in ("embedding_WD", "head_WD")
            else array._replace(values=np.ascontiguousarray(array.values, np.float32))
            for name, array in file.arrays.items()
        }
        self._build(self._arrays)
        self.head_DW = np.ascontiguousarray(self.head.values.T, np.float32)

    def _build(self, arrays):
        config = self.config
        self.embedding = arrays["embedding_WD"]
        self.head = arrays.get("head_WD", self.embedding)
        self.head_low_ranks = [LowRank(each.lora_B.T, each.lora_A.T, each.weight) for each in self.head.low_ranks]
        self.convolution = arrays["convolution.weight_CD"].values if "convolution.weight_CD" in arrays else None
        final = arrays.get("final_norm.scale_D")
        self.final_norm = None if final is None else final.values
        self.blocks = []
        for name, routed in (("dense_blocks", False), ("routed_blocks", True)):
            stack = below(arrays, f"{name}.")
            depth = len(next(iter(stack.values())).values) if stack else 0
            self.blocks += [Block(config, part(stack, i), routed=routed) for i in range(depth)]

    def adapted(self, adapters: Iterable[tuple[Adapter, float]]) -> "Model":
        """This model with adapters, each times a weight, in place of those that it has; its own arrays are shared."""
        model, arrays = copy.copy(self), dict(self._arrays)
        for adapter, weight in adapters:
            for name, factors in adapter.factors.items():
                matrix = arrays[name]
                lead = matrix.values.shape[:-2]  # experts may share theirs
                lora_A, lora_B = (np.broadcast_to(factor, (*lead, *factor.shape[-2:])) for factor in factors)
                low_ranks = (*matrix.low_ranks, LowRank(lora_A, lora_B, np.float32(weight)))
                arrays[name] = matrix._replace(low_ranks=low_ranks)
        model._build(arrays)
        return model

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
        if self.head.scales is not None:
            logits = logits * self.head.scales
        return plus_low_ranks(logits, x, self.head_low_ranks)

    def _embed(self, token):
        row = self.embedding.values[token].astype(np.float32)
        if self.embedding.scales is not None:
            row = row * self.embedding.scales[token]
        for low_rank in self.embedding.low_ranks:
            row = plus_rows(row, low_rank.lora_A[token] * low_rank.weight, low_rank.lora_B)
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
        self.logits = np.zeros(model.vocab_size, np.float32)
        """Of the next token, `[W]`."""

    def step(self, token: int) -> np.ndarray:
        """Reads a token: logits of the next one, `[W]`, which the next step overwrites.

        Raises: ValueError for a token that there is not, or where there is no room.
        """
        model = self.model
        if not 0 <= token < model.vocab_size or (not model.is_retention and self.position >= self.max_length):
            raise ValueError(f"token {token}: there are {model.vocab_size}, and {self.max_length} positions")
        self.logits[:] = model.logits(token, self)
        self.position += 1
        if len(self.previous):
            self.previous[1:] = self.previous[:-1].copy()
            self.previous[0] = token
        return self.logits
