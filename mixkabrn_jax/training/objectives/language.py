"""Next-token prediction: cross entropy, and the auxiliary losses of routed experts with their coefficients."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mixkabrn_jax import sharding
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.training import totals
from mixkabrn_jax.training.losses import token_nats
from mixkabrn_jax.training.totals import Counts, Totals


@dataclass(frozen=True)
class LanguageObjective:
    """The loss of a language model, in nats per token; fields are those of `config.objective`.

    With gradient accumulation the balance and the device balance loss, which are products of two means, are the mean of
    those of the microbatches and not that of the whole batch.
    """

    balance_loss: float
    """Coefficient of the expert balance loss (alpha 1 of DeepSeekMoE), summed over layers."""
    sequence_balance_loss: float
    """Coefficient of the balance loss within each row of the batch (alpha of DeepSeek-V3), summed over layers."""
    device_balance_loss: float
    """Coefficient of the device balance loss (alpha 2 of DeepSeekMoE), summed over layers."""
    router_z_loss: float
    """Coefficient of the mean square of the router's logsumexp (ST-MoE), summed over layers."""

    def __post_init__(self):
        for field in totals.AUXILIARY_LOSSES:
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"config.objective.{field}={getattr(self, field)}: 0 or more is needed")

    def counts(self, batch: Mapping[str, jax.Array]) -> Counts:
        """Of a batch of arrays `[B, T]` as `data.packing` makes them, or of a part of one."""
        is_token_BT = batch["segment_ids"] > 0
        tokens_B = sharding.psum(jnp.sum(is_token_BT, axis=1), ("context",))
        # A row that devices share counts for each of them by its part.
        rows = jnp.sum(tokens_B > 0) / sharding.size("context")
        return Counts(jnp.sum(batch["loss_mask"]), jnp.sum(is_token_BT), rows)

    def loss(
        self, model: LanguageModel, batch: Mapping[str, jax.Array], batch_counts: Counts, num_parts: int
    ) -> tuple[jax.Array, Totals]:
        """A part's share in the loss of a batch: the shares of all parts add up to it.

        Args:
            batch: one of the parts, a microbatch on one device.
            batch_counts: `counts` of the whole batch, none of them 0.
            num_parts: of the batch.
        Returns: (`[]`, the part's share in the totals of an update).
        """
        part_totals = self.totals(model, batch)
        # A mean over the whole batch is the parts' means by their share of it: exact for means over tokens or rows. The
        # other two losses have no such shares; each part counts the same, and so do inputs of splines.
        part = self.counts(batch)
        share = {
            "sequence_balance_loss": part.rows / batch_counts.rows,
            "router_z_loss": part.tokens / batch_counts.tokens,
        }
        terms = {name: getattr(part_totals, name) * share.get(name, 1 / num_parts) for name in totals.AUXILIARY_LOSSES}
        loss = part_totals.nats / batch_counts.targets
        for name in totals.AUXILIARY_LOSSES:
            if getattr(self, name):  # one that is only reported costs no backward pass
                loss = loss + getattr(self, name) * terms[name]
        outside = None if part_totals.outside is None else part_totals.outside / num_parts
        return loss, part_totals._replace(**terms, outside=outside)

    def totals(self, model: LanguageModel, batch: Mapping[str, jax.Array]) -> Totals:
        """One forward pass of a batch; what is counted by updates stays 0."""
        output = model(batch["tokens"], segment_ids_BT=batch["segment_ids"])
        nats_BT = token_nats(output.logits_BTW, batch["targets"]) * batch["loss_mask"]
        found = totals.zeros(model)._replace(
            nats=jnp.sum(nats_BT),
            text_nats=jnp.sum(jnp.where(batch["num_bytes"] > 0, nats_BT, 0)),
            tokens=jnp.sum(batch["loss_mask"]),
            num_bytes=jnp.sum(batch["num_bytes"]).astype(jnp.float32),
            outside=None if output.outside_L is None else jnp.mean(output.outside_L),
        )
        balance = output.balance
        if balance is None:
            return found
        return found._replace(
            load_LE=balance.load_E,
            balance_loss=jnp.sum(balance.loss),
            sequence_balance_loss=jnp.sum(balance.sequence_loss),
            device_balance_loss=jnp.sum(balance.device_loss),
            router_z_loss=jnp.sum(balance.z_loss),
            dropped=jnp.sum(balance.dropped * jnp.sum(balance.load_E, axis=-1)),
        )
