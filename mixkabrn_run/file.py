"""A model's file: docs/format.md has every byte. Read without trust: nothing of it is executed, and all sizes are held
against the file's own before anything is allocated."""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = "mixkabrn-1"
_TYPES = {"F32": np.dtype("<f4"), "BF16": np.dtype("<u2"), "U8": np.dtype("u1")}
_NAMES = {"uint16": "bfloat16"}
"""Of the types that NumPy lacks, by those that stand for them."""
_MOST_HEADER_BYTES = 2**24
_MOST_TOKENIZER_BYTES = 2**28
_PACKINGS = {"ternary": (5, 3, -1, 1), "binary": (8, 2, -1, 2), "int4": (2, 16, -8, 1), "int8": (1, 256, -128, 1)}
"""Codes in a byte, how many there are, the smallest, and from one to the next."""


class Matrix(NamedTuple):
    """An array of the model: float32 values, or codes with what they are multiplied by."""

    values: np.ndarray
    """float32, or int8 codes: `[..., D, F]`."""
    scales: np.ndarray | None
    """`[..., G]`, of D / G rows each; None for values."""
    kind: str = ""
    """Of codes: their number format."""
    low_ranks: tuple["LowRank", ...] = ()
    """What adapters have beside it."""

    def __getitem__(self, index):
        return self._replace(
            values=self.values[index],
            scales=None if self.scales is None else self.scales[index],
            low_ranks=tuple(LowRank(each.lora_A[index], each.lora_B[index], each.weight) for each in self.low_ranks),
        )


class LowRank(NamedTuple):
    """A matrix A B that is added to another, times a weight."""

    lora_A: np.ndarray
    """float32 `[..., D, K]`."""
    lora_B: np.ndarray
    """`[..., K, F]`."""
    weight: np.float32


class File(NamedTuple):
    """What a file holds."""

    model: dict[str, Any]
    """The model's config."""
    arrays: dict[str, Matrix]
    """By the name of the variable."""
    tokenizer: dict[str, Any]
    """Its tokenizer.json."""
    about: dict[str, Any]
    sha256: str


def read(path: str | Path) -> File:
    """Raises: OSError; ValueError, saying what is wrong, for a file that is damaged or of another form."""
    path = Path(path)
    content = path.read_bytes()
    try:
        return parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(content: bytes) -> File:
    """`read` of a file's bytes."""
    tensors, metadata = parts(content, FORMAT, ("config", "codes", "about"))
    config, kinds, about = (json_object(metadata[key], key) for key in ("config", "codes", "about"))
    tokenizer = tensors.pop("tokenizer.json.zlib", None)
    if tokenizer is None or not isinstance(config.get("model"), dict):
        raise ValueError("it lacks a tokenizer or a model's config")
    arrays = {name: _decoded(name, entry, tensors) for name, entry in kinds.items()}
    arrays |= {name: Matrix(_floats(tensor), None) for name, tensor in tensors.items()}
    for name, matrix in arrays.items():
        numbers = matrix.values if matrix.scales is None else matrix.scales
        if not np.isfinite(numbers).all():
            raise ValueError(f"its {name} has numbers that are not finite")
    return File(config["model"], arrays, json_object(_inflate(tokenizer), "tokenizer"), about, metadata["sha256"])


def parts(content: bytes, form: str, keys: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(tensors, metadata) of a file of a form, whose header has texts under these keys too. Raises: as `read`."""
    tensors, metadata = _tensors(content)
    if metadata.get("format") != form:
        raise ValueError(f"its format is {metadata.get('format')!r}, where {form!r} is needed")
    for key in (*keys, "sha256"):
        if not isinstance(metadata.get(key), str):
            raise ValueError(f"its header has no {key!r}")
    if _digest(tensors) != metadata["sha256"]:
        raise ValueError("its tensors are not those that were written: their SHA-256 is another")
    return tensors, metadata


def _tensors(content):
    if len(content) < 8:
        raise ValueError(f"{len(content)} bytes are no safetensors file")
    length = int.from_bytes(content[:8], "little")
    if length > min(len(content) - 8, _MOST_HEADER_BYTES):
        raise ValueError(f"this is no safetensors file: a header of {length} bytes, in a file of {len(content)}")
    header = json_object(content[8 : 8 + length], "header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError("its __metadata__ is no object")
    data, tensors, end = content[8 + length :], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(*item)):
        begin, stop, dtype, shape = _entry(name, entry)
        if begin != end or stop > len(data) or stop - begin != dtype.itemsize * _size(shape):
            raise ValueError(f"its tensor {name!r} does not lie where its header says")
        tensors[name] = np.frombuffer(data, dtype, _size(shape), begin).reshape(shape).astype(dtype.newbyteorder("="))
        end = stop
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes behind its last tensor belong to none")
    return tensors, metadata


def _begin(name, entry):
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise ValueError(f"its tensor {name!r} has no place in the file")
    return offsets


def _entry(name, entry):
    begin, stop = _begin(name, entry)
    dtype, shape = _TYPES.get(entry.get("dtype")), entry.get("shape")
    if dtype is None:
        raise ValueError(f"its tensor {name!r} is of dtype {entry.get('dtype')!r}: one of {tuple(_TYPES)} is needed")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise ValueError(f"its tensor {name!r} has the shape {shape}")
    return begin, stop, dtype, tuple(shape)


def _size(shape):
    size = 1
    for n in shape:
        size *= n
    return size


def _digest(tensors):
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        dtype = _NAMES.get(tensor.dtype.name, tensor.dtype.name)
        digest.update(f"{name} {dtype} {tensor.shape}\n".encode() + tensor.tobytes())
    return digest.hexdigest()


def _floats(tensor):
    """A bfloat16 is the upper half of a float32."""
    return (tensor.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == np.uint16 else tensor


def _decoded(name, entry, tensors):
    packed, scales = tensors.pop(f"{name}.codes", None), tensors.pop(f"{name}.scales", None)
    kind, shape = (entry.get(key) for key in ("kind", "shape")) if isinstance(entry, dict) else (None, None)
    if packed is None or scales is None or kind not in _PACKINGS or not isinstance(shape, list):
        raise ValueError(f"its {name} lacks codes, scales, a shape, or a kind among {tuple(_PACKINGS)}")
    if packed.dtype != np.uint8 or scales.dtype != np.float32:
        raise ValueError(f"its {name} has codes of {packed.dtype} and scales of {scales.dtype}")
    per_byte, base, smallest, step = _PACKINGS[kind]
    if not all(type(n) is int and n >= 0 for n in shape) or packed.shape != (-(-_size(shape) // per_byte),):
        raise ValueError(f"its {name} has {packed.size} bytes, which do not hold {kind} codes of shape {shape}")
    if packed.size and packed.max() >= base**per_byte:
        raise ValueError(f"its {name} has bytes that stand for no {kind} codes")
    # Through a table of all bytes: one look for each byte.
    table = np.arange(256)[:, None] // base ** np.arange(per_byte) % base * step + smallest
    codes = table.astype(np.int8)[packed].reshape(-1)[: _size(shape)]
    return Matrix(codes.reshape(shape), scales, kind)


def _inflate(packed):
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed.tobytes(), _MOST_TOKENIZER_BYTES)
    except zlib.error as error:
        raise ValueError(f"its tokenizer is damaged ({error})") from None
    if not inflater.eof:
        raise ValueError("its tokenizer is cut short, or too large")
    return text


def json_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Raises: ValueError, naming what it is, for a text that is no object in JSON."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its {what} is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"its {what} is no JSON object")
    return value
