"""A trained model as one safetensors file, which holds its tokenizer and config too; docs/format.md has every byte.

What the model multiplies by is stored exactly: codes and scales where a number format has them, float32 elsewhere. Only
where a rounding is asked for do matrices that training did not round take 8 or 16 bits a number.
"""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.layers import variables
from mixkabrn_jax.layers.frozen import Adapted, Codes, has_codes
from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import ROUNDED, Linear
from mixkabrn_jax.models import codes, surgery
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.models.quantize import linear_type
from mixkabrn_jax.runs.config import build
from mixkabrn_jax.runs.model import abstract

FORMAT = "mixkabrn-1"
_TOKENIZER = "tokenizer.json.zlib"
_TYPES = {"F32": np.float32, "BF16": jnp.bfloat16, "U8": np.uint8}


def to_bytes(
    model: LanguageModel, tokenizer: Tokenizer, config: Mapping, about: Mapping = {}, rounding: str = ""
) -> bytes:
    """The file of a model.

    Args:
        config: that of the run; its model section becomes the model's own.
        about: where the model comes from; anything that JSON can hold.
        rounding: of matrices without codes, one of `codes.ROUNDINGS`; "" keeps them.
    Raises: ValueError for a model of integer layers, whose weights are gone, for one with adapters or kept as codes,
        and for another rounding.
    """
    if any(isinstance(matrix, Adapted) for matrix in surgery.matrices(model).values()):
        raise ValueError("the model has adapters beside its matrices: adapters.merge gives one without, of float32")
    if has_codes(model):
        raise ValueError(
            "the model is kept as the codes of its file, for adapters beside it: take that file, or adapters.merge for "
            "one of float32"
        )
    if any(linear_type(layer) == "integers" for _, layer in surgery.layers(model)):
        raise ValueError("the model has integer layers: save the model that to_integers was given")
    tensors, kinds = _tensors(model, rounding)
    text = json.dumps(tokenizer.to_json(), ensure_ascii=False, separators=(",", ":")).encode()
    tensors[_TOKENIZER] = np.frombuffer(zlib.compress(text, 9), np.uint8)
    metadata = {
        "config": _json({**config, "model": dataclasses.asdict(model.config)}),
        "codes": _json(kinds),
        "about": _json(about),
    }
    return serialize(FORMAT, tensors, metadata)


class Header(NamedTuple):
    """What a file says besides the numbers of its model."""

    tokenizer: Tokenizer
    config: dict
    about: dict
    sha256: str
    """Of its tensors."""


