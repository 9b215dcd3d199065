"""Kolmogorov-Arnold layers: a learned spline on every edge, as one matrix product.

Source: Liu et al., KAN (2024), eq. 2.10: phi(x) = w_b silu(x) + w_s spline(x). The sum over inputs of all edges is
y = silu(x) W_base + B(x) C with the basis functions B(x) side by side, so the `[.., D, F]` array of edge values is
never built.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.features import Features
from mixkabrn_jax.layers.linear import effective_activation, effective_spline, effective_weight, multiply, normal_init
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.layers.variables import Buffer
from mixkabrn_jax.ops import bspline
from mixkabrn_jax.ops.backend import resolve
from mixkabrn_jax.ops.grouped_matmul import map_groups
from mixkabrn_jax.ops.map_rows import map_rows
from mixkabrn_jax.ops.uniform_bspline import UniformGrid

SPLINE_KINDS = ("dense", "ternary")
INITS = ("variance", "pykan", "glorot", "lecun")


@dataclass(frozen=True)
class KanConfig:
    """What the KAN layers of a model have in common; the fields are those of `config.model`."""

    grid: UniformGrid
    basis: str
    """The functions on the edges, one of `features.BASES`."""
    knots: str
    """uniform: shared by all edges, static, basis in closed form. adaptive: a `Buffer` for each input, Cox-de Boor."""
    rational_groups: int
    init: str
    """variance: of `spline_share`. lecun: variance 1 / fan-in of each of the two matrices; glorot: 2 / (fan-in +
    fan-out); both as if every feature had unit power. pykan: base U(-1, 1) / sqrt(D), splines through small noise."""
    spline_share: float
    """The part of the output's initial variance that comes from the splines, 0 to 1, where init is variance."""
    train_base: bool
    """A part that is not trained is a `Buffer`: saved, without gradient."""
    train_spline: bool
    spline_kind: str
    """Number format of the splines' coefficients, one of `SPLINE_KINDS`: ternary has a scale for each function."""

    def __post_init__(self):
        for field, value, only in (("knots", self.knots, "adaptive"), ("kan_init", self.init, "pykan")):
            if value == only and self.basis != "bspline":
                raise ValueError(
                    f"config.model.{field}={value!r}: config.model.kan_basis='bspline' is needed, not {self.basis!r}"
                )


class KanLayer(nnx.Module):
    """y = silu(x) W_base + B(x) C; the base matrix is quantised like any other, the spline on request.

    pykan's scale of every edge's spline is part of C: the product of the two is all that a layer is a function of.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        kan: KanConfig,
        kind: str,
        activation_bits: int,
        rngs: nnx.Rngs,
        letters: str = "DF",
        num_experts: int = 0,
        init_scale: float = 1.0,
        kernels: bool = False,
    ):
        """
        Args:
            kan: the functions on the edges and how they start. With the init "variance" and a unit normal input the
                output starts with variance `init_scale`^2, a little less where matrices are quantised.
            kind, activation_bits, letters, num_experts: as for `Linear`; the dimension of all basis functions of all
                inputs goes by the letter of the inputs.
            kernels: by `ops.kernels`, where the functions are splines on uniform knots.
        """
        experts = (num_experts,) if num_experts else ()
        options = {
            "grid": kan.grid,
            "basis": kan.basis,
            "knots": kan.knots,
            "rational_groups": kan.rational_groups,
            "trained": kan.train_spline,
        }
        self.features = Features(d_in, num_experts=num_experts, **options)
        num_basis = self.features.num_basis
        if kan.init == "pykan":
            base, spline = _pykan_init(rngs, kan.grid, (*experts, d_in, d_out), init_scale, letters)
        else:
            base_scale, spline_scale = init_scale, init_scale
            if kan.init == "variance":
                silu_power, basis_power = _mean_square(options)
                base_scale = init_scale * ((1 - kan.spline_share) / silu_power) ** 0.5
                spline_scale = init_scale * (kan.spline_share * num_basis / basis_power) ** 0.5
            if kan.init == "glorot":
                base_scale *= (2 * d_in / (d_in + d_out)) ** 0.5
                spline_scale *= (2 * num_basis * d_in / (num_basis * d_in + d_out)) ** 0.5
            base = normal_init(rngs, (*experts, d_in, d_out), base_scale, letters)
            spline = normal_init(rngs, (*experts, num_basis * d_in, d_out), spline_scale, letters)
        self.base = base if kan.train_base else Buffer(base[...], letters=letters)
        self.spline = spline if kan.train_spline else Buffer(spline[...], letters=letters)
        self.kind, self.spline_kind, self.activation_bits = kind, kan.spline_kind, activation_bits
        self.kernels = kernels and kan.basis == "bspline" and kan.knots == "uniform"

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., F]`; with experts, rows `[R, D]` sorted by expert and `group_sizes_E`."""
        base = effective_weight(self.base[...], self.kind)
        spline = effective_spline(self.spline[...], self.features.num_basis, self.spline_kind)
        if self.kernels:
            return self._by_kernels(x, base, spline, group_sizes_E)
        graph, owned = nnx.split(self.features)

        def product(weights, x, group_sizes_E=None):
            base, spline, owned = weights
            edge = effective_activation(jax.nn.silu(x), self.kind, self.activation_bits)
            basis = nnx.merge(graph, owned)(x, group_sizes_E).reshape(*x.shape[:-1], -1)
            # Cast here, so that gradients of blocks of rows are summed in float32.
            by_base = multiply(edge, base.astype(x.dtype), group_sizes_E)
            return by_base + multiply(basis, spline.astype(x.dtype), group_sizes_E)

        # The basis is G times as large as x and cheap: made where it is used, again in the backward pass.
        weights = base, spline, owned
        if group_sizes_E is None:
            row_bytes = self.features.num_basis * x.shape[-1] * x.dtype.itemsize
            return map_rows(partial(product, weights), x, row_bytes)
        if resolve("auto") == "cpu":
            return map_groups(product, weights, x, group_sizes_E)
        return jax.checkpoint(product)(weights, x, group_sizes_E)

    def _by_kernels(self, x, base, spline, group_sizes_E):
        from mixkabrn_jax.ops.kernels.spline import spline_matmul  # a third of a second that others need not wait

        edge = effective_activation(jax.nn.silu(x), self.kind, self.activation_bits)
        by_spline = spline_matmul(
            x.reshape(-1, x.shape[-1]),
            spline.astype(x.dtype),
            group_sizes_E,
            grid=self.features.grid,
        ).reshape(*x.shape[:-1], -1)
        return multiply(edge, base.astype(x.dtype), group_sizes_E, kernels=True) + by_spline


