"""Kolmogorov-Arnold layers: a learned spline on every edge, as one matrix product.

Source: Liu et al., KAN (2024), eq. 2.10: phi(x) = w_b silu(x) + w_s spline(x). The sum over inputs of all edges is
y = silu(x) W_base + B(x) C with the basis functions B(x) side by side, so the `[.., D, F]` array of edge values is
never built.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.branch import BranchConfig, FeedForward
from mixkabrn_jax.layers.features import Features, KanConfig
from mixkabrn_jax.layers.frozen import low_rank, side_by_side
from mixkabrn_jax.layers.linear import (
    LinearConfig,
    effective_activation,
    effective_spline,
    effective_weight,
    multiply,
    normal_init,
    plus_low_rank,
)
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.layers.variables import Buffer
from mixkabrn_jax.ops import backend as backends
from mixkabrn_jax.ops import bspline
from mixkabrn_jax.ops.grouped_matmul import map_groups
from mixkabrn_jax.ops.map_rows import map_rows


class KanLayer(nnx.Module):
    """y = silu(x) W_base + B(x) C; the base matrix is quantised like any other, the spline on request.

    pykan's scale of every edge's spline is part of C: the product of the two is all that a layer is a function of.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        config: KanConfig = KanConfig(),
        linear: LinearConfig = LinearConfig(),
        letters: str = "DF",
        num_experts: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            config: the functions on the edges and how they start. With the init "variance" and a unit normal input the
                output of a dense layer starts with variance `linear.init_scale`^2; a ternary matrix keeps 0.44 of its
                own variance.
            linear: of the base matrix. Its `normalize_input` is not used: inputs must arrive on the grid.
            letters, num_experts: as for `Linear`; the dimension of all basis functions of all inputs goes by the
                letter of the inputs.
        """
        shape = (*((num_experts,) if num_experts else ()), d_in, d_out)
        self.features = Features(d_in, config, num_experts)
        base, spline = _init(config, shape, linear.init_scale, letters, rngs)
        spline.set_metadata(rows=d_in)  # of each basis function's matrix
        self.base = base if config.train_base else Buffer(base[...], letters=letters)
        self.spline = spline if config.train_spline else Buffer(spline[...], letters=letters, rows=d_in)
        self.linear = linear

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., F]`; with experts, rows `[R, D]` sorted by expert and `group_sizes_E`."""
        linear, backend = self.linear, backends.resolve(self.linear.backend)
        base, spline = self._weights()
        factors = low_rank(self.base), low_rank(self.spline)
        graph, owned = nnx.split(self.features)

        def product(weights, x, group_sizes_E=None):
            base, spline, (beside_base, beside_spline), owned = weights
            edge = effective_activation(jax.nn.silu(x), linear)
            basis = nnx.merge(graph, owned)(x, group_sizes_E).reshape(*x.shape[:-1], spline.shape[-2])
            # Cast here, so that gradients of blocks of rows are summed in float32.
            by_base = multiply(edge, base.astype(x.dtype), group_sizes_E, backend)
            y = by_base + multiply(basis, spline.astype(x.dtype), group_sizes_E, backend)
            y = plus_low_rank(y, edge, beside_base, group_sizes_E, backend)
            return plus_low_rank(y, basis, beside_spline, group_sizes_E, backend)

        # The basis is G times as large as x and cheap: made where it is used, again in the backward pass.
        weights = base, spline, factors, owned
        if group_sizes_E is None:
            row_bytes = self.features.num_basis * x.shape[-1] * x.dtype.itemsize
            return map_rows(partial(product, weights), x, row_bytes, backend=backend)
        if backend == "cpu":
            return map_groups(product, weights, x, group_sizes_E)
        return jax.checkpoint(product)(weights, x, group_sizes_E)

    def weighted_sum(self, x_REF, gates_RE):
        """The sum over experts of gate times output, as one product: `[R, E, F]`, `[R, E]` -> `[R, D]`."""
        linear, backend, num_basis = self.linear, backends.resolve(self.linear.backend), self.features.num_basis
        num_experts, width = x_REF.shape[1:]
        base_EFD, spline_EHD = self._weights()
        d_out = base_EFD.shape[-1]
        # Experts side by side are one layer with the inputs of all of them.
        spline_GEFD = spline_EHD.reshape(num_experts, num_basis, width, d_out).swapaxes(0, 1)
        factors = side_by_side(low_rank(self.base)), side_by_side(low_rank(self.spline), num_basis)
        graph, owned = nnx.split(self.features)
        owned = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), owned)

        def product(weights, rows):
            base, spline, (beside_base, beside_spline), owned = weights
            x_CEF, gates_CE = rows
            gates_CEF = jnp.broadcast_to(gates_CE[..., None], x_CEF.shape)
            edge_CEF = effective_activation(jax.nn.silu(x_CEF), linear) * gates_CEF
            x_CH, gates_CH, edge_CH = (a.reshape(len(x_CEF), -1) for a in (x_CEF, gates_CEF, edge_CEF))
            basis_CGH = nnx.merge(graph, owned).weighted(x_CH, gates_CH)
            by_base = multiply(edge_CH, base.astype(x_CEF.dtype), None)
            basis_CH = basis_CGH.reshape(len(x_CEF), -1)
            y_CD = by_base + multiply(basis_CH, spline.astype(x_CEF.dtype), None)
            return plus_low_rank(plus_low_rank(y_CD, edge_CH, beside_base), basis_CH, beside_spline)

        weights = base_EFD.reshape(-1, d_out), spline_GEFD.reshape(-1, d_out), factors, owned
        row_bytes = num_basis * num_experts * width * x_REF.dtype.itemsize
        rows = x_REF, gates_RE.astype(x_REF.dtype)
        return map_rows(partial(product, weights), rows, row_bytes, backend=backend)

    def edges(self, x_BD):
        """The functions on the edges at these inputs, to look at: `[B, D]` -> `[B, D, F]`, summed over D the output."""
        base_DF, spline = self._weights()
        spline_GDF = spline.reshape(self.features.num_basis, *base_DF.shape)
        silu_BD = effective_activation(jax.nn.silu(x_BD), self.linear)
        return silu_BD[..., None] * base_DF[None] + jnp.einsum("bgd,gdf->bdf", self.features(x_BD), spline_GDF)

    def _weights(self):
        """What is multiplied by, rounded to its number format: (base `[..., D, F]`, spline `[..., G D, F]`)."""
        spline_linear = self.features.config.spline_linear
        spline = effective_spline(self.spline[...], self.features.num_basis, spline_linear)
        return effective_weight(self.base[...], self.linear.linear), spline


