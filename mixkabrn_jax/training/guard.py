"""Updates that would do harm are skipped: of a loss or gradient that is no number, or a loss far above those before it.

The rule is that of OLMo 2's optimiser (OLMo et al. 2025, section 3), with two differences. What was skipped does not
enter the window, so a run of bad batches cannot pass for the usual. And a large gradient of a usual loss is left to
clipping: the gradient norms of a small batch have a tail so heavy that 6 deviations above their mean, or the mean of
their logarithms, left out 12 of 1300 harmless updates of lm.py:tiny, and the same of its losses none.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

ACCEPTED = 0
REASONS = ("non-finite loss", "non-finite gradients", "loss spike")
"""Why an update is skipped, as the log says it; a reason's code is its place here, counted from 1."""


@dataclass(frozen=True)
class GuardConfig:
    """Which updates are skipped, and when to give up; fields are those of `config.guard`."""

    history_length: int
    """Accepted updates that a new one is held against; 0 accepts every update, whatever it is."""
    sigmas: float
    """A loss so many standard deviations above the window's mean is a spike."""
    max_consecutive_skips: int
    """So many in a row end the run."""

    def __post_init__(self):
        if self.history_length < 0 or self.history_length == 1:
            raise ValueError(
                f"config.guard.history_length={self.history_length}: 2 or more is needed, or 0 for no guard"
            )
        if not 0 < self.sigmas < math.inf:
            raise ValueError(f"config.guard.sigmas={self.sigmas}: more than 0 is needed")
        if self.max_consecutive_skips < 1:
            raise ValueError(f"config.guard.max_consecutive_skips={self.max_consecutive_skips}: at least 1 is needed")


class Skips(NamedTuple):
    """The skipped updates since the last line of the log, oldest first; a line has room for all of its steps."""

    count: jax.Array
    step_U: jax.Array
    """int32, counted from 1."""
    reason_U: jax.Array
    """int32, a place in `REASONS`, counted from 1."""
    loss_U: jax.Array
    grad_norm_U: jax.Array


class History(NamedTuple):
    """What the guard knows of the updates so far: a part of the training state."""

    loss_U: jax.Array
    """The last accepted updates' losses in nats per token, each in the place of the one a window before it."""
    accepted: jax.Array
    """Of the run; the schedule's position, as the optimiser counts."""
    skipped: jax.Array
    """Of the run."""
    consecutive: jax.Array
    """Skipped since the last accepted one. Once it is `max_consecutive_skips` the state stays as it is, so where a run
    ends does not depend on when the host looks."""
    skips: Skips


def init(config: GuardConfig, log_every: int) -> History | None:
    """The history before the first update; None without a guard.

    Args:
        log_every: steps from one line of the log to the next, at most.
    """
    if not config.history_length:
        return None
    skips = Skips(
        count=jnp.zeros((), jnp.int32),
        step_U=jnp.zeros(log_every, jnp.int32),
        reason_U=jnp.zeros(log_every, jnp.int32),
        loss_U=jnp.zeros(log_every),
        grad_norm_U=jnp.zeros(log_every),
    )
    counts = {name: jnp.zeros((), jnp.int32) for name in ("accepted", "skipped", "consecutive")}
    return History(jnp.zeros(config.history_length), **counts, skips=skips)


