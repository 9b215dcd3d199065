"""Weights of RetNet language models from and to the official library, torchscale, and its HF-style port.

Both hold matrices as `[out, in]`, one set of names for each layer; here they are `[in, out]`, stacked over layers.
"""

import dataclasses
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mixkabrn_jax.layers.branch import QuantizationConfig
from mixkabrn_jax.layers.features import KanConfig
from mixkabrn_jax.layers.heads import RotaryConfig
from mixkabrn_jax.layers.moe import RouterConfig
from mixkabrn_jax.layers.retention import RetentionConfig
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.models.quantize import linear_type
from mixkabrn_jax.ops import retention, rotary

NAMINGS = ("torchscale", "huggingface")
ACTIVATIONS = {"gelu": "geglu", "swish": "swiglu"}
"""What gates the feed-forward, by torchscale's name and by ours."""

# torchscale's GLU multiplies activation(fc1(x)) by gate(x): its gate is our `up`.
_MATRICES = {
    "retention.q_proj": ("mixer", "query", "kernel"),
    "retention.k_proj": ("mixer", "key", "kernel"),
    "retention.v_proj": ("mixer", "value", "kernel"),
    "retention.g_proj": ("mixer", "gate", "kernel"),
    "retention.out_proj": ("mixer", "out", "kernel"),
    "ffn.fc1": ("ffn", "gate", "kernel"),
    "ffn.gate": ("ffn", "up", "kernel"),
    "ffn.fc2": ("ffn", "down", "kernel"),
}
_NORMS = {"retention_layer_norm": ("mixer_norm", "scale_D"), "final_layer_norm": ("ffn_norm", "scale_D")}
_EMBEDDING, _HEAD, _FINAL_NORM = "embed_tokens.weight", "output_projection.weight", "layer_norm.weight"
_EMBEDDING_NORM = "layernorm_embedding.weight"
_ANGLE, _DECAY = "retnet_rel_pos.angle", "retnet_rel_pos.decay"
_OPTIONAL = {_HEAD, _EMBEDDING_NORM, _ANGLE, _DECAY}

_RETNET = {
    "mixer": "retention",
    "linear": "dense",
    "num_experts": 0,
    "residual": "pre_norm",
    "sub_norm": False,
    "conv_size": 1,
    "rotary": RotaryConfig(kind="linspace", base=10000.0, layout="interleaved"),
}
"""What makes a model of ours a RetNet, by the fields of `ModelConfig`."""

_UNUSED = {
    "expert_width": 1,
    "experts_per_token": 1,
    "num_shared_experts": 0,
    "first_dense_layers": 0,
    "compute_dtype": "float32",
    "remat": False,
    "backend": "auto",
    "kan": KanConfig(),
    "router": RouterConfig(),
    "quantization": QuantizationConfig(),
}
"""The other fields that no checkpoint tells: a RetNet has no use for most of them."""


