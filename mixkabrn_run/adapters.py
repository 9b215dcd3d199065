"""Adapters out of their files, which docs/adapters.md describes: low-rank matrices beside those of a model."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixkabrn_run import file
from mixkabrn_run.chat import Template

FORMAT = "mixkabrn-adapter-1"
_MATRICES = ("kernel", "base", "spline", "embedding_WD", "head_WD")
"""Ends of the names of what may have one beside it: all that models multiply by but for routers and decays."""


class Adapter(NamedTuple):
    """What a file of one holds."""

    factors: dict[str, tuple[np.ndarray, np.ndarray]]
    """(A `[..., D, K]`, B `[..., K, F]`), float32, by the name of the matrix that A B is added to."""
    base: str
    """SHA-256 of the model that it is for."""
    content: bytes
    """The file."""
    template: Template | None
    """What its conversations were written by, where it has learnt any."""


def matrix_shapes(arrays: Mapping[str, file.Matrix]) -> dict[str, tuple[int, ...]]:
    """Of the matrices of a model that may have one beside them, by name."""
    return {name: array.values.shape for name, array in arrays.items() if name.rpartition(".")[2] in _MATRICES}


def parse(content: bytes, base: str, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """The adapter in a file's bytes.

    Args:
        base: SHA-256 of the model that it is to be beside; shapes: of its matrices.
    Raises: ValueError, saying what is wrong, for a file of another form, or damaged, or for another model.
    """
    tensors, metadata = file.parts(content, FORMAT, ("base",))
    if metadata["base"] != base:
        raise ValueError(f"it is for the model of SHA-256 {metadata['base']:.12}..., and this is {base:.12}...")
    factors = {}
    for name, tensor in tensors.items():
        matrix, _, end = name.rpartition(".")
        if end not in ("lora_A", "lora_B"):
            raise ValueError(f"its {name} is no factor of a matrix: a name with .lora_A or .lora_B behind it is needed")
        if tensor.dtype != np.float32:
            raise ValueError(f"its {name} has numbers of another type: float32 is needed")
        if not np.isfinite(tensor).all():
            raise ValueError(f"its {name} has numbers that are not finite")
        if matrix not in shapes:
            raise ValueError(f"it has a factor of {matrix}, and the model has no such matrix")
        factors[matrix] = tuple(tensors.get(f"{matrix}.lora_{letter}") for letter in "AB")
    for matrix, pair in factors.items():
        _check(matrix, pair, shapes[matrix])
    template = None
    if "chat_template" in metadata:
        template = Template(file.json_object(metadata["chat_template"], "chat_template"))
    return Adapter(factors, base, content, template)


def _check(matrix, pair, shape):
    if any(factor is None for factor in pair):
        raise ValueError(f"it lacks lora_{'A' if pair[0] is None else 'B'} of {matrix}")
    (*lead, d_in, d_out), rank = shape, pair[0].shape[-1] if pair[0].ndim else 0
    leads = [lead, [*lead[:-1], 1]] if ".experts." in matrix else [lead]  # one for each expert, or for all
    wanted = [((*each, d_in, rank), (*each, rank, d_out)) for each in leads]
    if rank < 1 or tuple(factor.shape for factor in pair) not in wanted:
        found = " and ".join(str(factor.shape) for factor in pair)
        raise ValueError(f"its factors of {matrix} have the shapes {found}, which are none of a matrix {shape}")


def weighted(text: str) -> tuple[Path, float]:
    """(file, weight) of a command line's FILE[:weight]. Raises: ValueError for a weight that is no number."""
    path, _, weight = text.rpartition(":")
    if Path(text).exists() or not path:
        return Path(text), 1.0
    try:
        return Path(path), checked(float(weight))
    except ValueError:
        raise ValueError(f"--adapter={text}: {weight!r} is no weight, and there is no such file") from None


def checked(weight: float) -> float:
    """A weight that float32 can hold. Raises: ValueError for another one."""
    if not math.isfinite(weight) or abs(weight) > float(np.finfo(np.float32).max):
        raise ValueError(f"weight={weight}: a number of float32 is needed")
    return weight