def read(path: Path) -> tuple[LanguageModel, Tokenizer, dict]:
    """(model, tokenizer, config) of a file; the model is the one that was saved, for evaluation.

    Its matrices hold codes times scales and are not rounded again: `Linear` layers have the number format "rounded".

    Raises: OSError; ValueError for a file of another form, or one that is damaged.
    """
    try:
        return from_bytes(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_header(path: Path) -> Header:
    """What a file says besides the numbers of its model. Raises: as `read`."""
    try:
        return header(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def header(content: bytes) -> Header:
    """`read_header` of a file's bytes."""
    tensors, metadata = _parts(content)
    about = json.loads(metadata["about"])
    return Header(_tokenizer(tensors), json.loads(metadata["config"]), about, metadata["sha256"])


def from_bytes(content: bytes) -> tuple[LanguageModel, Tokenizer, dict]:
    """`read` of a file's bytes."""
    return _filled(content, lambda leaf, tensors, name, kinds: leaf.replace(_value(leaf, tensors, name, kinds)))


def frozen_from_bytes(content: bytes) -> tuple[LanguageModel, Tokenizer, dict]:
    """`read` of a file's bytes, of a model that is kept as codes and has nothing to train."""
    return _filled(content, _frozen)


def _filled(content, of_leaf):
    """(model, tokenizer, config) of a file, its variables made by `of_leaf`, which takes its tensors out."""
    tensors, metadata = _parts(content)
    config, kinds = json.loads(metadata["config"]), json.loads(metadata["codes"])
    tokenizer = _tokenizer(tensors)
    del tensors[_TOKENIZER]
    model_config = build(ModelConfig, config["model"], "config.model", is_complete=False)
    graph, part = abstract(model_config, tokenizer.vocab_size)
    model = nnx.merge(graph, part["params"], part["buffers"])
    for path, leaf in nnx.to_flat_state(nnx.merge_state(part["params"], part["buffers"])):
        name = ".".join(map(str, path))
        surgery.replace(model, name, of_leaf(leaf, tensors, name, kinds))
    if tensors:
        raise ValueError(f"its tensors {', '.join(sorted(tensors))} are not those of its config")
    return _without_rounding(model), tokenizer, config


def write(path: Path, content: bytes) -> None:
    """Writes the file as a whole or not at all. Raises: OSError."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def describe(content: bytes) -> dict[str, dict[str, int]]:
    """By number format, how many tensors there are, the numbers that they stand for, and their bytes.

    Of the file of an adapter too, which has no codes.
    """
    tensors, kinds, found = _arrays(deserialize(content)), json.loads(_metadata(content).get("codes", "{}")), {}
    for name, tensor in tensors.items():
        owner, _, part = name.rpartition(".")
        kind = "scales" if part == "scales" and owner in kinds else kinds.get(owner, {}).get("kind", tensor.dtype.name)
        if name == _TOKENIZER:
            kind = "tokenizer"
        size = int(np.prod(kinds[owner]["shape"])) if part == "codes" else tensor.size
        entry = found.setdefault(kind, {"count": 0, "numbers": 0, "bytes": 0})
        for key, value in (("count", 1), ("numbers", size), ("bytes", tensor.nbytes)):
            entry[key] += value
    return found


def _tensors(model, rounding):
    """(arrays by name, number format and shape of those that are codes by the name of their variable)."""
    by_path = {each.path: each for each in codes.coded(model, rounding)}
    tensors, kinds = {}, {}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        parts = tuple(map(str, path))
        name, each = ".".join(parts), by_path.get(parts)
        if each is None or each.kind == "bfloat16":
            tensors[name] = np.asarray(variable[...], None if each is None else jnp.bfloat16)
            continue
        numbers, scales = each.encode()
        kinds[name] = {"kind": each.kind, "shape": list(numbers.shape)}
        tensors[f"{name}.codes"] = codes.pack(np.asarray(numbers), each.kind)
        tensors[f"{name}.scales"] = np.asarray(scales)
    return tensors, kinds


def _value(leaf, tensors, name, kinds):
    """A variable's array, taken out of the tensors."""
    if name in kinds:
        value = codes.decode(*_codes(tensors, name, kinds[name]))
    else:
        value = _take(tensors, name).astype(np.float32)
    return _checked(value, leaf, name)


def _frozen(leaf, tensors, name, kinds):
    """What stands in a frozen model for a variable."""
    letters = variables.letters(leaf)
    if name not in kinds:
        return variables.Frozen(jnp.asarray(_value(leaf, tensors, name, kinds)), letters=letters)
    numbers, scales = _codes(tensors, name, kinds[name])
    return Codes(_checked(numbers, leaf, name), scales, kinds[name]["kind"], letters)


def _codes(tensors, name, about):
    numbers = codes.unpack(_take(tensors, f"{name}.codes"), about["kind"], tuple(about["shape"]))
    return numbers, _take(tensors, f"{name}.scales")


def _take(tensors, name):
    if name not in tensors:
        raise ValueError(f"it lacks the tensor {name!r}")
    return tensors.pop(name)


def _checked(value, leaf, name):
    if value.shape != leaf.shape:
        raise ValueError(f"its {name} has the shape {value.shape}, where its config needs {leaf.shape}")
    return value


def _without_rounding(model):
    """Values that come from codes are what is multiplied by; in the place of the formats that they would be given."""
    for _, layer in surgery.layers(model, (Linear, KanLayer)):
        if isinstance(layer, Linear):
            layer.config = _rounded(layer.config)
        else:
            layer.linear = _rounded(layer.linear)
            features = layer.features
            features.config = dataclasses.replace(features.config, spline_linear="dense")
    quantization = dataclasses.replace(model.config.quantization, embedding="dense")
    model.config = dataclasses.replace(model.config, quantization=quantization)
    return model


def _rounded(config):
    return config if config.linear == "dense" else dataclasses.replace(config, linear=ROUNDED)


def _parts(content):
    """(tensors, metadata) of a model's file."""
    tensors, metadata = parse(FORMAT, content)
    missing = {"config", "codes", "about", _TOKENIZER} - metadata.keys() - tensors.keys()
    if missing:
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    return tensors, metadata


def serialize(form: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file that says its form, and can prove that its tensors are whole."""
    return save(dict(tensors), {"format": form, **metadata, "sha256": _digest(tensors)})


def parse(form: str, content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, metadata) of a file that `serialize` made. Raises: ValueError for another one, or a damaged one."""
    try:
        entries, metadata = deserialize(content), _metadata(content)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"this is no safetensors file ({error})") from error
    if metadata.get("format") != form:
        raise ValueError(f"its format is {metadata.get('format')!r}, where {form!r} is needed")
    tensors = _arrays(entries)
    if _digest(tensors) != metadata.get("sha256"):
        raise ValueError("its tensors are not those that were written: their SHA-256 is another")
    return tensors, metadata


def _arrays(entries):
    """Of a safetensors file, by name."""
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"its tensor {name!r} is of dtype {entry['dtype']!r}: one of {tuple(_TYPES)} is needed")
        tensors[name] = np.frombuffer(entry["data"], _TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def _tokenizer(tensors):
    return tokenizers.from_json(json.loads(zlib.decompress(tensors[_TOKENIZER].tobytes())))


def _metadata(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


def _digest(tensors):
    """Of names, kinds, shapes and bytes, whatever the order in the file is."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode() + tensor.tobytes())
    return digest.hexdigest()


def _json(value):
    return json.dumps(value, separators=(",", ":"))
