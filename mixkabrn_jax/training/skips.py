"""The updates that were skipped since the last record of the log: gathered on the device, told by the host."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

ACCEPTED = 0
REASONS = ("non-finite loss", "non-finite gradients", "loss spike")
"""Why an update is skipped, as the log says it; a reason's code is its place here, counted from 1."""


class Skips(NamedTuple):
    """The skipped updates since the last record, oldest first, with room for all steps up to the next one."""

    count: jax.Array
    step_U: jax.Array
    """int32, counted from 1."""
    reason_U: jax.Array
    """int32, a place in `REASONS`, counted from 1."""
    loss_U: jax.Array
    grad_norm_U: jax.Array


def init(num_places: int) -> Skips:
    """The list of a run in which no update has been skipped.

    Args:
        num_places: steps from one record of the log to the next, at most.
    """
    return Skips(
        count=jnp.zeros((), jnp.int32),
        step_U=jnp.zeros(num_places, jnp.int32),
        reason_U=jnp.zeros(num_places, jnp.int32),
        loss_U=jnp.zeros(num_places),
        grad_norm_U=jnp.zeros(num_places),
    )


def add(skips: Skips, is_skipped: jax.Array, **figures: jax.Array) -> Skips:
    """The list with this update in it, where it was skipped.

    Args:
        is_skipped: `[]` bool.
        figures: step, reason, loss and grad_norm, all `[]`.
    """
    lists = {
        f"{name}_U": write(getattr(skips, f"{name}_U"), skips.count, value, is_skipped)
        for name, value in figures.items()
    }
    return Skips(count=skips.count + is_skipped, **lists)


def write(array_U: jax.Array, place: jax.Array, value: jax.Array, holds: jax.Array) -> jax.Array:
    """The array with the value at a place, if the condition holds."""
    return array_U.at[place].set(jnp.where(holds, value, array_U[place]))


def resize(skips: Skips, num_places: int) -> Skips:
    """The same skips in longer or shorter lists; those of no use are 0, as in `init`."""
    count = int(skips.count)

    def resized(list_U):
        fitting_U = list_U[: min(num_places, len(list_U))]
        return jnp.pad(jnp.where(jnp.arange(len(fitting_U)) < count, fitting_U, 0), (0, num_places - len(fitting_U)))

    return Skips(skips.count, *map(resized, skips[1:]))


def records(skips: Skips) -> list[dict]:
    """The skips as the log has them: step, reason, loss, grad_norm, batch.

    `batch` is the batch's position: `data.pipeline.train_batches` of the same config hands it out again after
    `set_state({"next_index": batch})`. The data moves on with every step, so it is that of the step, counted from 0.
    """
    skips = jax.device_get(skips)
    return [
        {
            "step": int(skips.step_U[i]),
            "reason": REASONS[skips.reason_U[i] - 1],
            "loss": float(skips.loss_U[i]),
            "grad_norm": float(skips.grad_norm_U[i]),
            "batch": int(skips.step_U[i]) - 1,
        }
        for i in range(skips.count)
    ]


def describe(step: int, record: dict) -> str:
    """One of `records` for people."""
    return (
        f"step {step} skipped for its {record['reason']} (loss {record['loss']:.4g}, "
        f"gradient norm {record['grad_norm']:.4g}, batch {record['batch']})"
    )
