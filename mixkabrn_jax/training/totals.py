"""What is added up over batches and updates, and the figures of a record of the log that are made of it."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixkabrn_jax.models import language
from mixkabrn_jax.models.quantize import WeightStatistics, has_quantised

AUXILIARY_LOSSES = ("balance_loss", "sequence_balance_loss", "device_balance_loss", "router_z_loss")
"""Each is the name of a coefficient of the objective, of a field of `Totals` and of a figure in the log."""


class Counts(NamedTuple):
    """What means over a batch are taken over."""

    targets: jax.Array
    """Whose loss counts."""
    tokens: jax.Array
    """Positions that are no padding."""
    rows: jax.Array
    """Those that are not padding alone."""


class Totals(NamedTuple):
    """Sums over batches, kept on the device; means are taken once, on the host."""

    nats: jax.Array
    text_nats: jax.Array
    """Of targets that are text: without the ends of documents."""
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
    """Choices beyond their expert's capacity, in all layers."""
    load_LE: jax.Array | None
    """Choices that fell on each expert; None without experts."""
    weights: WeightStatistics | None
    """Of the quantised matrices, one term an update; None without any."""


def zeros(model: language.LanguageModel) -> Totals:
    """Totals before the first batch."""
    config = model.config
    shape = (config.num_layers - config.first_dense_layers, config.num_experts)
    load_LE = jnp.zeros(shape) if config.num_experts else None
    weights = WeightStatistics(*(jnp.zeros(()) for _ in WeightStatistics._fields)) if has_quantised(model) else None
    optional = {
        "outside": jnp.zeros(()) if config.ffn == "kan" and config.kan.basis == "bspline" else None,
        "load_LE": load_LE,
        "weights": weights,
    }
    return Totals(**{field: jnp.zeros(()) for field in Totals._fields} | optional)


def means(totals: Totals, objective) -> dict[str, float]:
    """The figures of a record of the log.

    Args:
        objective: that of the run, for the coefficients of auxiliary losses.

    Always nats per token and bits per byte; for totals over updates also the gradient norm; with splines, the share of
    KAN inputs outside their grids; with experts, each auxiliary loss (balance: 1 a layer when even) by the name of its
    coefficient, the total that was minimised, the busiest expert's load over the mean (1 when even, the worst layer),
    the entropy of the load over its largest value (1 when even, the mean of layers) and the share of choices that were
    dropped; with quantised matrices the share of zeros among their codes, of codes that an update changed, and their
    scale, each the mean of all matrices.
    """
    totals = jax.device_get(totals)
    values = {
        "loss": float(totals.nats) / max(float(totals.tokens), 1),
        "bits_per_byte": float(totals.text_nats) / math.log(2) / max(float(totals.num_bytes), 1),
    }
    if not totals.updates:
        return values
    values["grad_norm"] = float(totals.grad_norm / totals.updates)
    if totals.outside is not None:
        values["outside_grid"] = float(totals.outside / totals.updates)
    if totals.load_LE is not None:
        values |= _of_routing(totals, values["loss"], objective)
    if totals.weights is not None:
        values |= {f"weight_{name}": float(x / totals.updates) for name, x in totals.weights._asdict().items()}
    return values


def _of_routing(totals, loss, objective):
    values = {name: float(getattr(totals, name) / totals.updates) for name in AUXILIARY_LOSSES}
    values["total_loss"] = loss + sum(getattr(objective, name) * values[name] for name in AUXILIARY_LOSSES)
    # Totals over padding alone have a load of 0, and so all of these figures.
    share_LE = totals.load_LE / np.maximum(totals.load_LE.sum(axis=-1, keepdims=True), 1)
    values["max_load"] = float(share_LE.max() * share_LE.shape[-1])
    entropy_L = -(share_LE * np.log(np.where(share_LE > 0, share_LE, 1))).sum(axis=-1)
    values["load_entropy"] = float(entropy_L.mean() / math.log(max(share_LE.shape[-1], 2)))
    values["dropped"] = float(totals.dropped / max(totals.load_LE.sum(), 1))
    return values
