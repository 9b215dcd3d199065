"""Every size and switch of a language model, checked where a config becomes an object."""

import math
from dataclasses import dataclass

from mixkabrn_jax.layers.features import BASES, KNOTS
from mixkabrn_jax.layers.kan import INITS, SPLINE_KINDS, KanConfig
from mixkabrn_jax.layers.linear import KINDS, NORM_PLACES
from mixkabrn_jax.layers.mlp import GATES
from mixkabrn_jax.layers.moe import DISPATCHES, RouterConfig
from mixkabrn_jax.layers.retention import DECAYS, NORMALIZATIONS
from mixkabrn_jax.ops import bspline, rotary, routing
from mixkabrn_jax.ops.uniform_bspline import UniformGrid

MIXERS = ("retention", "attention")
FEED_FORWARDS = ("kan", "mlp", *GATES)
RESIDUALS = ("pre_norm", "deepnorm")
COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class ModelConfig:
    """Every size and switch of a `LanguageModel`; field names are those of `config.model`."""

    d_model: int
    num_layers: int
    vocab_size: int
    tied_embeddings: bool
    embedding_scale: float
    residual: str
    norm_epsilon: float
    compute_dtype: str
    remat: bool
    kernels: bool
    # sequence mixing
    mixer: str
    num_heads: int
    key_width: int
    value_width: int
    chunk_size: int
    decay: str
    first_decay_exponent: float
    retention_norm: str
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
    capacity_factor: float
    first_dense_layers: int
    router_score: str
    router_groups: int
    router_groups_per_token: int
    router_normalize: bool
    router_scale: float
    router_device_groups: int
    # number format of the large matrices
    linear: str
    activation_bits: int
    down_activation_bits: int
    spline_linear: str
    quant_norm: str
    sub_norm: bool

    def __post_init__(self):
        for field, known in (
            ("residual", RESIDUALS),
            ("mixer", MIXERS),
            ("decay", DECAYS),
            ("retention_norm", NORMALIZATIONS),
            ("ffn", FEED_FORWARDS),
            ("linear", KINDS),
            ("spline_linear", SPLINE_KINDS),
            ("quant_norm", NORM_PLACES),
            ("compute_dtype", COMPUTE_DTYPES),
            ("rotary_kind", rotary.KINDS),
            ("rotary_layout", rotary.LAYOUTS),
            ("outside_grid", bspline.EXTRAPOLATIONS),
            ("knots", KNOTS),
            ("kan_basis", BASES),
            ("kan_init", INITS),
            ("expert_dispatch", DISPATCHES),
            ("router_score", routing.SCORES),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"config.model.{field}={getattr(self, field)!r}: one of {known} is needed")
        for field in (
            *("d_model", "num_layers", "vocab_size", "num_heads", "key_width", "value_width"),
            *("hidden_width", "expert_width", "rational_groups"),
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"config.model.{field}={getattr(self, field)}: at least 1 is needed")
        if self.chunk_size < 0:
            raise ValueError(
                f"config.model.chunk_size={self.chunk_size}: at least 1 is needed, or 0 to choose it by the widths"
            )
        for field in ("embedding_scale", "norm_epsilon", "rotary_base", "router_scale", "first_decay_exponent"):
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
        has_exponent = self.mixer == "retention" and self.decay in ("paper", "learned")
        if has_exponent and not 0.001 <= self.first_decay_exponent <= 120 - self.num_heads:
            raise ValueError(
                f"config.model.first_decay_exponent={self.first_decay_exponent}: 0.001 to {120 - self.num_heads} is "
                f"needed with config.model.num_heads={self.num_heads}, for decays between 0 and 1 in float32"
            )
        if self.ffn == "kan" and max(self.grid_low, -3) > min(self.grid_high, 3) - 0.01:
            raise ValueError(
                f"config.model.grid_low={self.grid_low}, config.model.grid_high={self.grid_high}: inputs arrive "
                "normalised, most of them between -3 and 3, and must fall on the grid"
            )
        if self.decay == "gated" and self.retention_norm != "none":
            raise ValueError(
                f"config.model.retention_norm={self.retention_norm!r} needs constant decays: 'none' with "
                "config.model.decay='gated'"
            )
        if self.key_width % 2:
            raise ValueError(f"config.model.key_width={self.key_width}: rotary pairs need an even width")
        if self.first_dense_layers < 0 or (self.num_experts and self.first_dense_layers >= self.num_layers):
            raise ValueError(
                f"config.model.first_dense_layers={self.first_dense_layers}: 0 to num_layers - 1 is needed"
            )
        for field in ("activation_bits", "down_activation_bits"):
            if not 2 <= getattr(self, field) <= 8:
                raise ValueError(f"config.model.{field}={getattr(self, field)}: 2 to 8 is needed")
        if not 0 <= self.spline_share <= 1:
            raise ValueError(f"config.model.spline_share={self.spline_share}: 0 to 1 is needed")
        if self.num_experts < 0 or self.num_shared_experts < 0:
            raise ValueError(
                f"config.model.num_experts={self.num_experts}, num_shared_experts={self.num_shared_experts}: "
                "0 or more is needed"
            )
        if self.num_experts:
            self._check_routing()
        _ = self.kan, self.router  # raise for impossible combinations

    def _check_routing(self):
        """In the config's own names; `RouterConfig` would complain in those of `routing.top_k_gates`."""
        for field in ("router_groups", "router_device_groups"):
            if getattr(self, field) < 1 or self.num_experts % getattr(self, field):
                raise ValueError(
                    f"config.model.{field}={getattr(self, field)} does not divide "
                    f"config.model.num_experts={self.num_experts}"
                )
        if not 1 <= self.router_groups_per_token <= self.router_groups:
            raise ValueError(
                f"config.model.router_groups_per_token={self.router_groups_per_token}: "
                f"1 to config.model.router_groups={self.router_groups} is needed"
            )
        reachable = self.num_experts // self.router_groups * self.router_groups_per_token
        if not 1 <= self.experts_per_token <= reachable:
            raise ValueError(
                f"config.model.experts_per_token={self.experts_per_token}: 1 to {reachable} is needed, the experts in "
                f"{self.router_groups_per_token} of {self.router_groups} groups of config.model.num_experts="
                f"{self.num_experts}"
            )
        if not 0 <= self.capacity_factor < math.inf:
            raise ValueError(
                f"config.model.capacity_factor={self.capacity_factor}: 0 (dropless) or more, and finite, is needed"
            )

    @property
    def norms_inside(self) -> bool:
        """Whether matrices normalise their own input: only quantised ones do, so that `linear="dense"` keeps norms."""
        return self.quant_norm == "inside" and self.linear != "dense"

    @property
    def kan(self) -> KanConfig:
        """What all KAN layers have in common."""
        return KanConfig(
            grid=UniformGrid(self.grid_low, self.grid_high, self.grid_intervals, self.spline_degree, self.outside_grid),
            basis=self.kan_basis,
            knots=self.knots,
            rational_groups=self.rational_groups,
            init=self.kan_init,
            spline_share=self.spline_share,
            train_base=self.train_base,
            train_spline=self.train_spline,
            spline_kind=self.spline_linear,
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
