"""Multi-scale retention with a gate (Sun et al. 2023, eq. 8), and its gated decay (Sun et al. 2024, YOCO)."""

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.layers.linear import Linear, normal_init
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.layers.recompute import recomputed
from mixkabrn_jax.ops import retention, rotary

DECAYS = ("paper", "lm", "learned", "gated")
NORMALIZATIONS = ("sqrt_sum", "none")
_GATE_TEMPERATURE = 16.0  # a gate of 1/2 forgets 4% a step, one of 0.9 0.7% (YOCO)


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
        decay: str,
        first_decay_exponent: float,
        normalization: str,
        rotary_kind: str,
        rotary_base: float,
        rotary_layout: str,
        sub_norm: bool,
        epsilon: float,
        value_scale: float,
        out_scale: float,
        rngs: nnx.Rngs,
        down_activation_bits: int | None = None,
        **linear,
    ):
        """
        Args:
            key_width, value_width: features of one head.
            chunk_size: positions handled in parallel; 0 chooses it by the widths.
            decay: what a head keeps of its state a step. "paper", head h 1 - 2^(-first_decay_exponent - h); "lm", from
                1 - 1/32 to 1 - 1/512 in equal ratios; "learned", starts as "paper" and is trained; "gated", computed
                from each token.
            normalization: "sqrt_sum", rows are divided by the root of the sum of their decays; "none", the head norm
                does it all. The sum is known for constant decays only, so a gated decay needs "none".
            sub_norm: RMS-normalise the gated heads before the output projection.
            value_scale, out_scale: factors on the initial size of the value and output projections.
            down_activation_bits: of the output projection's input; None for `activation_bits`.
            linear: what `Linear` takes besides its sizes; its `kernels` holds for the recurrence too.
        """
        self.query = Linear(d_model, num_heads * key_width, letters="DH", rngs=rngs, **linear)
        self.key = Linear(d_model, num_heads * key_width, letters="DH", rngs=rngs, **linear)
        self.value = Linear(d_model, num_heads * value_width, letters="DH", rngs=rngs, init_scale=value_scale, **linear)
        self.gate = Linear(d_model, num_heads * value_width, letters="DH", rngs=rngs, **linear)
        linear["activation_bits"] = down_activation_bits or linear["activation_bits"]
        self.out = Linear(num_heads * value_width, d_model, letters="HD", rngs=rngs, init_scale=out_scale, **linear)
        self.num_heads, self.key_width, self.value_width = num_heads, key_width, value_width
        log_decay_H = retention.log_decay(num_heads, first_decay_exponent)
        self.decay_logit_H = nnx.Param(log_decay_H - jnp.log(-jnp.expm1(log_decay_H))) if decay == "learned" else None
        # Full precision, like the router: it decides what is kept.
        self.decay_gate = normal_init(rngs, (d_model, num_heads), 1.0, "D_") if decay == "gated" else None
        self.chunk_size, self.decay, self.first_decay_exponent = chunk_size, decay, first_decay_exponent
        self.normalization = normalization
        self.rotary_kind, self.rotary_base, self.rotary_layout = rotary_kind, rotary_base, rotary_layout
        self.sub_norm, self.epsilon, self.kernels = sub_norm, epsilon, linear.get("kernels", False)

    def log_decay(self, x_BTD):
        """Returns the logarithm of what each head keeps a step: `[H]`, or `[B, T, H]` when gated; float32."""
        if self.decay == "gated":
            x_BTD = x_BTD.astype(jnp.float32)
            if self.query.norm_epsilon is not None:  # where matrices normalise their own input, so does the gate
                x_BTD = rms_norm(x_BTD, self.query.norm_epsilon)
            logit_BTH = jnp.einsum("btd,dh->bth", x_BTD, self.decay_gate[...], precision="highest")
            return jax.nn.log_sigmoid(logit_BTH) / _GATE_TEMPERATURE
        if self.decay == "learned":
            return jax.nn.log_sigmoid(self.decay_logit_H[...])
        if self.decay == "lm":
            return retention.lm_log_decay(self.num_heads)
        return retention.log_decay(self.num_heads, self.first_decay_exponent)

    def __call__(self, x_BTD, state_BHKV, position_BT, segment_ids_BT=None, mask_BT=None):
        """
        Args:
            x_BTD: `[B, T, D]`.
            state_BHKV: float32 state before the first position.
            position_BT: int, counted from the start of each document.
            segment_ids_BT: int or None; documents do not see each other.
            mask_BT: None, or 0 at padding, which leaves the state as it was.
        Returns: (`[B, T, D]`, state after the last position).
        """
        heads = (*x_BTD.shape[:2], self.num_heads, -1)
        frequency = rotary.frequencies(self.key_width, self.rotary_base, self.rotary_kind)
        q_BTHK = rotary.rotate(self.query(x_BTD).reshape(heads), position_BT, frequency, self.rotary_layout)
        k_BTHK = rotary.rotate(
            self.key(x_BTD).reshape(heads) * self.key_width**-0.5, position_BT, frequency, self.rotary_layout
        )
        v_BTHV = self.value(x_BTD).reshape(heads)
        log_decay = constant_decay = self.log_decay(x_BTD)
        if mask_BT is not None:
            k_BTHK, log_decay = retention.mask_padding(k_BTHK, log_decay, mask_BT)
        if x_BTD.shape[1] == 1:
            now = (a[:, 0] for a in (q_BTHK, k_BTHK, v_BTHV))
            y_BHV, state_BHKV = retention.recurrent(
                *now, log_decay if log_decay.ndim == 1 else log_decay[:, 0], state_BHKV
            )
            y_BTHV = y_BHV[:, None]
        else:
            state_BHKV = _from_earlier_devices(state_BHKV, k_BTHK, v_BTHV, log_decay, segment_ids_BT)
            backend = "pallas" if self.kernels else "auto"
            options = {"chunk_size": self.chunk_size, "segment_ids": segment_ids_BT, "backend": backend}
            y_BTHV, state_BHKV = retention.chunkwise(q_BTHK, k_BTHK, v_BTHV, log_decay, state_BHKV, **options)
        scale_BTH = retention.row_scale(position_BT, constant_decay) if self.normalization == "sqrt_sum" else None
        y_BTF = recomputed(self._gated)(self.gate(x_BTD), y_BTHV, scale_BTH)
        return self.out(y_BTF), state_BHKV

    def _gated(self, gate_BTF, y_BTHV, scale_BTH):
        if scale_BTH is not None:
            y_BTHV = y_BTHV * scale_BTH[..., None]
        y_BTF = rms_norm(y_BTHV, self.epsilon).reshape(gate_BTF.shape).astype(gate_BTF.dtype)
        y_BTF = jax.nn.silu(gate_BTF) * y_BTF
        return rms_norm(y_BTF, self.epsilon) if self.sub_norm else y_BTF


def _from_earlier_devices(state_BHKV, k_BTHK, v_BTHV, log_decay, segment_ids_BT):
    """The state that comes in where devices hold one part of the sequence each: states are all they exchange."""
    if sharding.size("context") == 1:
        return state_BHKV
    ends_2B = segment_ids_BT[:, jnp.array([0, -1])].T
    mine = (*retention.carried(k_BTHK, v_BTHV, log_decay, segment_ids_BT), ends_2B)
    kept_PBH, added_PBHKV, ends_P2B = jax.tree.map(lambda a: sharding.all_gather(a[None], "context"), mine)
    continues_PB = ends_P2B[:, 0] == jnp.roll(ends_P2B[:, 1], 1, axis=0)
    return retention.incoming(kept_PBH, added_PBHKV, continues_PB, sharding.index("context"))
