"""Which functions on a KAN layer's edges matter."""

import jax
import jax.numpy as jnp
import numpy as np

from mixkabrn_jax.layers.kan import KanLayer


@jax.jit
def strengths(layer: KanLayer, x_RD) -> jax.Array:
    """The standard deviation of what each edge gives at these inputs: `[R, D]` -> `[D, F]`.

    An edge that is strong somewhere else, where no input comes, is weak.
    """
    return jnp.std(layer.edges(x_RD), axis=0)


def strongest(strength_DF, number: int) -> list[tuple[int, int]]:
    """(input, output) of the strongest edge of each of so many inputs, the strongest first."""
    strength_DF = np.asarray(strength_DF)
    order_D = np.argsort(-strength_DF.max(axis=1), kind="stable")[:number]
    return [(int(d), int(strength_DF[d].argmax())) for d in order_D]


def curves(layer: KanLayer, x_R) -> jax.Array:
    """The function on each edge at the same points for all inputs: `[R]` -> `[R, D, F]`."""
    d_in = layer.base[...].shape[-2]
    return layer.edges(jnp.repeat(jnp.asarray(x_R)[:, None], d_in, axis=1))
