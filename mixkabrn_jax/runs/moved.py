"""Names that fields of a config had before its sections were those of the modules: workdirs of that time still open."""

from collections.abc import Mapping

from mixkabrn_jax.runs.config import flatten

MOVED = {
    "model.kernels": "model.backend",
    "model.chunk_size": "model.retention.chunk_size",
    "model.decay": "model.retention.decay",
    "model.first_decay_exponent": "model.retention.first_decay_exponent",
    "model.retention_norm": "model.retention.normalization",
    "model.rotary_kind": "model.rotary.kind",
    "model.rotary_base": "model.rotary.base",
    "model.rotary_layout": "model.rotary.layout",
    "model.grid_low": "model.kan.grid.low",
    "model.grid_high": "model.kan.grid.high",
    "model.grid_intervals": "model.kan.grid.num_intervals",
    "model.spline_degree": "model.kan.grid.degree",
    "model.outside_grid": "model.kan.grid.extrapolation",
    "model.knots": "model.kan.knots",
    "model.kan_basis": "model.kan.basis",
    "model.rational_groups": "model.kan.rational_groups",
    "model.kan_init": "model.kan.init",
    "model.spline_share": "model.kan.spline_share",
    "model.train_base": "model.kan.train_base",
    "model.train_spline": "model.kan.train_spline",
    "model.spline_linear": "model.kan.spline_linear",
    "model.expert_dispatch": "model.router.dispatch",
    "model.capacity_factor": "model.router.capacity_factor",
    "model.router_score": "model.router.score",
    "model.router_groups": "model.router.num_groups",
    "model.router_groups_per_token": "model.router.groups_per_token",
    "model.router_normalize": "model.router.normalize",
    "model.router_scale": "model.router.scale",
    "model.router_device_groups": "model.router.device_groups",
    "model.activation_bits": "model.quantization.activation_bits",
    "model.down_activation_bits": "model.quantization.down_activation_bits",
    "model.quant_norm": "model.quantization.normalize_input",
    "training.balance_loss": "objective.balance_loss",
    "training.sequence_balance_loss": "objective.sequence_balance_loss",
    "training.device_balance_loss": "objective.device_balance_loss",
    "training.router_z_loss": "objective.router_z_loss",
    "guard.window": "guard.history_length",
}
"""Old dotted names to new ones."""

_VALUES = {
    "model.kernels": {False: "auto", True: "pallas"},
    "model.quant_norm": {"sub": False, "inside": True},
}
"""Old values to new ones, where a field has changed its meaning with its name."""


def rename(name: str, value) -> tuple[str, object]:
    """A field of a config by its dotted name and value, old or new, as (name, value) of today."""
    changed = [new for old, new in _VALUES.get(name, {}).items() if old == value]
    return MOVED.get(name, name), changed[0] if changed else value


def nested(config: Mapping) -> dict:
    """A config with the names of today, from one with old names or with those already."""
    result = {}
    for name, value in flatten(config).items():
        new, value = rename(name, value)
        *sections, field = new.split(".")
        target = result
        for section in sections:
            target = target.setdefault(section, {})
        target[field] = value
    return result