def load(
    params: Mapping[str, np.ndarray],
    *,
    num_heads: int,
    activation: str = "gelu",
    embedding_scale: float = 1.0,
    norm_epsilon: float = 1e-6,
    decay: str = "paper",
    chunk_size: int = 0,
) -> LanguageModel:
    """A language model whose logits are those of the checkpoint's RetNet.

    Args:
        params: a state dict of `RetNetDecoder` or of the HF-style `RetNetForCausalLM`, as NumPy arrays. A
            `layernorm_embedding` becomes a part of the embedding.
        num_heads: of retention; no shape tells it.
        activation: of the feed-forward's gate, by torchscale's name: "gelu" (its default) or "swish".
        embedding_scale: sqrt(d_model) for a model trained with `no_scale_embedding=False`.
        norm_epsilon: its `layernorm_eps`.
        decay: "paper", or "lm" for the HF-style option `use_lm_decay`.
        chunk_size: positions handled in parallel, 0 to choose by the widths; any value gives the same logits.
    Raises: ValueError for names that are missing or unknown, shapes that do not fit, other decays or angles than a
        RetNet's, or a setting that is none of the above.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: one of {tuple(ACTIVATIONS)} is needed")
    if decay not in ("paper", "lm") or num_heads < 1:
        raise ValueError(f"decay={decay!r}, num_heads={num_heads}: 'paper' or 'lm', and at least 1, are needed")
    params = {_official_name(name): np.asarray(array) for name, array in params.items()}
    num_layers = _check_names(params)
    if params[_EMBEDDING].ndim != 2:
        raise ValueError(f"{_EMBEDDING} of shape {params[_EMBEDDING].shape}: [vocabulary, width] is needed")
    d_model = params[_EMBEDDING].shape[1]
    if d_model % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide the width {d_model} of {_EMBEDDING}")
    if _EMBEDDING_NORM in params:
        params, embedding_scale = _without_embedding_norm(params, embedding_scale, norm_epsilon), 1.0
    config = ModelConfig(
        **_RETNET,
        **_UNUSED,
        d_model=d_model,
        num_layers=num_layers,
        tied_embeddings=_HEAD not in params or np.array_equal(params[_HEAD], params[_EMBEDDING]),
        embedding_scale=embedding_scale,
        norm_epsilon=norm_epsilon,
        num_heads=num_heads,
        key_width=d_model // num_heads,
        value_width=params["layers.0.retention.v_proj.weight"].shape[0] // num_heads,
        retention=RetentionConfig(decay=decay, chunk_size=chunk_size),
        ffn=ACTIVATIONS[activation],
        hidden_width=params["layers.0.ffn.fc1.weight"].shape[0],
    )
    for name, constant in _constants(config).items():
        there = params.get(name, constant)
        if there.shape != constant.shape or not np.allclose(there, constant, rtol=1e-3, atol=0):
            raise ValueError(
                f"{name} of the checkpoint is {there}, but num_heads={num_heads} and decay={decay!r} make it {constant}"
            )
    return _filled(config, params)


def _check_names(params) -> int:
    """The number of layers. Raises ValueError for names that are missing or unknown."""
    layers = (re.fullmatch(r"layers\.(\d+)\..*", name) for name in params)
    num_layers = 1 + max((int(match[1]) for match in layers if match), default=-1)
    required = {_EMBEDDING, _FINAL_NORM, *(name for i in range(num_layers) for name in _layer_names(i))}
    missing, unknown = required - params.keys(), params.keys() - required - _OPTIONAL
    if missing or unknown or not num_layers:
        raise ValueError(
            f"not the parameters of a RetNet of {num_layers} layers with gated feed-forwards and without biases: "
            f"missing {sorted(missing)}, unknown {sorted(unknown)}"
        )
    return num_layers


def _filled(config, params):
    """The model of a config with a checkpoint's arrays in it. Raises ValueError for one of another shape."""
    leaves = {("embedding_WD",): params[_EMBEDDING], ("final_norm", "scale_D"): params[_FINAL_NORM]}
    if not config.tied_embeddings:
        leaves["head_WD",] = params[_HEAD]
    for name, path in (_MATRICES | _NORMS).items():
        layers = [params[f"layers.{i}.{name}.weight"].T for i in range(config.num_layers)]  # of a vector, itself
        leaves["dense_blocks", *path] = _stack(f"layers.*.{name}.weight", layers)
    vocab_size = len(params[_EMBEDDING])
    graph, state = nnx.split(jax.eval_shape(lambda: LanguageModel(config, vocab_size, rngs=nnx.Rngs(0))))
    flat = nnx.to_flat_state(state)
    for path, variable in flat:
        if variable.shape != leaves[path].shape:
            raise ValueError(
                f"parameter {'.'.join(path)} needs shape {variable.shape} with num_heads={config.num_heads}, but the "
                f"checkpoint's is {leaves[path].shape}"
            )
    filled = [(path, leaf.replace(jnp.asarray(leaves[path], jnp.float32))) for path, leaf in flat]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def save(model: LanguageModel, naming: str = "torchscale") -> dict[str, np.ndarray]:
    """The state dict of an equal RetNet: the inverse of `load`.

    Args:
        naming: "torchscale" (`RetNetDecoder`) or "huggingface" (the HF-style `RetNetForCausalLM`).
    Returns: float32 arrays, with the constant buffers that both libraries keep in their state dicts.
    Raises: ValueError for a model that is no RetNet, naming the first field or layer in which it differs.
    """
    if naming not in NAMINGS:
        raise ValueError(f"naming={naming!r}: one of {NAMINGS} is needed")
    config = model.config
    decay = RetentionConfig(decay="lm" if config.retention.decay == "lm" else "paper")
    needed = _RETNET | {"key_width": config.d_model // config.num_heads}
    needed |= {"retention": dataclasses.replace(decay, chunk_size=config.retention.chunk_size)}
    if config.retention.decay == "lm":  # which has no use for an exponent
        needed["retention"] = dataclasses.replace(
            needed["retention"], first_decay_exponent=config.retention.first_decay_exponent
        )
    for field, value in needed.items():
        _require(f"config.model.{field}", getattr(config, field), value)
    if config.ffn not in ACTIVATIONS.values():
        raise ValueError(f"config.model.ffn={config.ffn!r}: a RetNet has one of {tuple(ACTIVATIONS.values())}")
    for path, layer in surgery.layers(model):  # a layer may have been quantised since the model was made
        if linear_type(layer) != "dense":
            raise ValueError(f"{path} holds {linear_type(layer)} weights: a RetNet's are dense")
    leaves = {path: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}
    embedding = leaves["embedding_WD",]
    params = {_EMBEDDING: embedding, _HEAD: leaves.get(("head_WD",), embedding)}
    params[_FINAL_NORM] = leaves["final_norm", "scale_D"]
    for i in range(config.num_layers):
        params |= {f"layers.{i}.{name}.weight": leaves["dense_blocks", *path][i].T for name, path in _MATRICES.items()}
        params |= {f"layers.{i}.{name}.weight": leaves["dense_blocks", *path][i] for name, path in _NORMS.items()}
    params |= _constants(config)
    if naming == "torchscale":
        return params
    return {"lm_head.weight" if name == _HEAD else f"model.{name}": array for name, array in params.items()}


def _require(field, value, needed):
    """Raises ValueError naming the first field, of a section too, in which a value is not the one that is needed."""
    if dataclasses.is_dataclass(value):
        for part in dataclasses.fields(value):
            _require(f"{field}.{part.name}", getattr(value, part.name), getattr(needed, part.name))
    elif value != needed:
        raise ValueError(f"{field}={value!r}: a RetNet has {needed!r}")


def _official_name(name):
    """torchscale's name for a parameter that may have the HF-style port's."""
    return _HEAD if name == "lm_head.weight" else name.removeprefix("model.")


def _without_embedding_norm(params, embedding_scale, norm_epsilon):
    """The parameters of an equal model without `layernorm_embedding`: a norm right behind the embedding maps each token
    to one vector, so it is a part of the table. The head keeps the table of before."""
    table_WD, scale_D = params[_EMBEDDING], params[_EMBEDDING_NORM]
    if scale_D.shape != table_WD.shape[1:]:
        raise ValueError(f"{_EMBEDDING_NORM} of shape {scale_D.shape}: {table_WD.shape[1:]} is needed")
    scaled_WD = embedding_scale * table_WD.astype(np.float64)
    size_W1 = np.sqrt(np.mean(scaled_WD**2, axis=-1, keepdims=True) + norm_epsilon)
    return {_HEAD: table_WD} | params | {_EMBEDDING: (scaled_WD / size_W1 * scale_D).astype(np.float32)}


def _layer_names(layer):
    return [f"layers.{layer}.{name}.weight" for name in (*_MATRICES, *_NORMS)]


def _stack(name, layers):
    if len({layer.shape for layer in layers}) > 1:
        raise ValueError(f"{name} differs in shape between layers: {sorted({layer.shape for layer in layers})}")
    return np.stack(layers)


def _constants(config):
    """The buffers that hold what is a formula here: one angle for each feature, the log decay of each head."""
    frequency = rotary.frequencies(config.key_width, config.rotary.base, config.rotary.kind)
    is_lm = config.retention.decay == "lm"
    log_decay_H = retention.lm_log_decay(config.num_heads) if is_lm else retention.log_decay(config.num_heads)
    return {_ANGLE: np.repeat(np.asarray(frequency.radian_P), 2), _DECAY: np.asarray(log_decay_H)}
