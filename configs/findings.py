"""The runs behind FINDINGS.md: `lm.py:tiny` trained for two minutes of one core, 600 steps of 4 x 256 tokens.

    python -m experiments.sweep --config=configs/findings.py --sweep=ablation --seeds=3 --slots=2 --workdir=runs/active

FINDINGS.md has the command of each table.
"""

from configs import lm, sweeps
from configs.sweeps import experts, learning_rate, parameters, retention, schedule, splines, sweep  # noqa: F401


def get_config():
    """`lm.py:tiny` at less than a quarter of its steps, with the rates that are best for so few."""
    config = lm.get_config("tiny")
    config.update_from_flattened_dict(
        {"num_steps": 600, "optimizer.warmup_steps": 50, "evaluate_every": 600, "log_every": 100}
    )
    return config


BEST_RATES = dict.fromkeys(sweeps.CORNERS, 2.0)
"""Of each combination, by the ideas that are off, the best of five factors of the config's rates (`learning_rate`)."""


@sweep(metrics=("bits_per_byte", "tokens_per_second"), equal="active_parameters")
def ablation(config):
    """All sixteen combinations of the four ideas, each at its own best rates."""
    for corner, overrides in sweeps.CORNERS.items():
        yield overrides | sweeps.rates(config, BEST_RATES[corner])
