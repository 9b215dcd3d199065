"""The second kind of leaf a module may own, beside `nnx.Param`."""

from flax import nnx


class Buffer(nnx.Variable):
    """Saved and sharded with the model, never differentiated and unseen by the optimiser (router bias, knots)."""
