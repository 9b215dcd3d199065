"""Two-layer feed-forward networks: GELU MLP and SwiGLU (Shazeer 2020)."""

import jax
from flax import nnx

from mixkabrn_jax.layers.linear import Linear
from mixkabrn_jax.layers.norm import rms_norm


class Mlp(nnx.Module):
    """y = gelu(x W_up) W_down, with the hidden layer normalised first if `sub_norm`."""

    def __init__(self, d_model, width, *, sub_norm, epsilon, out_scale, rngs, **linear):
        """
        Args:
            width: hidden units.
            sub_norm: RMS-normalise the hidden layer, so that its quantiser sees a steady range.
            out_scale: factor on the initial size of the last matrix.
            linear: what `Linear` takes besides its sizes (kind, activation_bits, num_experts).
        """
        self.up = Linear(d_model, width, rngs=rngs, **linear)
        self.down = Linear(width, d_model, rngs=rngs, init_scale=out_scale, **linear)
        self.sub_norm, self.epsilon = sub_norm, epsilon

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> (`[..., D]`, None: there are no splines), or rows sorted by expert."""
        hidden = jax.nn.gelu(self.up(x, group_sizes_E))
        if self.sub_norm:
            hidden = rms_norm(hidden, self.epsilon)
        return self.down(hidden, group_sizes_E), None


class SwiGlu(nnx.Module):
    """y = (silu(x W_gate) * x W_up) W_down, with the hidden layer normalised first if `sub_norm`."""

    def __init__(self, d_model, width, *, sub_norm, epsilon, out_scale, rngs, **linear):
        """Arguments as for `Mlp`."""
        self.gate = Linear(d_model, width, rngs=rngs, **linear)
        self.up = Linear(d_model, width, rngs=rngs, **linear)
        self.down = Linear(width, d_model, rngs=rngs, init_scale=out_scale, **linear)
        self.sub_norm, self.epsilon = sub_norm, epsilon

    def __call__(self, x, group_sizes_E=None):
        """`[..., D]` -> (`[..., D]`, None: there are no splines), or rows sorted by expert."""
        hidden = jax.nn.silu(self.gate(x, group_sizes_E)) * self.up(x, group_sizes_E)
        if self.sub_norm:
            hidden = rms_norm(hidden, self.epsilon)
        return self.down(hidden, group_sizes_E), None