class Kan(FeedForward):
    """Two KAN layers; the hidden layer is RMS-normalised, which keeps it on the grid of the second."""

    def __init__(
        self,
        d_model: int,
        width: int,
        config: KanConfig = KanConfig(),
        branch: BranchConfig = BranchConfig(),
        num_experts: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        """
        Args:
            width: hidden units.
            num_experts: 0 for one network, else one for each expert.
        """
        self.up = KanLayer(d_model, width, config, branch.input, "DF", num_experts, rngs=rngs)
        self.down = KanLayer(width, d_model, config, branch.out, "FD", num_experts, rngs=rngs)

    def hidden(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., F]`, or rows sorted by expert."""
        return rms_norm(self.up(x, group_sizes_E), self.up.linear.norm_epsilon)

    def outside_grid(self, x, hidden, group_sizes_E=None, row_mask=None):
        """`OutsideGrid` of the inputs of both layers, or None without splines."""
        parts = (
            self.up.features.outside_grid(x, group_sizes_E, row_mask),
            self.down.features.outside_grid(hidden, group_sizes_E, row_mask),
        )
        return jax.tree.map(jnp.add, *parts)


def _init(config, shape, scale, letters, rngs):
    """The base matrix `[..., D, F]` and the spline's coefficients `[..., G D, F]` before the first update."""
    d_in, d_out = shape[-2:]
    if config.init == "pykan":
        return _pykan_init(rngs, config.grid, shape, scale, letters)
    num_basis = Features(1, config).num_basis
    base_scale, spline_scale = scale, scale
    if config.init == "variance":
        silu_power, basis_power = _mean_square(config)
        base_scale = scale * ((1 - config.spline_share) / silu_power) ** 0.5
        spline_scale = scale * (config.spline_share * num_basis / basis_power) ** 0.5
    if config.init == "glorot":
        base_scale *= (2 * d_in / (d_in + d_out)) ** 0.5
        spline_scale *= (2 * num_basis * d_in / (num_basis * d_in + d_out)) ** 0.5
    base = normal_init(rngs, shape, base_scale, letters)
    return base, normal_init(rngs, (*shape[:-2], num_basis * d_in, d_out), spline_scale, letters)


@cache  # half of the time that it takes to begin a model
def _mean_square(config) -> tuple[float, float]:
    """E[silu(x)^2] and sum_g E[B_g(x)^2] for x ~ N(0, 1), by a sum over a fine lattice."""
    with jax.ensure_compile_time_eval():
        x = jnp.linspace(-6, 6, 2401, dtype=jnp.float32)
        density = jnp.exp(-(x**2) / 2)
        density = density / jnp.sum(density)
        basis_GD = Features(x.size, config)(x)  # every lattice point an input of its own
        return float(jnp.sum(density * jax.nn.silu(x) ** 2)), float(jnp.sum(density[None] * basis_GD**2))


def _pykan_init(rngs, grid, shape, scale, letters):
    """The base U(-1, 1) / sqrt(D), and splines through small noise at the points of the grid, as pykan starts.

    The noise is (U - 1/2) / (2 intervals), times a scale of 1 / sqrt(D). A layer starts nearly as its base alone and
    shrinks the signal: for comparison with pykan, not for depth.
    """
    d_in, d_out = shape[-2:]
    scale = scale * d_in**-0.5
    base = scale * jax.random.uniform(rngs.params(), shape, minval=-1, maxval=1)
    knots = grid.knots()
    points_R1 = knots[grid.degree : grid.degree + grid.num_intervals + 1][:, None]
    noise = jax.random.uniform(rngs.params(), (grid.num_intervals + 1, *shape), minval=-0.5, maxval=0.5)
    noise_R1F = 0.5 / grid.num_intervals * noise.reshape(grid.num_intervals + 1, 1, -1)
    # All edges have the same points: one factorisation. Fewer points than functions: of all splines the smallest.
    coef_FG = bspline.fit(points_R1, noise_R1F, knots, grid.degree)[0]
    spline = jnp.moveaxis(coef_FG.T.reshape(grid.num_basis, *shape), 0, -3)
    spline = scale * spline.reshape(*shape[:-2], grid.num_basis * d_in, d_out)
    return nnx.Param(base, letters=letters), nnx.Param(spline, letters=letters)
