import dataclasses

import pytest

from mixkabrn_jax.models.config import ModelConfig
from tests import toy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({field: "other"}, f"config.model.{field}='other'")
            for field in (
                *("mixer", "ffn", "linear", "compute_dtype", "rotary_kind", "rotary_layout", "residual", "decay"),
                *("expert_dispatch", "router_score", "retention_norm", "spline_linear", "quant_norm"),
                *("outside_grid", "knots", "kan_basis", "kan_init"),
            )
        ),
        *(
            ({field: 0}, f"config.model.{field}=0")
            for field in (
                *("d_model", "num_layers", "vocab_size", "num_heads", "key_width", "value_width"),
                *("hidden_width", "expert_width", "rational_groups"),
            )
        ),
        ({"num_heads": 3}, "config.model.num_heads=3 does not divide config.model.d_model=16"),
        ({"decay": "gated"}, "config.model.retention_norm='sqrt_sum' needs constant decays"),
        ({"chunk_size": -1}, "config.model.chunk_size=-1"),
        ({"key_width": 7}, "config.model.key_width=7"),
        ({"first_dense_layers": 2}, "config.model.first_dense_layers=2"),
        ({"first_dense_layers": -1}, "config.model.first_dense_layers=-1"),
        ({"activation_bits": 1}, "config.model.activation_bits=1"),
        ({"activation_bits": 9}, "config.model.activation_bits=9"),
        ({"spline_share": 1.1}, "config.model.spline_share=1.1"),
        ({"spline_share": -0.1}, "config.model.spline_share=-0.1"),
        ({"knots": "adaptive", "kan_basis": "rbf"}, "config.model.knots='adaptive': config.model.kan_basis='bspline'"),
        ({"kan_init": "pykan", "kan_basis": "fourier"}, "config.model.kan_init='pykan'"),
        ({"num_experts": -1}, "config.model.num_experts=-1"),
        ({"num_shared_experts": -1}, "num_shared_experts=-1"),
        ({"grid_low": 3.0}, "low=3.0"),
        ({"grid_low": 10.0, "grid_high": 12.0}, "config.model.grid_low=10.0, config.model.grid_high=12.0"),
        ({"grid_low": 0.001, "grid_high": 0.002}, "config.model.grid_low=0.001"),
        ({"first_decay_exponent": 119.0}, "config.model.first_decay_exponent=119.0"),
        ({"first_decay_exponent": 1e-9}, "config.model.first_decay_exponent=1e-09"),
        ({"grid_intervals": 0}, "grid_intervals=0"),
        ({"spline_degree": -1}, "degree=-1"),
        ({"experts_per_token": 5}, "config.model.experts_per_token=5: 1 to 4"),
        ({"experts_per_token": 0}, "config.model.experts_per_token=0: 1 to 4"),
        ({"router_groups": 4, "experts_per_token": 2}, "config.model.experts_per_token=2: 1 to 1"),
        ({"router_groups": 3}, "config.model.router_groups=3 does not divide config.model.num_experts=4"),
        ({"router_groups": 0}, "config.model.router_groups=0"),
        ({"router_groups": 2, "router_groups_per_token": 3}, "config.model.router_groups_per_token=3: 1 to"),
        ({"router_device_groups": 3}, "config.model.router_device_groups=3 does not divide"),
        ({"router_device_groups": 0}, "config.model.router_device_groups=0"),
        ({"capacity_factor": -1.0}, "config.model.capacity_factor=-1.0"),
        ({"capacity_factor": float("inf")}, "config.model.capacity_factor=inf"),
        ({"down_activation_bits": 1}, "config.model.down_activation_bits=1"),
    ],
)
def test_a_field_that_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        toy.model_config(**changes)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize(
    "field", ["embedding_scale", "norm_epsilon", "first_decay_exponent", "rotary_base", "router_scale"]
)
def test_a_number_that_must_be_positive_is_named(field, value):
    with pytest.raises(ValueError, match=rf"config\.model\.{field}={value}"):
        toy.model_config(**{field: value})


def test_fields_of_switched_off_parts_are_not_checked():
    assert toy.model_config(mixer="attention", d_model=256, num_heads=128).num_heads == 128
    assert toy.model_config(ffn="mlp", grid_low=10.0, grid_high=12.0).kan.grid.low == 10.0
    assert toy.model_config(num_experts=0, experts_per_token=9, router_groups=5, capacity_factor=-1.0).router is None


def test_an_unknown_field_is_a_type_error():
    with pytest.raises(TypeError, match="num_headz"):
        toy.model_config(num_headz=3)


def test_every_field_is_declared_by_the_toy_and_none_has_a_default():
    assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(ModelConfig))
