"""English to German and back, on sentences that are made by rule: `tiny` in ten minutes of two CPU cores.

    python -m experiments.train --config=configs/translation.py --workdir=runs/translation
    python -m experiments.translate --workdir=runs/translation --direction=en-de --score --split=test
    python -m experiments.sweep --config=configs/translation.py --sweep=plain --workdir=runs/translations

For a pair of your own add --config.data.path=my_pair/ --config.data.directions=fr-it,it-fr (docs/translation.md).
"""

from configs import lm, sweeps
from configs.sweeps import ablation  # noqa: F401 -- what --sweep offers


def get_config():
    """All fields of configs/lm.py:tiny with what translation needs."""
    config = lm.get_config("tiny")
    config.update_from_flattened_dict(
        {
            "num_steps": 3600,
            "data.source": "parallel",
            "data.loss_on": "targets",
            "data.vocab_size": 1024,
        }
    )
    return config


@sweeps.sweep(metrics=("bits_per_byte", "tokens_per_second"), equal="active_parameters")
def plain(config):
    """The config, and attention with one dense MLP in float32 at two rates, as long and with as many parameters."""
    yield {}
    for factor in (1.0, 0.5):
        yield sweeps.PLAIN | sweeps.rates(config, factor)
