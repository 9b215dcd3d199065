"""draft"""

from configs import lm, sweeps
from configs.sweeps import experts, learning_rate, parameters, retention, schedule, splines, sweep  # noqa: F401


def get_config():
    config = lm.get_config("tiny")
    config.update_from_flattened_dict(
        {"num_steps": 600, "optimizer.warmup_steps": 50, "evaluate_every": 600, "log_every": 100}
    )
    return config


@sweep(metrics=("bits_per_byte",), equal="active_parameters")
def rates(config):
    for factor in (1.0, 2.0):
        for corner in sweeps.ablation(config):
            yield corner | sweeps._rates(config, factor)