def is_spike(value: jax.Array, window_U: jax.Array, accepted: jax.Array, sigmas: float) -> jax.Array:
    """Whether a value is more than `sigmas` standard deviations above the mean of a window.

    Nothing is a spike before half of the window is filled, and at least 2 of it. With 64 values the deviation is known
    to 9%, and of independent normal ones less than one in 10^7 is taken for a spike (Student's t, 63 degrees); with 16
    it would be one in 10^5, in a part of training where figures move fast besides.

    Args:
        value: `[]`; window_U: `[window]`, filled from its start; accepted: `[]`, values that ever entered it.
    Returns: `[]` bool; False for a value that is no number.
    """
    filled = jnp.minimum(accepted, len(window_U))
    is_filled_U = jnp.arange(len(window_U)) < filled
    # Relative to one of them: equal values deviate by exactly 0, and small deviations from a large mean are not lost.
    origin = window_U[0]
    difference_U = jnp.where(is_filled_U, window_U - origin, 0)
    mean = jnp.sum(difference_U) / jnp.maximum(filled, 1)
    square_U = jnp.where(is_filled_U, (difference_U - mean) ** 2, 0)
    deviation = jnp.sqrt(jnp.sum(square_U) / jnp.maximum(filled - 1, 1))
    return (filled >= max(len(window_U) // 2, 2)) & (value - origin - mean > sigmas * deviation)


def judge(history: History, config: GuardConfig, loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
    """`ACCEPTED`, or the code of the first of `REASONS` that speaks against an update.

    Args:
        loss: `[]`, nats per token of the batch; grad_norm: `[]`, before clipping. It is no number once an entry is
            none, or too large for its square to be one.
    Returns: `[]` int32.
    """
    against = (
        ~jnp.isfinite(loss),
        ~jnp.isfinite(grad_norm),
        is_spike(loss, history.loss_U, history.accepted, config.sigmas),
    )
    return jnp.select(against, [jnp.int32(code) for code in range(1, len(REASONS) + 1)], jnp.int32(ACCEPTED))


def review(
    history: History, config: GuardConfig, step: jax.Array, loss: jax.Array, grad_norm: jax.Array
) -> tuple[jax.Array, History]:
    """Whether the update of a step is accepted, and the history after it.

    Args:
        step: `[]`, counted from 1; loss, grad_norm: as for `judge`.
    Returns: (`[]` bool, the history). Neither changes the model: leaving the update out is up to the caller.
    """
    reason = judge(history, config, loss, grad_norm)
    goes_on = history.consecutive < config.max_consecutive_skips
    is_accepted = goes_on & (reason == ACCEPTED)
    is_skipped = goes_on & (reason != ACCEPTED)

    def write(array_U, at, value, holds):
        return array_U.at[at].set(jnp.where(holds, value, array_U[at]))

    skips, place = history.skips, history.accepted % config.history_length
    skips = Skips(
        count=skips.count + is_skipped,
        step_U=write(skips.step_U, skips.count, step, is_skipped),
        reason_U=write(skips.reason_U, skips.count, reason, is_skipped),
        loss_U=write(skips.loss_U, skips.count, loss, is_skipped),
        grad_norm_U=write(skips.grad_norm_U, skips.count, grad_norm, is_skipped),
    )
    return is_accepted, History(
        loss_U=write(history.loss_U, place, loss, is_accepted),
        accepted=history.accepted + is_accepted,
        skipped=history.skipped + is_skipped,
        consecutive=jnp.where(is_accepted, 0, history.consecutive + is_skipped),
        skips=skips,
    )


def choose(is_accepted: jax.Array, after, before):
    """The one tree or the other, bit for bit: what was skipped is not even multiplied by 0, which NaN would survive."""
    return jax.tree.map(lambda new, old: jnp.where(is_accepted, new, old), after, before)


def next_line(history: History | None) -> History | None:
    """The history with room for the skips of the next line of the log."""
    return history and history._replace(skips=jax.tree.map(jnp.zeros_like, history.skips))


def has_given_up(history: History | None, config: GuardConfig) -> bool:
    """Whether as many updates in a row were skipped as the config puts up with. Waits for the step."""
    return history is not None and int(history.consecutive) >= config.max_consecutive_skips


def describe(step: int, record: dict) -> str:
    """One of `records` for people."""
    return (
        f"step {step} skipped for its {record['reason']} (loss {record['loss']:.4g}, "
        f"gradient norm {record['grad_norm']:.4g}, batch {record['batch']})"
    )


def records(history: History) -> list[dict]:
    """The skipped updates since the last line, as the log has them: step, reason, loss, grad_norm, batch.

    `batch` is the batch's position: `data.pipeline.train_batches` of the same config hands it out again after
    `set_state({"next_index": batch})`. The data moves on with every step, so it is that of the step, counted from 0.
    """
    skips = jax.device_get(history.skips)
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
