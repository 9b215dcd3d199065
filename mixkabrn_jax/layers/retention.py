"""Multi-scale retention with a gate (Sun et al. 2023, eq. 8)."""

import jax
from flax import nnx

from mixkabrn_jax.layers.linear import Linear
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.ops import retention, rotary


class Retention(nnx.Module):
    """Owns the projections; the recurrence itself is `ops.retention`.

    The raw float32 recurrence comes first, then the row factor from the absolute position, then the head norm: one
    definition for all three orders, so that they agree to rounding.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int,
        key_width: int,
        value_width: int,
        chunk_size: int,
        first_decay_exponent: float,
        rotary_kind: str,
        rotary_base: float,
        rotary_layout: str,
        sub_norm: bool,
        epsilon: float,
        out_scale: float,
        rngs: nnx.Rngs,
        down_activation_bits: int | None = None,
        **linear,
    ):
        """
        Args:
            key_width, value_width: features of one head.
            chunk_size: positions handled in parallel.
            first_decay_exponent: head h forgets by 1 - 2^(-first_decay_exponent - h) a step.
            sub_norm: RMS-normalise the gated heads before the output projection.
            down_activation_bits: of the output projection's input; None for `activation_bits`.
            linear: what `Linear` takes besides its sizes.
        """
        self.query = Linear(d_model, num_heads * key_width, rngs=rngs, **linear)
        self.key = Linear(d_model, num_heads * key_width, rngs=rngs, **linear)
        self.value = Linear(d_model, num_heads * value_width, rngs=rngs, **linear)
        self.gate = Linear(d_model, num_heads * value_width, rngs=rngs, **linear)
        linear["activation_bits"] = down_activation_bits or linear["activation_bits"]
        self.out = Linear(num_heads * value_width, d_model, rngs=rngs, init_scale=out_scale, **linear)
        self.num_heads, self.key_width, self.value_width = num_heads, key_width, value_width
        self.chunk_size, self.first_decay_exponent = chunk_size, first_decay_exponent
        self.rotary_kind, self.rotary_base, self.rotary_layout = rotary_kind, rotary_base, rotary_layout
        self.sub_norm, self.epsilon = sub_norm, epsilon

    def __call__(self, x_BTD, state_BHKV, position_BT, segment_ids_BT=None):
        """
        Args:
            x_BTD: `[B, T, D]`.
            state_BHKV: float32 state before the first position.
            position_BT: int, counted from the start of each document.
            segment_ids_BT: int or None; documents do not see each other.
        Returns: (`[B, T, D]`, state after the last position).
        """
        heads = (*x_BTD.shape[:2], self.num_heads, -1)
        frequency_P = rotary.frequencies(self.key_width, self.rotary_base, self.rotary_kind)
        q_BTHK = rotary.rotate(self.query(x_BTD).reshape(heads), position_BT, frequency_P, self.rotary_layout)
        k_BTHK = rotary.rotate(
            self.key(x_BTD).reshape(heads) * self.key_width**-0.5, position_BT, frequency_P, self.rotary_layout
        )
        v_BTHV = self.value(x_BTD).reshape(heads)
        log_decay_H = retention.log_decay(self.num_heads, self.first_decay_exponent)
        if x_BTD.shape[1] == 1:
            y_BHV, state_BHKV = retention.recurrent(q_BTHK[:, 0], k_BTHK[:, 0], v_BTHV[:, 0], log_decay_H, state_BHKV)
            y_BTHV = y_BHV[:, None]
        else:
            y_BTHV, state_BHKV = retention.chunkwise(
                q_BTHK, k_BTHK, v_BTHV, log_decay_H, state_BHKV, chunk_size=self.chunk_size, segment_ids=segment_ids_BT
            )
        y_BTHV = y_BTHV * retention.row_scale(position_BT, log_decay_H)[..., None]
        y_BTF = rms_norm(y_BTHV, self.epsilon).reshape(*x_BTD.shape[:2], -1).astype(x_BTD.dtype)
        y_BTF = jax.nn.silu(self.gate(x_BTD)) * y_BTF
        if self.sub_norm:
            y_BTF = rms_norm(y_BTF, self.epsilon)
        return self.out(y_BTF), state_BHKV
