"""The run of the notebooks: a model of 0.2 M parameters that two CPU cores train in about a minute.

python -m experiments.train --config=experiments/notebooks/small.py --workdir=runs/notebooks/first
"""

from configs import lm

SIZES = {
    "small": {
        "model.d_model": 64,
        "model.num_layers": 2,
        "model.num_heads": 2,
        "model.embedding_scale": 8.0,
        "data.sequence_length": 128,
        "num_steps": 400,
        "log_every": 10,
        "evaluate_every": 100,
        "checkpoint.every": 100,
        "checkpoint.keep": 9,
        "optimizer.warmup_steps": 50,
    },
    # For tests of the notebooks: it compiles fast, and learns nothing.
    "quick": {
        "model.d_model": 16,
        "model.num_layers": 1,
        "model.num_heads": 2,
        "model.key_width": 8,
        "model.value_width": 8,
        "model.hidden_width": 8,
        "model.num_experts": 0,
        "model.ffn": "mlp",
        "data.tokenizer": "bytes",
        "data.sequence_length": 512,
        "data.validation_fraction": 0.005,
        "num_steps": 4,
        "log_every": 1,
        "evaluate_every": 2,
        "evaluate_windows": 2,
        "checkpoint.every": 2,
        "optimizer.warmup_steps": 1,
    },
}


def get_config(size="small"):
    """What is other than in `lm.py:tiny`."""
    if size not in SIZES:
        raise ValueError(f"experiments/notebooks/small.py:{size}: one of {tuple(SIZES)} is needed")
    config = lm.get_config("tiny")
    config.update_from_flattened_dict(SIZES[size])
    return config
