"""Every size and switch of a language model, checked where a config becomes an object."""

import math
from dataclasses import dataclass

from mixkabrn_jax.layers.branch import BranchConfig, QuantizationConfig
from mixkabrn_jax.layers.features import KanConfig
from mixkabrn_jax.layers.feed_forward import FEED_FORWARDS
from mixkabrn_jax.layers.heads import HeadsConfig, RotaryConfig
from mixkabrn_jax.layers.moe import MoeConfig, RouterConfig
from mixkabrn_jax.layers.retention import RetentionConfig

MIXERS = ("retention", "attention")
RESIDUALS = ("pre_norm", "deepnorm")
COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class ModelConfig:
    """A language model: `config.model`. Sizes and switches first, then a section for each kind of module.

    Sections are the configs of the modules that use them, and are checked there.
    """

    d_model: int
    """Width of the residual stream."""
    num_layers: int
    """Blocks, each a mixer and a feed-forward."""
    num_heads: int
    """Of a mixer."""
    key_width: int
    """Of one head."""
    value_width: int
    """Of one head."""
    hidden_width: int
    """Of a dense feed-forward, where num_experts is 0 and in the first dense layers."""
    expert_width: int
    """Hidden units of one expert."""
    mixer: str
    """What mixes positions, one of `MIXERS`."""
    ffn: str
    """The feed-forward, of experts too, one of `feed_forward.FEED_FORWARDS`."""
    linear: str
    """Number format of the large matrices, one of `linear.LINEAR_TYPES`; norms and router stay float32."""
    num_experts: int
    """Routed experts of a layer; 0 for one dense feed-forward."""
    experts_per_token: int
    """Routed experts that a token is run through (top-k)."""
    num_shared_experts: int
    """Experts that every token is run through besides."""
    first_dense_layers: int
    """So many layers at the start have a dense feed-forward."""
    tied_embeddings: bool
    """The head is the embedding's transpose."""
    embedding_scale: float
    """Factor on what the embedding gives."""
    residual: str
    """"pre_norm", x + f(norm(x)), or "deepnorm", norm(alpha x + f(x)) (Wang et al. 2022)."""
    norm_epsilon: float
    """Added to the mean square in RMS norms."""
    sub_norm: bool
    """RMS-normalise the input of the last matrix of each branch (SubLN)."""
    compute_dtype: str
    """Of activations; parameters, states, norms, router and logits are float32."""
    remat: bool
    """Compute layers again in the backward pass: less memory, more time."""
    backend: str
    """The processor to compute for: "auto" is what JAX runs on; "cpu", "gpu" and "tpu" choose how products of experts
    and retention are laid out, "pallas" our kernels for NVIDIA GPUs, which "auto" takes there."""
    retention: RetentionConfig
    rotary: RotaryConfig
    kan: KanConfig
    router: RouterConfig
    quantization: QuantizationConfig
    conv_size: int = 1
    """Tokens, the current one among them, whose embeddings the first block reads, mixed channel by channel
    (`layers.short_convolution`); 1 for the current one alone."""

    def __post_init__(self):
        for field, known in (
            ("mixer", MIXERS),
            ("ffn", tuple(FEED_FORWARDS)),
            ("residual", RESIDUALS),
            ("compute_dtype", COMPUTE_DTYPES),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r}: one of {known} is needed")
        for field in ("d_model", "num_layers", "hidden_width", "expert_width", "conv_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: at least 1 is needed")
        for field in ("embedding_scale", "norm_epsilon"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"{field}={getattr(self, field)}: more than 0 and finite is needed")
        for field in ("num_experts", "num_shared_experts"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field}={getattr(self, field)}: 0 or more is needed")
        if self.first_dense_layers < 0 or (self.num_experts and self.first_dense_layers >= self.num_layers):
            raise ValueError(f"first_dense_layers={self.first_dense_layers}: 0 to num_layers - 1 is needed")
        if self.d_model % self.heads.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide d_model={self.d_model}")
        grid = self.kan.grid
        if self.ffn == "kan" and max(grid.low, -3) > min(grid.high, 3) - 0.01:
            raise ValueError(
                f"kan.grid.low={grid.low}, kan.grid.high={grid.high}: inputs arrive normalised, most of them between "
                "-3 and 3, and must fall on the grid"
            )
        if self.mixer == "retention":
            try:
                self.retention.check_heads(self.num_heads)
            except ValueError as error:
                raise ValueError(f"retention.{error}") from error
        _ = self.branch.input, self.moe  # raise for impossible values and combinations

    @property
    def heads(self) -> HeadsConfig:
        """Of both kinds of mixers."""
        return HeadsConfig(self.num_heads, self.key_width, self.value_width)

    @property
    def moe(self) -> MoeConfig | None:
        """Of mixture layers; None when all feed-forwards are dense."""
        if not self.num_experts:
            return None
        return MoeConfig(self.num_experts, self.experts_per_token, self.num_shared_experts, self.router)

    @property
    def branch(self) -> BranchConfig:
        """Of mixers and feed-forwards.

        Under pre_norm each of the 2 L branches adds to the stream, and their last matrices start smaller by
        sqrt(2 L). At the start all branches of lm.py:tiny add 0.92 to a stream that the embedding has begun with
        0.23 (root mean squares). DeepNorm scales values and last matrices by (8 L)^(-1/4), which bounds what one update
        changes.
        """
        deepnorm = (8 * self.num_layers) ** -0.25
        scales = (deepnorm, deepnorm) if self.residual == "deepnorm" else (1.0, (2 * self.num_layers) ** -0.5)
        return BranchConfig(
            self.linear, self.quantization, self.sub_norm, self.norm_epsilon, scales=scales, backend=self.backend
        )
