from types import SimpleNamespace

import jax
import pytest

from mixkabrn_jax.models.language import count_parameters
from mixkabrn_jax.training import utilisation
from tests import toy


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_those_of_the_products_counted_by_hand(tied):
    D, heads, K, V, width, layers, vocabulary = 16, 2, 8, 6, 12, 3, 29
    sizes = {"d_model": D, "num_heads": heads, "key_width": K, "value_width": V, "hidden_width": width}
    config = toy.model_config(
        **sizes, num_layers=layers, ffn="swiglu", num_experts=0, tied_embeddings=tied, mixer="retention"
    )
    model = toy.make(config)
    parameters = count_parameters(model)
    matrices = layers * (2 * D * heads * K + 3 * D * heads * V + 3 * D * width) + vocabulary * D
    scales = layers * 2 * D + D  # norms, which count as products of one
    scales += (config.conv_size - 1) * D
    # A multiplication and an addition, forward once and backward twice; the state is updated and read.
    want = 6 * (matrices + scales) + 3 * layers * heads * 2 * (K * V + K * V)
    assert utilisation.model_flops_per_token(model, parameters, 64) == want


def test_attention_costs_more_for_longer_sequences_and_experts_only_where_they_are_active():
    attention = toy.model_config(mixer="attention")
    model = toy.make(attention)
    parameters = count_parameters(model)
    short, long = (utilisation.model_flops_per_token(model, parameters, length) for length in (10, 30))
    # Each token meets half of the others on average: K and V of each, forward once and backward twice.
    widths = attention.key_width + attention.value_width
    assert long - short == 3 * attention.num_layers * attention.num_heads * 2 * widths * (30 - 10) / 2
    retention = toy.model_config()
    few, many = (toy.make(toy.model_config(num_experts=n)) for n in (4, 8))
    router = 6 * 4 * retention.d_model * retention.num_layers  # its output is as wide as there are experts
    figures = [utilisation.model_flops_per_token(model, count_parameters(model), 10) for model in (few, many)]
    assert figures[1] - figures[0] == router


def test_the_peak_is_known_by_the_device_s_name_or_not_at_all():
    assert utilisation.peak_flops(SimpleNamespace(device_kind="NVIDIA H200")) == 989e12
    assert utilisation.peak_flops(SimpleNamespace(device_kind="TPU v5 lite")) == 197e12
    assert utilisation.peak_flops(jax.devices()[0]) is None


def test_memory_is_the_device_s_or_else_the_process_s():
    device = SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 7})
    assert utilisation.peak_memory_bytes(device) == 7
    assert 10e6 < utilisation.peak_memory_bytes(jax.devices()[0]) < 1e12
