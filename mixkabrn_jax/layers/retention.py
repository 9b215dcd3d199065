"""Multi-scale retention with a gate (Sun et al. 2023, eq. 8), and its gated decay (Sun et al. 2024, YOCO)."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.heads import HeadsConfig, RotaryConfig
from mixkabrn_jax.layers.linear import Linear, normal_init, project
from mixkabrn_jax.layers.norm import rms_norm
from mixkabrn_jax.layers.recompute import recomputed
from mixkabrn_jax.ops import retention

DECAYS = ("paper", "lm", "learned", "gated")
NORMALIZATIONS = ("sqrt_sum", "none")
_GATE_TEMPERATURE = 16.0  # a gate of 1/2 forgets 4% a step, one of 0.9 0.7% (YOCO)


@dataclass(frozen=True)
class RetentionConfig:
    """How the heads of a retention forget, and how its outputs are kept at one size."""

    decay: str = "paper"
    """What a head keeps of its state a step. "paper": head h keeps 1 - 2^(-first_decay_exponent - h). "lm": from
    1 - 1/32 to 1 - 1/512 in equal ratios. "learned": starts as "paper" and is trained. "gated": computed from each
    token."""
    first_decay_exponent: float = 5.0
    """Of the head that forgets fastest; 5 in the paper, and less for shorter contexts."""
    normalization: str = "sqrt_sum"
    """"sqrt_sum" divides each row by the root of the sum of its decays; "none" leaves it all to the norm of each head.
    The sum is known for constant decays only, so a gated decay needs "none"."""
    chunk_size: int = 0
    """Positions handled in parallel; 0 chooses it by the widths. It changes the speed and nothing else."""

    def __post_init__(self):
        for field, known in (("decay", DECAYS), ("normalization", NORMALIZATIONS)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r}: one of {known} is needed")
        if not 0 < self.first_decay_exponent < math.inf:
            raise ValueError(f"first_decay_exponent={self.first_decay_exponent}: more than 0 and finite is needed")
        if self.decay == "gated" and self.normalization != "none":
            raise ValueError(
                f"normalization={self.normalization!r} needs constant decays: 'none' with decay='gated' is needed"
            )
        if self.chunk_size < 0:
            raise ValueError(f"chunk_size={self.chunk_size}: at least 1 is needed, or 0 to choose it by the widths")

    def check_heads(self, num_heads: int) -> None:
        """Raises ValueError when a decay of these heads would round to 0 or 1 in float32."""
        if self.decay in ("paper", "learned") and not 0.001 <= self.first_decay_exponent <= 120 - num_heads:
            raise ValueError(
                f"first_decay_exponent={self.first_decay_exponent}: 0.001 to {120 - num_heads} is needed with "
                f"num_heads={num_heads}, for decays between 0 and 1 in float32"
            )


class Retention(nnx.Module):
    """The linear layers of a retention; the recurrence itself is `ops.retention`.

    The raw float32 recurrence comes first, then the row factor from the absolute position, then the head norm: one
    definition for all three orders, so that they agree to rounding.
    """

    def __init__(
        self,
        d_model: int,
        heads: HeadsConfig,
        config: RetentionConfig = RetentionConfig(),
        rotary: RotaryConfig = RotaryConfig(),
        branch: BranchConfig = BranchConfig(),
        *,
        rngs: nnx.Rngs,
    ):
        """Raises: ValueError for decays that float32 cannot hold."""
        config.check_heads(heads.num_heads)
        keys, values = heads.num_heads * heads.key_width, heads.num_heads * heads.value_width
        self.query = Linear(d_model, keys, branch.input, "DH", rngs=rngs)
        self.key = Linear(d_model, keys, branch.input, "DH", rngs=rngs)
        self.value = Linear(d_model, values, branch.value, "DH", rngs=rngs)
        self.gate = Linear(d_model, values, branch.input, "DH", rngs=rngs)
        self.out = Linear(values, d_model, branch.out_without_sub_norm, "HD", rngs=rngs)
        self.query.kernel.set_metadata(columns=heads.key_width)
        self.key.kernel.set_metadata(columns=heads.key_width)
        self.value.kernel.set_metadata(columns=heads.value_width)
        self.gate.kernel.set_metadata(columns=heads.value_width)
        self.out.kernel.set_metadata(rows=heads.value_width)
        self.sub_norm = branch.sub_norm and not branch.normalize_input
        log_decay_H = retention.log_decay(heads.num_heads, config.first_decay_exponent)
        is_learned, is_gated = config.decay == "learned", config.decay == "gated"
        self.decay_logit_H = nnx.Param(log_decay_H - jnp.log(-jnp.expm1(log_decay_H))) if is_learned else None
        # Full precision, like the router: it decides what is kept.
        self.decay_gate = normal_init(rngs, (d_model, heads.num_heads), 1.0, "D_") if is_gated else None
        self.heads, self.config, self.rotary = heads, config, rotary

    def log_decay(self, x_BTD):
        """Returns the logarithm of what each head keeps a step: `[H]`, or `[B, T, H]` when gated; float32."""
        if self.config.decay == "gated":
            x_BTD = x_BTD.astype(jnp.float32)
            if self.query.config.normalize_input:  # where matrices normalise their own input, so does the gate
                x_BTD = rms_norm(x_BTD, self.query.config.norm_epsilon)
            logit_BTH = jnp.einsum("btd,dh->bth", x_BTD, self.decay_gate[...], precision="highest")
            return jax.nn.log_sigmoid(logit_BTH) / _GATE_TEMPERATURE
        if self.config.decay == "learned":
            return jax.nn.log_sigmoid(self.decay_logit_H[...])
        if self.config.decay == "lm":
            return retention.lm_log_decay(self.heads.num_heads)
        return retention.log_decay(self.heads.num_heads, self.config.first_decay_exponent)

    def __call__(self, x_BTD, state_BHKV=None, position_BT=None, segment_ids_BT=None, mask_BT=None):
        """
        Args:
            x_BTD: `[B, T, D]`.
            state_BHKV: float32 state before the first position; None for an empty one.
            position_BT: int, counted from the start of each document; None for 0, 1, 2, ...
            segment_ids_BT: int or None; documents do not see each other.
            mask_BT: None, or 0 at padding, which leaves the state as it was.
        Returns: (`[B, T, D]`, state after the last position).
        """
        if state_BHKV is None:
            state_BHKV = self.heads.empty_state(x_BTD.shape[0])
        if position_BT is None:
            position_BT = jnp.arange(x_BTD.shape[1], dtype=jnp.int32)[None]
        q_BTF, k_BTF, v_BTF, gate_BTF = project(x_BTD, (self.query, self.key, self.value, self.gate))
        q_BTHK = self.rotary.rotate(self.heads.split(q_BTF), position_BT)
        k_BTHK = self.rotary.rotate(self.heads.split(k_BTF) * self.heads.key_width**-0.5, position_BT)
        v_BTHV = self.heads.split(v_BTF)
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
            options = {
                "chunk_size": self.config.chunk_size,
                "segment_ids": segment_ids_BT,
                "backend": self.query.config.backend,
            }
            y_BTHV, state_BHKV = retention.chunkwise(q_BTHK, k_BTHK, v_BTHV, log_decay, state_BHKV, **options)
        scale_BTH = (
            retention.row_scale(position_BT, constant_decay) if self.config.normalization == "sqrt_sum" else None
        )
        y_BTF = recomputed(self._gated)(gate_BTF, y_BTHV, scale_BTH)
        return self.out(y_BTF), state_BHKV

    def _gated(self, gate_BTF, y_BTHV, scale_BTH):
        if scale_BTH is not None:
            y_BTHV = y_BTHV * scale_BTH[..., None]
        y_BTF = rms_norm(y_BTHV, self.query.config.norm_epsilon).reshape(gate_BTF.shape).astype(gate_BTF.dtype)
        y_BTF = jax.nn.silu(gate_BTF) * y_BTF
        # Here rather than in `out`, so that the backward pass computes it again from what it has anyway.
        return rms_norm(y_BTF, self.out.config.norm_epsilon) if self.sub_norm else y_BTF


def _from_earlier_devices(state_BHKV, k_BTHK, v_BTHV, log_decay, segment_ids_BT):
    """The state that comes in where devices hold one part of the sequence each: states are all they exchange."""
    if sharding.size("context") == 1:
        return state_BHKV
    ends_2B = segment_ids_BT[:, jnp.array([0, -1])].T
    mine = (*retention.carried(k_BTHK, v_BTHV, log_decay, segment_ids_BT), ends_2B)
    kept_IBH, added_IBHKV, ends_I2B = jax.tree.map(lambda a: sharding.all_gather(a[None], "context"), mine)
    continues_IB = ends_I2B[:, 0] == jnp.roll(ends_I2B[:, 1], 1, axis=0)
    return retention.incoming(kept_IBH, added_IBHKV, continues_IB, sharding.index("context"))
