"""Kolmogorov-Arnold layers: a learned spline on every edge, as one matrix product.

Source: Liu et al., KAN (2024), eq. 2.10: phi(x) = w_b silu(x) + w_s spline(x). The sum over inputs of all edges is
y = silu(x) W_base + B(x) C with the basis functions B(x) side by side, so the `[.., D, F]` array of edge values is
never built.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax.layers.linear import effective_activation, effective_spline, effective_weight, multiply, normal_init
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.ops import bspline

SPLINE_KINDS = ("dense", "ternary")


@dataclass(frozen=True)
class Grid:
    """The uniform knots of every edge: `num_intervals` on [low, high]; the spline fades to 0 outside."""

    low: float
    high: float
    num_intervals: int
    degree: int

    def __post_init__(self):
        bspline.uniform_knots(self.low, self.high, self.num_intervals, self.degree)  # raises for an impossible grid

    @property
    def num_basis(self) -> int:
        """G, basis functions of one edge."""
        return self.num_intervals + self.degree

    def basis(self, x: jax.Array) -> jax.Array:
        """`[..., D]` -> `[..., G, D]`."""
        return bspline.uniform_basis(x, self.low, self.high, self.num_intervals, self.degree)


class KanLayer(nnx.Module):
    """y = silu(x) W_base + B(x) C; the base matrix is quantised like any other, the spline on request."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        grid: Grid,
        spline_share: float,
        kind: str,
        activation_bits: int,
        rngs: nnx.Rngs,
        num_experts: int = 0,
        init_scale: float = 1.0,
        spline_kind: str = "dense",
    ):
        """
        Args:
            grid: knots shared by all edges.
            spline_share: the part of the output's initial variance that comes from the splines, 0 to 1. For a unit
                normal input the output starts with variance `init_scale`^2.
            kind, activation_bits, num_experts: as for `Linear`.
            spline_kind: one of `SPLINE_KINDS`; ternary coefficients have a scale for each basis function.
        """
        silu_power, basis_power = _mean_square(grid)
        experts = (num_experts,) if num_experts else ()
        base_scale = init_scale * ((1 - spline_share) / silu_power) ** 0.5
        spline_scale = init_scale * (spline_share * grid.num_basis / basis_power) ** 0.5
        self.base = normal_init(rngs, (*experts, d_in, d_out), base_scale)
        self.spline = normal_init(rngs, (*experts, grid.num_basis * d_in, d_out), spline_scale)
        self.grid, self.kind, self.activation_bits = grid, kind, activation_bits
        self.spline_kind = spline_kind

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., F]`; with experts, rows `[R, D]` sorted by expert and `group_sizes_E`."""
        base = effective_weight(self.base[...], self.kind).astype(x.dtype)
        spline = effective_spline(self.spline[...], self.grid.num_basis, self.spline_kind).astype(x.dtype)

        # The basis is G times as large as x and cheap: recomputed in the backward pass, not kept for it.
        @jax.checkpoint
        def product(x, base, spline):
            edge = effective_activation(jax.nn.silu(x), self.kind, self.activation_bits)
            basis = self.grid.basis(x).reshape(*x.shape[:-1], -1)
            return multiply(edge, base, group_sizes_E) + multiply(basis, spline, group_sizes_E)

        return product(x, base, spline)


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
        self.up = KanLayer(d_model, width, rngs=rngs, **layer)
        layer["activation_bits"] = down_activation_bits or layer["activation_bits"]
        self.down = KanLayer(width, d_model, rngs=rngs, init_scale=out_scale, **layer)
        self.epsilon = epsilon

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> `[..., D]`, or rows sorted by expert."""
        hidden = rms_norm(self.up(x, group_sizes_E), self.epsilon)
        return self.down(hidden, group_sizes_E)


def _mean_square(grid: Grid) -> tuple[float, float]:
    """E[silu(x)^2] and sum_g E[B_g(x)^2] for x ~ N(0, 1), by a sum over a fine lattice."""
    with jax.ensure_compile_time_eval():
        x = jnp.linspace(-6, 6, 2401)
        density = jnp.exp(-(x**2) / 2)
        density = density / jnp.sum(density)
        basis_GX = grid.basis(x)
        return float(jnp.sum(density * jax.nn.silu(x) ** 2)), float(jnp.sum(density[None] * basis_GX**2))
