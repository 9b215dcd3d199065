"""What a training step takes on each device: python -m experiments.plan --config=configs/lm.py:large

Nothing is trained, and none of the devices is needed: the step is traced on a mesh of config.mesh, of any size. With
the figures of a chip it also says how long a step takes at best and at worst.
"""

from absl import flags
from ml_collections import config_flags

from experiments import command_line

CONFIG = config_flags.DEFINE_config_file("config", help_string="config file, with a size after a colon")
_CHIP_FLOPS = flags.DEFINE_float("chip_flops", None, "flops a second of one device, for a plan", lower_bound=1)
_CHIP_BANDWIDTH = flags.DEFINE_float(
    "chip_bandwidth", None, "bytes a second that one device can receive from others, for a plan", lower_bound=1
)
flags.mark_flag_as_required("config")
flags.register_multi_flags_validator(
    ["chip_flops", "chip_bandwidth"],
    lambda given: (given["chip_flops"] is None) == (given["chip_bandwidth"] is None),
    "--chip_flops and --chip_bandwidth go together",
)


def main():
    with command_line.user_errors():
        return show()


def show() -> int:
    """Prints the plan of the config on the command line."""
    # Imported once the flags are read, so that a wrong one is answered at once.
    from mixkabrn_jax.data import pipeline
    from mixkabrn_jax.training import plan
    from mixkabrn_jax.training.experiment import Experiment

    experiment = Experiment.from_dict(CONFIG.value.to_dict())
    found = plan.make(experiment, pipeline.vocab_size(experiment.data))
    print(found)
    if _CHIP_FLOPS.value is not None:
        computing, exchanging = found.seconds(_CHIP_FLOPS.value, _CHIP_BANDWIDTH.value)
        best, worst = max(computing, exchanging), computing + exchanging
        print(f"a step: {best:.3g} s where both overlap, {worst:.3g} s where nothing does")
        print(f"  computing {computing:.3g} s, exchanging {exchanging:.3g} s")
    return 0


if __name__ == "__main__":
    command_line.run(main)
