"""Loss over a set of windows, as one sum."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from mixkabrn_jax.training.totals import Sums


def evaluate(step: Callable, params, buffers, batches: Iterable, place: Callable) -> Sums:
    """Adds up what `step(params, buffers, batch)` returns.

    Args:
        batches: dicts of arrays `[B, T]`, all of one shape; padding has weight 0.
        place: puts a batch on the devices.
    """
    total = None
    for batch in batches:
        sums = step(params, buffers, place(batch))
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return total
