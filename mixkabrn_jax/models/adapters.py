"""Low-rank adapters of a model that itself stays as it is: put in to be trained, taken out, summed, merged."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.frozen import Adapted, factor_letters, low_rank, with_low_rank
from mixkabrn_jax.layers.linear import normal_init
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.codes import coded
from mixkabrn_jax.models.language import LanguageModel

EXPERTS = ("each", "shared")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """What of a frozen model is trained (Hu et al. 2021, LoRA): `config.adapter`, beside `config.init_from`."""

    rank: int = 0
    """Of each low-rank matrix; 0 trains the model's own parameters."""
    alpha: float = 8.0
    """What an adapter adds is scaled by alpha / rank, so that other ranks need no other learning rate."""
    targets: str = "*"
    """Shell patterns of the matrices that get one, with commas between them, such as "*.mixer.*,*.spline"; names are
    those of the model's file (docs/format.md)."""
    experts: str = "each"
    """"each" routed expert has factors of its own, or one pair is "shared" by all of them."""

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"config.adapter.rank={self.rank}: 0 (none) or more is needed")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"config.adapter.alpha={self.alpha}: more than 0 is needed")
        if self.experts not in EXPERTS:
            raise ValueError(f"config.adapter.experts={self.experts!r}: one of {EXPERTS} is needed")


def put_in(model: LanguageModel, config: AdapterConfig, *, rngs: nnx.Rngs) -> LanguageModel:
    """The model with new adapters, which add nothing yet: A is normal, B is 0.

    Args:
        model: whose own variables are frozen, or will be trained along.
    Raises: ValueError for a pattern that matches no matrix, and for a rank above a matrix's width.
    """
    model = surgery.copy(model)
    targets = [pattern.strip() for pattern in config.targets.split(",") if pattern.strip()]
    if not targets:
        raise ValueError(f"config.adapter.targets={config.targets!r}: at least one pattern, such as '*', is needed")
    try:
        found = surgery.match_matrices(model, targets)
    except ValueError as error:
        raise ValueError(f"config.adapter.targets={config.targets!r}: {error}") from error
    for path, matrix in found.items():
        *lead, d_in, d_out = matrix.shape
        if config.rank > min(d_in, d_out):
            raise ValueError(
                f"config.adapter.rank={config.rank} is above the width of {path}, which is {d_in} x {d_out}: at most "
                f"{min(d_in, d_out)} is needed, or other config.adapter.targets"
            )
        is_shared = config.experts == "shared" and ".experts." in path
        if is_shared:
            lead[-1] = 1
        of_A, of_B = factor_letters(matrix, is_shared=is_shared)
        lora_A = normal_init(rngs, (*lead, d_in, config.rank), 1.0, of_A)
        lora_B = nnx.Param(jnp.zeros((*lead, config.rank, d_out)), letters=of_B)
        surgery.replace(model, path, Adapted(matrix, lora_A, lora_B, config.alpha / config.rank))
    return model


def factors(model: LanguageModel) -> dict[str, tuple[jax.Array, jax.Array]]:
    """(A `[..., D, K]`, B `[..., K, F]` times alpha / rank) of every matrix that has an adapter, by its name."""
    return {path: matrix.factors() for path, matrix in surgery.matrices(model).items() if isinstance(matrix, Adapted)}


def apply(
    model: LanguageModel, adapters: Iterable[tuple[Mapping[str, tuple[jax.Array, jax.Array]], float]]
) -> LanguageModel:
    """The model with the weighted sum of several adapters, in place of those that it has; of none, without any.

    Its own arrays are those of the given model: to switch costs nothing but the factors.

    Args:
        adapters: (`factors` of a model with the same matrices, what they are weighted by) of each.
    Raises: ValueError for factors of a matrix that this model does not have, or has in another shape.
    """
    model, parts = surgery.copy(model), {}
    matrices = surgery.matrices(model)
    for path, matrix in matrices.items():
        if isinstance(matrix, Adapted):
            matrices[path] = matrix.matrix
            surgery.replace(model, path, matrix.matrix)
    for found, weight in adapters:
        for path, (lora_A, lora_B) in found.items():
            if path not in matrices or not _fits(lora_A, lora_B, matrices[path].shape):
                raise ValueError(f"an adapter is for another model: it has factors of {path}, {_shape(lora_A, lora_B)}")
            parts.setdefault(path, []).append((lora_A, weight * lora_B))
    for path, pairs in parts.items():
        surgery.replace(model, path, Adapted(matrices[path], *_sum(matrices[path], pairs)))
    return model


def _fits(lora_A, lora_B, shape):
    """Whether factors are of a matrix `[..., D, F]`; where experts share them, their dimension of E is 1."""
    *lead, rows, columns = shape
    shared = [*lead[:-1], 1] if len(lead) > 1 else lead
    own = list(lora_A.shape[:-2])
    return own in (lead, shared) and (lora_A.shape[-2], lora_B.shape[-1]) == (rows, columns)


def _shape(lora_A, lora_B):
    return " x ".join(map(str, (*lora_A.shape, lora_B.shape[-1])))


def _sum(matrix, pairs):
    """Variables of the factors of a sum beside a matrix: those of its terms side by side."""
    lead = jnp.broadcast_shapes(*(lora_A.shape[:-2] for lora_A, _ in pairs))  # some may be shared by experts
    terms = [[jnp.broadcast_to(each, (*lead, *each.shape[-2:])) for each in pair] for pair in pairs]
    of_A, of_B = factor_letters(matrix, is_shared=lead != matrix.shape[:-2])
    lora_A = nnx.Param(jnp.concatenate([lora_A for lora_A, _ in terms], axis=-1), letters=of_A)
    return lora_A, nnx.Param(jnp.concatenate([lora_B for _, lora_B in terms], axis=-2), letters=of_B)


def merge(model: LanguageModel) -> LanguageModel:
    """The model whose matrices are sums of what they were and of their adapters, equal to rounding, in float32.

    Nothing of it is frozen: it may be saved, as a run or as a file, and trained.

    Args:
        model: whose matrices that have adapters are dense, or read from a file: those are not rounded again; inputs of
            ternary ones are rounded as before.
    Raises: ValueError for a matrix that is rounded as it is read: the sum would be, and most of the adapter lost.
    """
    matrices = surgery.matrices(model)
    for each in coded(model):
        if isinstance(matrices[name := ".".join(each.path)], Adapted):
            raise ValueError(f"{name} is {each.kind}, and would round its adapter away: open the model from its file")
    merged = surgery.copy(model)
    there = {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(model))}
    new = jax.eval_shape(lambda: LanguageModel(model.config, model.vocab_size, rngs=nnx.Rngs(0)))
    for path, variable in nnx.to_flat_state(nnx.state(new)):
        name = ".".join(map(str, path))
        own = matrices[name] if name in matrices else there[name]
        surgery.replace(merged, name, variable.replace(with_low_rank(own[...], low_rank(own))))
    return merged
