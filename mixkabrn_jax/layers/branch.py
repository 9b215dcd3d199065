"""What mixers and feed-forwards have in common: each is a branch that reads the residual stream and is added to it."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.linear import TABLE_TYPES, LinearConfig


@dataclass(frozen=True)
class QuantizationConfig:
    """How inputs are rounded beside ternary and binary matrices (BitNet; Wang et al. 2023, Ma et al. 2024), and how a
    model's embedding is."""

    activation_bits: int = 8
    """Bits of the inputs of all matrices of a branch but the last."""
    down_activation_bits: int = 8
    """Bits of the last matrix's input, which has the largest outliers."""
    normalize_input: bool = False
    """Each quantised matrix RMS-normalises its own input, and blocks have no norm before a branch (BitNet, sec. 2.1).
    Where matrices are dense, or read by splines, which need their inputs on the grid, blocks keep theirs."""
    embedding: str = "dense"
    """Number format of embedding and head, one of `linear.TABLE_TYPES`, with a scale for each token's row."""

    def __post_init__(self):
        for field in ("activation_bits", "down_activation_bits"):
            if not 2 <= getattr(self, field) <= 8:
                raise ValueError(f"{field}={getattr(self, field)}: 2 to 8 is needed")
        if self.embedding not in TABLE_TYPES:
            raise ValueError(f"embedding={self.embedding!r}: one of {TABLE_TYPES} is needed")


@dataclass(frozen=True)
class BranchConfig:
    """The linear layers of one branch: those that read the stream, those that carry values, and the one that writes."""

    linear: str = "ternary"
    """Number format of all matrices, one of `linear.LINEAR_TYPES`."""
    quantization: QuantizationConfig = QuantizationConfig()
    sub_norm: bool = True
    """RMS-normalise the last matrix's input, so that its quantiser sees a steady range (SubLN; Wang et al. 2022)."""
    norm_epsilon: float = 1e-6
    """Added to the mean square in RMS norms."""
    scales: tuple[float, float] = (1.0, 1.0)
    """Factors on the initial size of what is carried through (the value and up projections) and of the last matrix."""
    backend: str = "auto"
    """The processor to compute for, one of `ops.backend.BACKENDS`."""

    @property
    def input(self) -> LinearConfig:
        """Of the matrices that read the stream: queries, keys, gates."""
        return LinearConfig(
            linear=self.linear,
            activation_bits=self.quantization.activation_bits,
            normalize_input=self.normalize_input,
            norm_epsilon=self.norm_epsilon,
            backend=self.backend,
        )

    @property
    def value(self) -> LinearConfig:
        """Of the value and up projections."""
        return replace(self.input, init_scale=self.scales[0])

    @property
    def out(self) -> LinearConfig:
        """Of the last matrix, which writes to the stream."""
        return replace(
            self.input,
            activation_bits=self.quantization.down_activation_bits,
            normalize_input=self.sub_norm or self.normalize_input,
            init_scale=self.scales[1],
        )

    @property
    def out_without_sub_norm(self) -> LinearConfig:
        """As `out`, for a branch that applies the sub-norm itself."""
        return replace(self.out, normalize_input=self.normalize_input)

    @property
    def normalize_input(self) -> bool:
        """Whether matrices normalise their own input: only quantised ones do, so that dense models keep their norms."""
        return self.quantization.normalize_input and self.linear != "dense"


class FeedForward(nnx.Module):
    """y = down(hidden(x)). A kind of it says what its hidden layer is, and owns `down`, a `Linear` or `KanLayer`."""

    def hidden(self, x, group_sizes_E=None):
        """What the last layer is given: `[..., D]` -> `[..., F]`; or rows `[R, D]` sorted by expert."""
        raise NotImplementedError

    def outside_grid(self, x, hidden, group_sizes_E=None, row_mask=None):
        """`OutsideGrid` of the inputs x and of the hidden layer; None without splines, whose inputs these are."""
        del x, hidden, group_sizes_E, row_mask

    def __call__(self, x, group_sizes_E=None, row_mask=None):
        """
        Args:
            x: `[..., D]`; or, where this is the stacked experts of a mixture, rows `[R, D]` sorted by expert.
            group_sizes_E: rows of each expert, or None.
            row_mask: `[...]` or None; 0 leaves a row out of what is counted.
        Returns: (y of x's shape, `OutsideGrid`, or None without splines).
        """
        hidden = self.hidden(x, group_sizes_E)
        return self.down(hidden, group_sizes_E), self.outside_grid(x, hidden, group_sizes_E, row_mask)

    def weighted_sum(self, x_RD, gates_RE, row_mask_RE):
        """The sum of all experts' outputs times their gates, where this is the stacked experts of a mixture.

        The gates scale what the last layer multiplies, so that one product sums over hidden units and experts: there
        are no outputs of single experts to be kept.

        Args:
            x_RD: `[R, D]`, read by all experts; gates_RE: `[R, E]`; row_mask_RE: `[R, E]`, 0 where it does not count.
        Returns: (`[R, D]`, `OutsideGrid` or None).
        """
        hidden_REF = jax.vmap(lambda expert: expert.hidden(x_RD), out_axes=1)(self)

        def count(expert, hidden_RF, row_mask_R):
            return expert.outside_grid(x_RD, hidden_RF, row_mask=row_mask_R)

        outside_E = jax.vmap(count, in_axes=(0, 1, 1))(self, hidden_REF, row_mask_RE)
        return self.down.weighted_sum(hidden_REF, gates_RE), jax.tree.map(jnp.sum, outside_E)
