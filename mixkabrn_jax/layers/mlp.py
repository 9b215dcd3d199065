"""Two-layer feed-forward networks: GELU MLP, SwiGLU and GEGLU (Shazeer 2020)."""

from functools import partial

import jax
from flax import nnx

from mixkabrn_jax.layers.linear import Linear
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.layers.recompute import recomputed


class Mlp(nnx.Module):
    """y = gelu(x W_up) W_down, with the hidden layer normalised first if `sub_norm`."""

    def __init__(
        self, d_model, width, *, sub_norm, epsilon, in_scale, out_scale, rngs, down_activation_bits=None, **linear
    ):
        """
        Args:
            width: hidden units.
            sub_norm: RMS-normalise the hidden layer, so that its quantiser sees a steady range.
            in_scale, out_scale: factors on the initial size of the first and the last matrix.
            down_activation_bits: of the last matrix's input; None for `activation_bits`.
            linear: what `Linear` takes besides its sizes (kind, activation_bits, num_experts).
        """
        self.up = Linear(d_model, width, letters="DF", rngs=rngs, init_scale=in_scale, **linear)
        linear["activation_bits"] = down_activation_bits or linear["activation_bits"]
        self.down = Linear(width, d_model, letters="FD", rngs=rngs, init_scale=out_scale, **linear)
        self.sub_norm, self.epsilon = sub_norm, epsilon

    def __call__(self, x, group_sizes_E=None, weights=None):
        """`[..., D]` -> (`[..., D]`, None: there are no splines to count the inputs of), or rows sorted by expert."""
        del weights
        hidden = _gelu(self.up(x, group_sizes_E))
        if self.sub_norm:
            hidden = rms_norm(hidden, self.epsilon)
        return self.down(hidden, group_sizes_E), None


GATES = {"swiglu": jax.nn.silu, "geglu": partial(jax.nn.gelu, approximate=False)}


@partial(recomputed, static_argnums=0)
def _gated(activation, gate, up):
    return GATES[activation](gate) * up


_gelu = recomputed(jax.nn.gelu)


class Glu(nnx.Module):
    """y = (gate(x W_gate) * x W_up) W_down, with the hidden layer normalised first if `sub_norm`."""

    def __init__(
        self, d_model, width, *, gate, sub_norm, epsilon, in_scale, out_scale, rngs, down_activation_bits=None, **linear
    ):
        """Arguments as for `Mlp`; gate: a name in `GATES`."""
        self.gate = Linear(d_model, width, letters="DF", rngs=rngs, **linear)
        self.up = Linear(d_model, width, letters="DF", rngs=rngs, init_scale=in_scale, **linear)
        linear["activation_bits"] = down_activation_bits or linear["activation_bits"]
        self.down = Linear(width, d_model, letters="FD", rngs=rngs, init_scale=out_scale, **linear)
        self.activation, self.sub_norm, self.epsilon = gate, sub_norm, epsilon

    def __call__(self, x, group_sizes_E=None, weights=None):
        """`[..., D]` -> (`[..., D]`, None: there are no splines to count the inputs of), or rows sorted by expert."""
        del weights
        hidden = _gated(self.activation, self.gate(x, group_sizes_E), self.up(x, group_sizes_E))
        if self.sub_norm:
            hidden = rms_norm(hidden, self.epsilon)
        return self.down(hidden, group_sizes_E), None
