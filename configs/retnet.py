"""RetNet in its official sizes (Sun et al. 2023): retention and GEGLU, dense, no experts.

    python -m experiments.train --config=configs/retnet.py:300m --workdir=runs/retnet

| size | width | values | feed-forward | layers | heads | parameters without embeddings |
|---|---|---|---|---|---|---|
| 300m | 1280 | 2560 | 2560 | 12 | 8 | 0.28 G |
| xl | 2048 | 3456 | 3456 | 24 | 8 | 1.2 G |
| 3b | 2560 | 4280 | 4280 | 32 | 10 | 2.5 G |
| 7b | 4096 | 6912 | 6912 | 32 | 16 | 6.5 G |

Not trained here. `mixkabrn_jax.interop.torchscale.load` takes the widths from the checkpoint itself.
"""

from configs import lm


def get_config(size="300m"):
    """All fields of configs/lm.py with RetNet's values."""
    if size not in SIZES:
        raise ValueError(f"configs/retnet.py:{size}: one of {tuple(SIZES)} is needed")
    width, value_width, hidden_width, num_layers, num_heads = SIZES[size]
    config = lm.get_config("small")
    config.update_from_flattened_dict(
        {
            "model.d_model": width,
            "model.num_layers": num_layers,
            "model.tied_embeddings": False,  # as both references have it by default
            "model.compute_dtype": "bfloat16",
            "model.embedding_scale": 1.0,
            "model.conv_size": 1,
            "model.quantization.embedding": "dense",
            "optimizer.matrices": "adamw",
            "model.mixer": "retention",
            "model.num_heads": num_heads,
            "model.key_width": width // num_heads,
            "model.value_width": value_width // num_heads,
            "model.retention.decay": "paper",
            "model.retention.normalization": "sqrt_sum",
            "model.retention.first_decay_exponent": 5.0,
            "model.rotary.kind": "linspace",
            "model.rotary.layout": "interleaved",
            "model.ffn": "geglu",
            "model.hidden_width": hidden_width,
            "model.num_experts": 0,
            "model.linear": "dense",
            "data.sequence_length": 2048,
            "optimizer.schedule": "cosine",
            "optimizer.peak_rate": 6e-4,
            "optimizer.b2": 0.98,
            "optimizer.weight_decay": 0.05,
            "objective.balance_loss": 0.0,
        }
    )
    return config


SIZES = {  # d_model, value width and hidden width in all, layers, heads
    "300m": (1280, 2560, 2560, 12, 8),
    "xl": (2048, 3456, 3456, 24, 8),
    "3b": (2560, 4280, 4280, 32, 10),
    "7b": (4096, 6912, 6912, 32, 16),
}
