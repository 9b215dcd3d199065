"""Updates that would do harm are skipped: of a loss or gradient that is not finite, or a loss far above those before.

The criterion is that of OLMo 2's optimiser (OLMo et al. 2025, section 3), with two differences. What was skipped does
not enter the history, so a run of bad batches cannot pass for the usual. And a large gradient of a usual loss is left
to clipping: the gradient norms of a small batch have a tail so heavy that 6 deviations above their mean, or the mean of
their logarithms, left out 12 of 1300 harmless updates of lm.py:tiny, and the same of its losses none.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixkabrn_jax.training import skips
from mixkabrn_jax.training.skips import ACCEPTED, REASONS, Skips


@dataclass(frozen=True)
class GuardConfig:
    """Which updates are skipped, and when to give up; fields are those of `config.guard`."""

    history_length: int
    """Accepted updates that a new one is held against; 0 accepts every update, whatever it is."""
    sigmas: float
    """A loss so many standard deviations above the mean of the history is a spike."""
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


class History(NamedTuple):
    """What the guard knows of the updates so far: a part of the training state."""

    loss_U: jax.Array
    """The last accepted updates' losses in nats per token, each in the place of the one `history_length` before it."""
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
        log_every: steps from one record of the log to the next, at most.
    """
    if not config.history_length:
        return None
    counts = {name: jnp.zeros((), jnp.int32) for name in ("accepted", "skipped", "consecutive")}
    return History(jnp.zeros(config.history_length), **counts, skips=skips.init(log_every))


def is_spike(value: jax.Array, history_U: jax.Array, accepted: jax.Array, sigmas: float) -> jax.Array:
    """Whether a value is more than `sigmas` standard deviations above the mean of those before it.

    Nothing is a spike before half of the history is filled, and at least 2 of it. With 64 values the deviation is known
    to 9%, and of independent normal ones less than one in 10^7 is taken for a spike (Student's t, 63 degrees); with 16
    it would be one in 10^5, in a part of training where figures move fast besides.

    Args:
        value: `[]`; history_U: `[U]`, filled from its start; accepted: `[]`, values that ever entered it.
    Returns: `[]` bool; False for a value that is not a number.
    """
    filled = jnp.minimum(accepted, len(history_U))
    is_filled_U = jnp.arange(len(history_U)) < filled
    # Relative to one of them: equal values deviate by exactly 0, and small deviations from a large mean are not lost.
    origin = history_U[0]
    difference_U = jnp.where(is_filled_U, history_U - origin, 0)
    mean = jnp.sum(difference_U) / jnp.maximum(filled, 1)
    square_U = jnp.where(is_filled_U, (difference_U - mean) ** 2, 0)
    deviation = jnp.sqrt(jnp.sum(square_U) / jnp.maximum(filled - 1, 1))
    return (filled >= max(len(history_U) // 2, 2)) & (value - origin - mean > sigmas * deviation)


def judge(history: History, config: GuardConfig, loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
    """`ACCEPTED`, or the code of the first of `REASONS` that speaks against an update.

    Args:
        loss: `[]`, nats per token of the batch; grad_norm: `[]`, before clipping. It is not finite once an entry is
            not, or is too large for its square to be.
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
    place = history.accepted % config.history_length
    return is_accepted, History(
        loss_U=skips.write(history.loss_U, place, loss, is_accepted),
        accepted=history.accepted + is_accepted,
        skipped=history.skipped + is_skipped,
        consecutive=jnp.where(is_accepted, 0, history.consecutive + is_skipped),
        skips=skips.add(history.skips, is_skipped, step=step, reason=reason, loss=loss, grad_norm=grad_norm),
    )


def choose(is_accepted: jax.Array, after, before):
    """The one tree or the other, bit for bit: what was skipped is not even multiplied by 0, which NaN would survive."""
    return jax.tree.map(lambda new, old: jnp.where(is_accepted, new, old), after, before)


def without_skips(history: History | None) -> History | None:
    """The history with room for the skips of the next record."""
    return history and history._replace(skips=jax.tree.map(jnp.zeros_like, history.skips))


def has_given_up(history: History | None, config: GuardConfig) -> bool:
    """Whether as many updates in a row were skipped as the config puts up with. Waits for the step."""
    return history is not None and int(history.consecutive) >= config.max_consecutive_skips


def resize(history: History | None, log_every: int, step: int) -> History | None:
    """The history of a run that goes on from a step with another distance from record to record than before.

    Its skips get room for those there are and all up to the next record. With the distance that they were made for,
    it is left as it is.
    """
    if history is None:
        return None
    num_places = max(log_every, int(history.skips.count) + log_every - step % log_every)
    if num_places == len(history.skips.step_U):
        return history
    return history._replace(skips=skips.resize(history.skips, num_places))
