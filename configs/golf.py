"""The best bits per byte in a small file: what 100 kB, 400 kB and 1 MB hold after 10, 30 and 90 minutes of two cores.

    python -m experiments.train --config=configs/golf.py:400k --workdir=runs/golf-400k
    python -m experiments.export --workdir=runs/golf-400k --out=400k.safetensors

A file is all of it, tokenizer and config too. Measured files and scores are in docs/recipe.md.
"""

from configs import lm
from configs.sweeps import ablation  # noqa: F401 -- what --sweep offers


def get_config(size="400k"):
    """All fields of configs/lm.py with the values of a file's size: 100k, 400k or 1m."""
    if size not in SIZES:
        raise ValueError(f"configs/golf.py:{size}: one of {tuple(SIZES)} is needed")
    config = lm.get_config("tiny")
    config.update_from_flattened_dict({"model.quantization.embedding": "int4", **SIZES[size]})
    return config


SIZES = {
    "100k": {
        "num_steps": 5000,
        "model.d_model": 96,
        "model.embedding_scale": 9.8,
        "model.num_heads": 3,
        "model.num_layers": 3,
        "model.expert_width": 5,
        "data.vocab_size": 512,
    },
    "400k": {
        "num_steps": 7000,
        "model.num_layers": 5,
        "model.expert_width": 13,
        "optimizer.peak_rate": 1e-2,
        "optimizer.second_peak_rate": 6.25e-3,
        "optimizer.weight_decay": 0.05,
    },
    "1m": {
        "num_steps": 11_000,
        "model.d_model": 192,
        "model.embedding_scale": 13.9,
        "model.num_heads": 6,
        "model.num_layers": 6,
        "model.expert_width": 16,
        "data.vocab_size": 4096,
        "optimizer.peak_rate": 8e-3,
        "optimizer.second_peak_rate": 5e-3,
        "optimizer.weight_decay": 0.02,
    },
}
"""What a file's size changes of lm.py:tiny; the longer a run, the lower its rates and its weight decay."""