class Kan(nnx.Module):
    """Two KAN layers; the hidden layer is RMS-normalised, which keeps it on the grid of the second."""

    def __init__(self, d_model, width, *, epsilon, out_scale, rngs, down_activation_bits=None, **layer):
        """
        Args:
            width: hidden units.
            out_scale: factor on the initial size of the last layer.
            down_activation_bits: of the last layer's input; None for `activation_bits`.
            layer: what `KanLayer` takes besides its sizes.
        """
        self.up = KanLayer(d_model, width, letters="DF", rngs=rngs, **layer)
        layer["activation_bits"] = down_activation_bits or layer["activation_bits"]
        self.down = KanLayer(width, d_model, letters="FD", rngs=rngs, init_scale=out_scale, **layer)
        self.epsilon = epsilon

    def __call__(self, x, group_sizes_E=None, weights=None):
        """`[..., D]` or rows sorted by expert; weights: `[...]` or None, 0 leaves a row out of the count.

        Returns: (`[..., D]`, `Outside` of both layers, or None without splines).
        """
        hidden = self.hidden(x, group_sizes_E)
        parts = (
            self.up.features.outside(x, group_sizes_E, weights),
            self.down.features.outside(hidden, group_sizes_E, weights),
        )
        return self.down(hidden, group_sizes_E), jax.tree.map(jnp.add, *parts)

    def hidden(self, x, group_sizes_E=None):
        """What the second layer is given: `[..., D]` -> `[..., F]`."""
        return rms_norm(self.up(x, group_sizes_E), self.epsilon)


def _mean_square(options) -> tuple[float, float]:
    """E[silu(x)^2] and sum_g E[B_g(x)^2] for x ~ N(0, 1), by a sum over a fine lattice."""
    with jax.ensure_compile_time_eval():
        x = jnp.linspace(-6, 6, 2401)
        density = jnp.exp(-(x**2) / 2)
        density = density / jnp.sum(density)
        basis_GX = Features(x.size, num_experts=0, **options)(x)  # every lattice point an input of its own
        return float(jnp.sum(density * jax.nn.silu(x) ** 2)), float(jnp.sum(density[None] * basis_GX**2))


def _pykan_init(rngs, grid, shape, scale, letters):
    """The base U(-1, 1) / sqrt(D), and splines through small noise at the points of the grid, as pykan starts.

    The noise is (U - 1/2) / (2 intervals), times a scale of 1 / sqrt(D). A layer starts nearly as its base alone and
    shrinks the signal: for comparison with pykan, not for depth.
    """
    d_in, d_out = shape[-2:]
    scale = scale * d_in**-0.5
    base = scale * jax.random.uniform(rngs.params(), shape, minval=-1, maxval=1)
    knots = grid.knots()
    points_N1 = knots[grid.degree : grid.degree + grid.num_intervals + 1][:, None]
    noise = jax.random.uniform(rngs.params(), (grid.num_intervals + 1, *shape), minval=-0.5, maxval=0.5)
    noise_N1F = 0.5 / grid.num_intervals * noise.reshape(grid.num_intervals + 1, 1, -1)
    # All edges have the same points: one factorisation. Fewer points than functions: of all splines the smallest.
    coef_FG = bspline.fit(points_N1, noise_N1F, knots, grid.degree)[0]
    spline = jnp.moveaxis(coef_FG.T.reshape(grid.num_basis, *shape), 0, -3)
    spline = scale * spline.reshape(*shape[:-2], grid.num_basis * d_in, d_out)
    return nnx.Param(base, letters=letters), nnx.Param(spline, letters=letters)
