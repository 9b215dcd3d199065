"""What is added up over batches and updates, and the figures of a log line that are made of it."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixkabrn_jax.models import language
from mixkabrn_jax.models.quantize import WeightStatistics, has_quantised
from mixkabrn_jax.training.losses import cross_entropy

AUXILIARY_LOSSES = ("balance_loss", "sequence_balance_loss", "device_balance_loss", "router_z_loss")
"""Each is the name of a coefficient in `StepConfig`, of a total in `Sums` and of a figure in the log."""


class Sums(NamedTuple):
    """Totals over batches; means are taken once, on the host."""

    nats: jax.Array
    tokens: jax.Array
    num_bytes: jax.Array
    updates: jax.Array
    grad_norm: jax.Array
    outside: jax.Array | None
    """Share of KAN inputs outside their grids, one term an update; None without splines."""
    balance_loss: jax.Array
    """This and the other auxiliary losses are summed over layers, without coefficient, one term an update."""
    sequence_balance_loss: jax.Array
    device_balance_loss: jax.Array
    router_z_loss: jax.Array
    dropped: jax.Array
    """Choices that found no room, in all layers."""
    load_LE: jax.Array | None
    """Choices that fell on each expert; None without experts."""
    weights: WeightStatistics | None
    """Of the quantised matrices, one term an update; None without any."""


def zeros(model: language.LanguageModel) -> Sums:
    """Totals over nothing."""
    config = model.config
    shape = (config.num_layers - config.first_dense_layers, config.num_experts)
    load_LE = jnp.zeros(shape) if config.num_experts else None
    weights = WeightStatistics(*(jnp.zeros(()) for _ in WeightStatistics._fields)) if has_quantised(model) else None
    optional = {
        "outside": jnp.zeros(()) if config.ffn == "kan" and config.kan.basis == "bspline" else None,
        "load_LE": load_LE,
        "weights": weights,
    }
    return Sums(**{field: jnp.zeros(()) for field in Sums._fields} | optional)


def of_batch(model: language.LanguageModel, batch: dict[str, jax.Array]) -> Sums:
    """One forward pass of a batch of arrays `[B, T]`; what is of updates stays 0."""
    output = model(batch["tokens"], segment_ids_BT=batch["segment_ids"])
    sums = zeros(model)._replace(
        nats=cross_entropy(output.logits_BTW, batch["targets"], batch["loss_mask"]),
        tokens=jnp.sum(batch["loss_mask"]),
        num_bytes=jnp.sum(batch["num_bytes"]).astype(jnp.float32),
        outside=None if output.outside_L is None else jnp.mean(output.outside_L),
    )
    balance = output.balance
    if balance is None:
        return sums
    return sums._replace(
        load_LE=balance.load_E,
        balance_loss=jnp.sum(balance.loss),
        sequence_balance_loss=jnp.sum(balance.sequence_loss),
        device_balance_loss=jnp.sum(balance.device_loss),
        router_z_loss=jnp.sum(balance.z_loss),
        dropped=jnp.sum(balance.dropped * jnp.sum(balance.load_E, axis=-1)),
    )


def means(sums: Sums, config) -> dict[str, float]:
    """The figures of a log line.

    Args:
        config: `step.StepConfig`, for the coefficients of auxiliary losses.

    Always nats per token and bits per byte; for sums over updates also the gradient norm; with splines, the share of
    KAN inputs outside their grids; with experts, each auxiliary loss (balance: 1 a layer when even) by the name of its
    coefficient, the total that was minimised, the busiest expert's load over the mean (1 when even, the worst layer),
    the entropy of the load over its largest value (1 when even, the mean of layers) and the share of choices that were
    dropped; with quantised matrices the share of zeros among their codes, of codes that an update changed, and their
    scale, each the mean of all matrices.
    """
    sums = jax.device_get(sums)
    values = {
        "loss": float(sums.nats) / max(float(sums.tokens), 1),
        "bits_per_byte": float(sums.nats) / math.log(2) / max(float(sums.num_bytes), 1),
    }
    if sums.updates:
        values["grad_norm"] = float(sums.grad_norm / sums.updates)
    if sums.updates and sums.outside is not None:
        values["outside_grid"] = float(sums.outside / sums.updates)
    if sums.updates and sums.load_LE is not None:
        for name in AUXILIARY_LOSSES:
            values[name] = float(getattr(sums, name) / sums.updates)
        values["total_loss"] = values["loss"] + sum(getattr(config, name) * values[name] for name in AUXILIARY_LOSSES)
        # Sums over padding alone have a load of 0, and so all of these figures.
        share_LE = sums.load_LE / np.maximum(sums.load_LE.sum(axis=-1, keepdims=True), 1)
        values["max_load"] = float(share_LE.max() * share_LE.shape[-1])
        entropy_L = -(share_LE * np.log(np.where(share_LE > 0, share_LE, 1))).sum(axis=-1)
        values["load_entropy"] = float(entropy_L.mean() / math.log(max(share_LE.shape[-1], 2)))
        values["dropped"] = float(sums.dropped / max(sums.load_LE.sum(), 1))
    if sums.updates and sums.weights is not None:
        values |= {f"weight_{name}": float(x / sums.updates) for name, x in sums.weights._asdict().items()}
    return values
