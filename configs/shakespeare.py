"""tinyshakespeare at nanoGPT's CPU budget: 1.54 M training characters, at most 0.80 M parameters.

    python -m experiments.train --config=configs/shakespeare.py --config.data.path=tinyshakespeare.txt \
        --workdir=runs/shakespeare
    python -m experiments.sweep --config=configs/shakespeare.py --sweep=candidates --config.data.path=part.txt \
        --config.num_steps=600 --config.optimizer.warmup_steps=50 --workdir=runs/candidates

The file (1.1 MB, first 90% train, last 10% validation) is not shipped: bring your own copy. nanoGPT's recipe for this
budget (4 layers, 4 heads, width 128, context 64, 0.80 M parameters) ends at 1.88 nats per character.

Measured: 0.772 M parameters (0.600 M active), 1 CPU core, 6 to 7 minutes, validation loss 1.576 nats per character
(seeds 0, 1, 2: 1.577, 1.573, 1.578). With constant decays and sub-norms 1.620; before the short convolution 1.711;
AdamW, windows of 64, splines in float32 and the embedding unscaled 1.784. The best variant, `shakespeare.py:best`, ends
at 1.515 (1.522, 1.509, 1.515) and has neither experts nor ternary weights. What was tried is in docs/recipe.md.
"""

from configs import lm
from configs.sweeps import ablation  # noqa: F401 -- what --sweep offers


def get_config(variant="all"):
    """All fields of configs/lm.py with the values of nanoGPT's budget; a variant is all (four ideas) or best."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/shakespeare.py:{variant}: one of {tuple(VARIANTS)} is needed")
    config = lm.get_config("tiny")
    config.update_from_flattened_dict(
        {
            "num_steps": 2000,
            "evaluate_windows": 64,
            "model.hidden_width": 36,
            "model.expert_width": 12,
            "model.kan.spline_linear": "int4",
            "data.source": "text",
            "data.path": "",  # set it to tinyshakespeare.txt
            "data.tokenizer": "characters",
            "data.sequence_length": 256,
            "data.batch_size": 3,  # 2000 steps of 3 x 256 characters are nanoGPT's budget of 1.54 M
            "data.validation_fraction": 0.1,
            "optimizer.warmup_steps": 100,
            "optimizer.peak_rate": 1.6e-2,
            "optimizer.second_peak_rate": 1.1e-2,
            **VARIANTS[variant],
        }
    )
    return config


VARIANTS = {
    "all": {},
    "best": {  # whatever is off: attention with RoFormer's angles and one dense MLP
        "model.mixer": "attention",
        "model.rotary.kind": "rope",
        "model.ffn": "mlp",
        "model.linear": "dense",
        "model.num_experts": 0,
        "model.sub_norm": True,
        "model.hidden_width": 512,
        "model.quantization.embedding": "dense",
        "optimizer.schedule": "cosine",
    },
}


def candidates(config):
    """One change of the recipe each; docs/recipe.md has what became of them."""
    yield {}
    # What trains it.
    yield {"optimizer.matrices": "adamw", "optimizer.peak_rate": 4e-3, "optimizer.second_peak_rate": 2.7e-3}
    yield {"optimizer.peak_rate": 1e-2, "optimizer.second_peak_rate": 7e-3}
    yield {"optimizer.peak_rate": 2.5e-2, "optimizer.second_peak_rate": 1.7e-2}
    yield {"optimizer.momentum": 0.95}
    yield {"optimizer.weight_decay": 0.0}
    yield {"optimizer.schedule": "cosine"}
    yield {"optimizer.schedule": "wsd", "optimizer.decay_fraction": 0.5}
    yield {"data.batch_size": 2, "num_steps": config.num_steps * 3 // 2}
    yield {"data.batch_size": 6, "num_steps": config.num_steps // 2}
    yield {"data.batch_size": 12, "data.sequence_length": 64}
    # The embedding.
    yield {"model.conv_size": 1}
    yield {"model.conv_size": 2}
    yield {"model.embedding_scale": 1.0}
    yield {"model.quantization.embedding": "dense"}
    # Number formats.
    for spline_linear in ("dense", "ternary"):
        yield {"model.kan.spline_linear": spline_linear}
    yield {"model.quantization.activation_bits": 4, "model.quantization.down_activation_bits": 4}
    yield {"model.linear": "dense", "model.kan.spline_linear": "dense"}
    yield {"model.sub_norm": True}
    # Retention.
    yield {"model.rotary.kind": "rope"}
    constant = {"model.retention.decay": "paper", "model.retention.normalization": "sqrt_sum"}
    yield constant
    yield constant | {"model.retention.first_decay_exponent": 2.0}
    yield constant | {"model.retention.decay": "learned"}
    yield {"model.num_heads": 8, "model.key_width": 16, "model.value_width": 16}
    # Experts: none at all, few and wide, many and narrow; other balances.
    width = 5 * config.model.expert_width
    yield {"model.num_experts": 0, "model.hidden_width": width}
    yield {"model.num_experts": 2, "model.experts_per_token": 1, "model.expert_width": width // 3}
    yield {"model.num_experts": 8, "model.experts_per_token": 4, "model.expert_width": width // 9}
    yield {"objective.balance_loss": 0.0, "training.router_bias_rate": 0.001}
    # Splines: other grids at equal parameters, other shares, the base alone.
    yield {"model.kan.grid.num_intervals": 5, "model.expert_width": 7 * config.model.expert_width // 9}
    yield {"model.kan.grid.degree": 2, "model.expert_width": 7 * config.model.expert_width // 6}
    yield {"model.kan.spline_share": 0.8}
    yield {"model.kan.train_base": False}
    yield {"model.kan.train_spline": False}
    # Other ideas at equal active parameters.
    hidden = {"model.hidden_width": 7 * config.model.hidden_width, "model.expert_width": 7 * config.model.expert_width}
    yield {"model.ffn": "mlp"} | hidden  # a KAN edge has a coefficient for each of six functions and one for its base
    yield {"model.mixer": "attention", "model.key_width": 40, "model.value_width": 40, "model.rotary.kind": "rope"}
    yield VARIANTS["best"]
