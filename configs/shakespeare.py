"""tinyshakespeare at nanoGPT's CPU budget: 1.54 M training characters, at most 0.80 M parameters, context 64.

    python -m experiments.train --config=configs/shakespeare.py --config.data.path=tinyshakespeare.txt \
        --workdir=runs/shakespeare

The file (1.1 MB, first 90% train, last 10% validation) is not shipped: bring your own copy. nanoGPT's recipe for this
budget (4 layers, 4 heads, width 128, 0.80 M parameters) ends at 1.88 nats per character.

Measured: 0.769 M parameters (0.597 M active), 2 CPU cores, 9 minutes beside other work, validation loss 1.784 nats
per character (five other runs of equal or nearly equal settings: 1.770 to 1.779).
"""

from configs import lm


def get_config():
    """All fields of configs/lm.py with the values of nanoGPT's budget."""
    config = lm.get_config("tiny")
    config.update_from_flattened_dict(
        {
            "num_steps": 2000,
            "log_every": 50,
            "evaluate_every": 500,
            "evaluate_windows": 256,
            "model.hidden_width": 36,
            "model.embedding_scale": 1.0,
            "model.expert_width": 12,
            "data.source": "text",
            "data.path": "",  # set it to tinyshakespeare.txt
            "data.tokenizer": "characters",
            "data.sequence_length": 64,
            "data.batch_size": 12,  # 2000 steps of 12 x 64 characters are nanoGPT's budget of 1.54 M
            "data.validation_fraction": 0.1,
        }
    )
    return config
