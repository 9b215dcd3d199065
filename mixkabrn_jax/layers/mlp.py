"""Two-layer feed-forward networks: GELU MLP, SwiGLU and GEGLU (Shazeer 2020)."""

from functools import partial

import jax
from flax import nnx

from mixkabrn_jax.layers.branch import BranchConfig, FeedForward
from mixkabrn_jax.layers.linear import Linear
from mixkabrn_jax.layers.recompute import recomputed

GATES = {"swiglu": jax.nn.silu, "geglu": partial(jax.nn.gelu, approximate=False)}


class Mlp(FeedForward):
    """y = gelu(x W_up) W_down, with the hidden layer normalised first where the branch has a sub-norm."""

    def __init__(
        self, d_model: int, width: int, branch: BranchConfig = BranchConfig(), num_experts: int = 0, *, rngs: nnx.Rngs
    ):
        """
        Args:
            width: hidden units.
            num_experts: 0 for one network, else one for each expert.
        """
        self.up = Linear(d_model, width, branch.value, "DF", num_experts, rngs=rngs)
        self.down = Linear(width, d_model, branch.out, "FD", num_experts, rngs=rngs)

    def hidden(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., F]`, or rows sorted by expert."""
        return _gelu(self.up(x, group_sizes_E))


class Glu(FeedForward):
    """y = (gate(x W_gate) * x W_up) W_down, with the hidden layer normalised first where the branch has a sub-norm."""

    def __init__(
        self,
        d_model: int,
        width: int,
        activation: str = "swiglu",
        branch: BranchConfig = BranchConfig(),
        num_experts: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            width, num_experts: as for `Mlp`.
            activation: of the gate, by a name in `GATES`.
        Raises: ValueError for an unknown activation.
        """
        if activation not in GATES:
            raise ValueError(f"activation={activation!r}: one of {tuple(GATES)} is needed")
        self.gate = Linear(d_model, width, branch.input, "DF", num_experts, rngs=rngs)
        self.up = Linear(d_model, width, branch.value, "DF", num_experts, rngs=rngs)
        self.down = Linear(width, d_model, branch.out, "FD", num_experts, rngs=rngs)
        self.activation = activation

    def hidden(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., F]`, or rows sorted by expert."""
        return _gated(self.activation, self.gate(x, group_sizes_E), self.up(x, group_sizes_E))


_gelu = recomputed(jax.nn.gelu)


@partial(recomputed, static_argnums=0)
def _gated(activation, gate, up):
    return GATES[activation](gate) * up
