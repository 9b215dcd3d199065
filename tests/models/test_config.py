import dataclasses
import math
import re

import pytest

from mixkabrn_jax.models.config import ModelConfig
from tests import toy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({field.replace(".", "__"): "other"}, f"config.model.{field}='other': one of (")
            for field in (
                *("mixer", "ffn", "linear", "compute_dtype", "residual", "rotary.kind", "rotary.layout"),
                *("retention.decay", "retention.normalization", "router.dispatch", "router.score"),
                *("kan.spline_linear", "kan.grid.extrapolation", "kan.knots", "kan.basis", "kan.init"),
                "backend",
            )
        ),
        *(
            ({field.replace(".", "__"): 0}, f"config.model.{field}=0")
            for field in (
                *("d_model", "num_layers", "num_heads", "key_width", "value_width", "hidden_width", "expert_width"),
                *("kan.rational_groups", "kan.grid.num_intervals", "router.num_groups", "router.device_groups"),
                "router.groups_per_token",
            )
        ),
        ({"num_heads": 3}, "config.model.num_heads=3 does not divide d_model=16"),
        ({"retention__decay": "gated"}, "config.model.retention.normalization='sqrt_sum' needs constant decays"),
        ({"retention__chunk_size": -1}, "config.model.retention.chunk_size=-1"),
        ({"key_width": 7}, "config.model.key_width=7"),
        ({"first_dense_layers": 2}, "config.model.first_dense_layers=2"),
        ({"first_dense_layers": -1}, "config.model.first_dense_layers=-1"),
        ({"quantization__activation_bits": 1}, "config.model.quantization.activation_bits=1"),
        ({"quantization__activation_bits": 9}, "config.model.quantization.activation_bits=9"),
        ({"quantization__down_activation_bits": 1}, "config.model.quantization.down_activation_bits=1"),
        ({"kan__spline_share": 1.1}, "config.model.kan.spline_share=1.1"),
        ({"kan__spline_share": -0.1}, "config.model.kan.spline_share=-0.1"),
        ({"kan__knots": "adaptive", "kan__basis": "rbf"}, "config.model.kan.knots='adaptive': basis='bspline'"),
        ({"kan__init": "pykan", "kan__basis": "fourier"}, "config.model.kan.init='pykan'"),
        ({"num_experts": -1}, "config.model.num_experts=-1"),
        ({"num_shared_experts": -1}, "config.model.num_shared_experts=-1"),
        ({"kan__grid__low": 3.0}, "config.model.kan.grid.low=3.0"),
        ({"kan__grid__low": -math.inf}, "config.model.kan.grid.low=-inf"),
        ({"kan__grid__high": math.nan}, "high=nan"),
        ({"kan__grid__low": 10.0, "kan__grid__high": 12.0}, "config.model.kan.grid.low=10.0, kan.grid.high=12.0"),
        ({"kan__grid__low": 0.001, "kan__grid__high": 0.002}, "config.model.kan.grid.low=0.001"),
        ({"retention__first_decay_exponent": 119.0}, "config.model.retention.first_decay_exponent=119.0"),
        ({"retention__first_decay_exponent": 1e-9}, "config.model.retention.first_decay_exponent=1e-09"),
        ({"kan__grid__degree": -1}, "config.model.kan.grid.degree=-1"),
        ({"kan__grid__degree": 6}, "config.model.kan.grid.degree=6"),
        ({"experts_per_token": 5}, "config.model.experts_per_token=5: 1 to 4"),
        ({"experts_per_token": 0}, "config.model.experts_per_token=0: 1 to 4"),
        ({"router__num_groups": 4}, "config.model.experts_per_token=2: 1 to 1"),
        ({"router__num_groups": 3}, "config.model.router.num_groups=3 does not divide num_experts=4"),
        ({"router__num_groups": 2, "router__groups_per_token": 3}, "config.model.router.groups_per_token=3: 1 to"),
        ({"router__device_groups": 3}, "config.model.router.device_groups=3 does not divide num_experts=4"),
        ({"router__capacity_factor": -1.0}, "config.model.router.capacity_factor=-1.0"),
        ({"router__capacity_factor": math.inf}, "config.model.router.capacity_factor=inf"),
    ],
)
def test_a_field_that_cannot_be_is_named_by_its_path(changes, message):
    with pytest.raises(ValueError) as refused:
        toy.model_config(**changes)
    assert message in str(refused.value)
    assert str(refused.value).startswith("config.model.")
    assert str(refused.value).count("config.model.") == 1


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    "field", ["embedding_scale", "norm_epsilon", "retention.first_decay_exponent", "rotary.base", "router.scale"]
)
def test_a_number_that_must_be_positive_is_named(field, value):
    with pytest.raises(ValueError, match=re.escape(f"config.model.{field}={value}")):
        toy.model_config(**{field.replace(".", "__"): value})


def test_combinations_of_switched_off_parts_are_not_checked():
    assert toy.model_config(mixer="attention", d_model=256, num_heads=128).num_heads == 128
    assert toy.model_config(ffn="mlp", kan__grid__low=10.0, kan__grid__high=12.0).kan.grid.low == 10.0
    assert toy.model_config(num_experts=0, experts_per_token=9, router__num_groups=5).moe is None


def test_a_section_is_checked_by_itself_even_where_nothing_uses_it():
    with pytest.raises(ValueError, match=r"config\.model\.router\.capacity_factor=-1\.0"):
        toy.model_config(num_experts=0, router__capacity_factor=-1.0)
    with pytest.raises(ValueError, match=r"config\.model\.retention\.decay='other'"):
        toy.model_config(mixer="attention", retention__decay="other")


def test_an_unknown_field_is_named():
    with pytest.raises(KeyError, match="num_headz"):
        toy.model_config(num_headz=3)


def test_a_field_of_a_model_has_a_default_only_where_older_runs_lack_it():
    defaults = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    given = {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}
    assert given == {"conv_size": 1}
