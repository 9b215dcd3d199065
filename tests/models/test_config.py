import dataclasses

import pytest

from mixkabrn_jax.models.config import ModelConfig
from tests import toy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({field: "other"}, f"{field}='other': one of (")
            for field in (
                *("mixer", "ffn", "linear", "compute_dtype", "residual", "backend"),
                *("retention__decay", "retention__normalization", "rotary__kind", "rotary__layout"),
                *("kan__basis", "kan__knots", "kan__init", "kan__spline_linear", "kan__grid__extrapolation"),
                *("router__score", "router__dispatch"),
            )
        ),
        *(
            ({field: 0}, f"{field}=0: at least 1 is needed")
            for field in (
                *("d_model", "num_layers", "num_heads", "key_width", "value_width", "hidden_width", "expert_width"),
                *("kan__rational_groups", "kan__grid__num_intervals", "router__num_groups", "router__device_groups"),
            )
        ),
        *(
            ({f"quantization__{field}": bits}, f"quantization.{field}={bits}: 2 to 8")
            for field in ("activation_bits", "down_activation_bits")
            for bits in (1, 9)
        ),
        ({"num_heads": 3}, "num_heads=3 does not divide d_model=16"),
        ({"retention__decay": "gated"}, "retention.normalization='sqrt_sum' needs constant decays"),
        ({"retention__chunk_size": -1}, "retention.chunk_size=-1"),
        ({"retention__first_decay_exponent": 119.0}, "retention.first_decay_exponent=119.0: 0.001 to 118 is needed"),
        ({"retention__first_decay_exponent": 1e-9}, "retention.first_decay_exponent=1e-09"),
        ({"key_width": 7}, "key_width=7"),
        ({"first_dense_layers": 2}, "first_dense_layers=2"),
        ({"first_dense_layers": -1}, "first_dense_layers=-1"),
        ({"kan__spline_share": 1.1}, "kan.spline_share=1.1"),
        ({"kan__spline_share": -0.1}, "kan.spline_share=-0.1"),
        ({"kan__knots": "adaptive", "kan__basis": "rbf"}, "kan.knots='adaptive': basis='bspline' is needed"),
        ({"kan__init": "pykan", "kan__basis": "fourier"}, "kan.init='pykan': basis='bspline' is needed"),
        ({"kan__grid__low": 3.0}, "kan.grid.low=3.0"),
        ({"kan__grid__low": 10.0, "kan__grid__high": 12.0}, "kan.grid.low=10.0, kan.grid.high=12.0: inputs"),
        ({"kan__grid__low": 0.001, "kan__grid__high": 0.002}, "kan.grid.low=0.001"),
        ({"kan__grid__degree": -1}, "kan.grid.degree=-1"),
        ({"kan__grid__degree": 6}, "kan.grid.degree=6: 0 to 5"),
        ({"num_experts": -1}, "num_experts=-1"),
        ({"num_shared_experts": -1}, "num_shared_experts=-1"),
        ({"experts_per_token": 5}, "experts_per_token=5: 1 to 4"),
        ({"experts_per_token": 0}, "experts_per_token=0: 1 to 4"),
        ({"router__num_groups": 4, "experts_per_token": 2}, "experts_per_token=2: 1 to 1"),
        ({"router__num_groups": 3}, "router.num_groups=3 does not divide num_experts=4"),
        ({"router__num_groups": 2, "router__groups_per_token": 3}, "router.groups_per_token=3: 1 to num_groups=2"),
        ({"router__groups_per_token": 0}, "router.groups_per_token=0: 1 to num_groups=1"),
        ({"router__device_groups": 3}, "router.device_groups=3 does not divide num_experts=4"),
        ({"router__capacity_factor": -1.0}, "router.capacity_factor=-1.0"),
        ({"router__capacity_factor": float("inf")}, "router.capacity_factor=inf"),
    ],
)
def test_a_field_that_cannot_be_is_named_from_the_top(changes, message):
    with pytest.raises(ValueError) as error:
        toy.model_config(**changes)
    assert str(error.value).startswith("config.model." + message.replace("__", "."))


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize(
    "field", ["embedding_scale", "norm_epsilon", "retention__first_decay_exponent", "rotary__base", "router__scale"]
)
def test_a_number_that_must_be_positive_is_named(field, value):
    with pytest.raises(ValueError) as error:
        toy.model_config(**{field: value})
    assert str(error.value).startswith(f"config.model.{field.replace('__', '.')}={value}")


def test_combinations_with_parts_that_are_switched_off_are_not_checked():
    assert toy.model_config(mixer="attention", d_model=256, num_heads=128).num_heads == 128
    assert toy.model_config(ffn="mlp", kan__grid__low=10.0, kan__grid__high=12.0).kan.grid.low == 10.0
    assert toy.model_config(num_experts=0, experts_per_token=9, router__num_groups=5).moe is None


def test_a_section_is_checked_by_itself_even_where_nothing_uses_it():
    with pytest.raises(ValueError, match=r"config\.model\.router\.capacity_factor=-1\.0"):
        toy.model_config(num_experts=0, router__capacity_factor=-1.0)
    with pytest.raises(ValueError, match=r"config\.model\.retention\.decay='other'"):
        toy.model_config(mixer="attention", retention__decay="other")


def test_fields_of_the_model_itself_have_no_defaults():
    assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(ModelConfig))
