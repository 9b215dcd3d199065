"""How much of the hardware a run uses: model flops against the device's peak, and memory."""

import sys

import jax

from mixkabrn_jax.models.language import LanguageModel

try:
    import resource
except ImportError:  # on Windows
    resource = None

PEAK_FLOPS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}
"""Dense bfloat16 products a second by the makers' data sheets, by a part of the device's name."""


def model_flops_per_token(model: LanguageModel, parameters: dict[str, int], sequence_length: int) -> float:
    """Flops of one training token: what the model needs, whatever is recomputed on the way.

    6 for each parameter that the token meets in a product (Kaplan et al. 2020, sec. 2.1), and three times the forward
    pass of the mixer: 4 K V a head for a retention state, (K + V) a head for each of half the positions of attention.

    Args:
        parameters: of `language.count_parameters`. The embedding is looked up, not multiplied; the head is multiplied.
        sequence_length: T.
    """
    config = model.config
    in_products = parameters["active"] - parameters["embedding"] + model.vocab_size * config.d_model
    if config.mixer == "retention":
        mixing = 4 * config.key_width * config.value_width
    else:
        mixing = sequence_length * (config.key_width + config.value_width)
    return 6 * in_products + 3 * config.num_layers * config.num_heads * mixing


def peak_flops(device: jax.Device) -> float | None:
    """Flops a second that the device could do at best; None where nobody says."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device.device_kind), None)


def peak_memory_bytes(device: jax.Device) -> int | None:
    """The most memory in use so far: on the device, or of this process where the device is the processor.

    Returns: None where neither is told, as on a processor under Windows.
    """
    statistics = device.memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
