"""What mixers and feed-forwards have in common: each is a branch that reads the residual stream and is added to it."""

from dataclasses import dataclass, replace

from mixkabrn_jax.layers.linear import LinearConfig


@dataclass(frozen=True)
class QuantizationConfig:
    """How inputs are rounded beside ternary and binary matrices (BitNet; Wang et al. 2023, Ma et al. 2024)."""

    activation_bits: int = 8
    """Bits of the inputs of all matrices of a branch but the last."""
    down_activation_bits: int = 8
    """Bits of the last matrix's input, which has the largest outliers."""
    normalize_input: bool = False
    """Each quantised matrix RMS-normalises its own input, and blocks have no norm before a branch (BitNet, sec. 2.1).
    Where matrices are dense, or read by splines, which need their inputs on the grid, blocks keep theirs."""

    def __post_init__(self):
        for field in ("activation_bits", "down_activation_bits"):
            if not 2 <= getattr(self, field) <= 8:
                raise ValueError(f"{field}={getattr(self, field)}: 2 to 8 is needed")


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
