"""The kinds of feed-forward that a block or an expert can be.

A new kind is a `branch.FeedForward`, a class that says what its hidden layer is, and a line in `FEED_FORWARDS`.
"""

from functools import partial

from flax import nnx

from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.features import KanConfig
from mixkabrn_jax.layers.kan import Kan
from mixkabrn_jax.layers.mlp import GATES, Glu, Mlp

FEED_FORWARDS = {"kan": Kan, "mlp": Mlp, **{name: partial(Glu, activation=name) for name in GATES}}
"""What makes each kind, by its name in `config.model.ffn`."""


def make(
    ffn: str, d_model: int, width: int, kan: KanConfig, branch: BranchConfig, num_experts: int = 0, *, rngs: nnx.Rngs
) -> nnx.Module:
    """A feed-forward of this kind.

    Args:
        ffn: a name in `FEED_FORWARDS`.
        width: hidden units.
        kan: of a KAN's edges; the other kinds have no use for it.
        num_experts: 0 for one network, else one for each expert, stacked.
    """
    options = {"config": kan} if ffn == "kan" else {}
    return FEED_FORWARDS[ffn](d_model, width, branch=branch, num_experts=num_experts, rngs=rngs, **options)
