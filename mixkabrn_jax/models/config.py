"""Every size and switch of a language model, checked where a config becomes an object."""

import math
from dataclasses import dataclass

from mixkabrn_jax.layers.features import BASES, KNOTS, Grid
from mixkabrn_jax.layers.kan import INITS, KanConfig
from mixkabrn_jax.layers.linear import KINDS
from mixkabrn_jax.layers.moe import DISPATCHES, RouterConfig
from mixkabrn_jax.ops import bspline, rotary, routing

MIXERS = ("retention", "attention")
FEED_FORWARDS = ("kan", "mlp", "swiglu")
COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class ModelConfig:
    """Every size and switch of a `LanguageModel`; field names are those of `config.model`."""

    d_model: int
    num_layers: int
    vocab_size: int
    tied_embeddings: bool
    norm_epsilon: float
    compute_dtype: str
    remat: bool
    # sequence mixing
    mixer: str
    num_heads: int
    key_width: int
    value_width: int
    chunk_size: int
    first_decay_exponent: float
    rotary_kind: str
    rotary_base: float
    rotary_layout: str
    # feed-forward
    ffn: str
    hidden_width: int
    grid_low: float
    grid_high: float
    grid_intervals: int
    spline_degree: int
    outside_grid: str
    knots: str
    kan_basis: str
    rational_groups: int
    kan_init: str
    spline_share: float
    train_base: bool
    train_spline: bool
    # mixture of experts
    num_experts: int
    experts_per_token: int
    num_shared_experts: int
    expert_width: int
    expert_dispatch: str
    first_dense_layers: int
    router_score: str
    router_groups: int
    router_groups_per_token: int
    router_normalize: bool
    router_scale: float
    # number format of the large matrices
    linear: str
    activation_bits: int
    sub_norm: bool

    def __post_init__(self):
        for field, known in (
            ("mixer", MIXERS),
            ("ffn", FEED_FORWARDS),
            ("linear", KINDS),
            ("compute_dtype", COMPUTE_DTYPES),
            ("rotary_kind", rotary.KINDS),
            ("rotary_layout", rotary.LAYOUTS),
            ("outside_grid", bspline.OUTSIDE),
            ("knots", KNOTS),
            ("kan_basis", BASES),
            ("kan_init", INITS),
            ("expert_dispatch", DISPATCHES),
            ("router_score", routing.SCORES),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"config.model.{field}={getattr(self, field)!r}: one of {known} is needed")
        for field in (
            *("d_model", "num_layers", "vocab_size", "num_heads", "key_width", "value_width", "chunk_size"),
            *("hidden_width", "expert_width", "rational_groups"),
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"config.model.{field}={getattr(self, field)}: at least 1 is needed")
        for field in ("norm_epsilon", "rotary_base", "router_scale", "first_decay_exponent"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"config.model.{field}={getattr(self, field)}: more than 0 and finite is needed")
        if not -math.inf < self.grid_low < self.grid_high < math.inf:
            raise ValueError(
                f"config.model.grid_low={self.grid_low}, config.model.grid_high={self.grid_high}: low < high"
            )
        if self.grid_intervals < 1 or not 0 <= self.spline_degree <= 5:
            raise ValueError(
                f"config.model.grid_intervals={self.grid_intervals}, config.model.spline_degree={self.spline_degree}: "
                "at least 1 interval and a degree from 0 to 5 are needed"
            )
        if self.d_model % self.num_heads:
            raise ValueError(
                f"config.model.num_heads={self.num_heads} does not divide config.model.d_model={self.d_model}"
            )
        if self.key_width % 2:
            raise ValueError(f"config.model.key_width={self.key_width}: rotary pairs need an even width")
        if self.first_dense_layers < 0 or (self.num_experts and self.first_dense_layers >= self.num_layers):
            raise ValueError(
                f"config.model.first_dense_layers={self.first_dense_layers}: 0 to num_layers - 1 is needed"
            )
        if not 2 <= self.activation_bits <= 8:
            raise ValueError(f"config.model.activation_bits={self.activation_bits}: 2 to 8 is needed")
        if not 0 <= self.spline_share <= 1:
            raise ValueError(f"config.model.spline_share={self.spline_share}: 0 to 1 is needed")
        if self.num_experts < 0 or self.num_shared_experts < 0:
            raise ValueError(
                f"config.model.num_experts={self.num_experts}, num_shared_experts={self.num_shared_experts}: "
                "0 or more is needed"
            )
        _ = self.kan, self.router  # raise for impossible combinations

    @property
    def kan(self) -> KanConfig:
        """What all KAN layers have in common."""
        return KanConfig(
            grid=Grid(self.grid_low, self.grid_high, self.grid_intervals, self.spline_degree, self.outside_grid),
            basis=self.kan_basis,
            knots=self.knots,
            rational_groups=self.rational_groups,
            init=self.kan_init,
            spline_share=self.spline_share,
            train_base=self.train_base,
            train_spline=self.train_spline,
        )

    @property
    def router(self) -> RouterConfig | None:
        """None when all feed-forwards are dense."""
        if not self.num_experts:
            return None
        return RouterConfig(
            num_experts=self.num_experts,
            experts_per_token=self.experts_per_token,
            score=self.router_score,
            num_groups=self.router_groups,
            groups_per_token=self.router_groups_per_token,
            normalize=self.router_normalize,
            scale=self.router_scale,
        )
