"""The runs behind FINDINGS.md: `lm.py:tiny` trained for two minutes of one core, 600 steps of 4 x 256 tokens.

    python -m experiments.sweep --config=configs/findings.py --sweep=ablation --seeds=3 --slots=2 --workdir=runs/active

FINDINGS.md has the command of each table.
"""

from configs import lm, sweeps
from configs.sweeps import (  # noqa: F401 -- what --sweep offers
    ablation,
    experts,
    learning_rate,
    parameters,
    retention,
    schedule,
    splines,
)


def get_config():
    """`lm.py:tiny` at less than a quarter of its steps and twice its rates, which were better for each combination."""
    config = lm.get_config("tiny")
    steps = {"num_steps": 600, "optimizer.warmup_steps": 50, "evaluate_every": 600, "log_every": 100}
    config.update_from_flattened_dict(steps | sweeps.rates(config, 2.0))
    return config
