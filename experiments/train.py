"""Trains a language model: python -m experiments.train --config=configs/lm.py:tiny --workdir=runs/tiny

The same command again goes on where the last one stopped. Any field of the config can be set on the command line, as in
--config.model.ffn=mlp; the README's map says where each is declared. With --plan nothing is trained: the step is traced
on a mesh of any size, and what it takes on each device is printed.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import command_line

_CONFIG = config_flags.DEFINE_config_file("config", help_string="config file, with a size after a colon")
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run")
_PLAN = flags.DEFINE_bool(
    "plan", False, "say what a step would take on config.mesh, without any of its devices, and end"
)
_CHIP_FLOPS = flags.DEFINE_float("chip_flops", None, "flops a second of one device, for --plan", lower_bound=1)
_CHIP_BANDWIDTH = flags.DEFINE_float(
    "chip_bandwidth", None, "bytes a second that one device can receive from others, for --plan", lower_bound=1
)
flags.mark_flag_as_required("config")
flags.register_multi_flags_validator(
    ["workdir", "plan"], lambda given: given["plan"] or given["workdir"] is not None, "--workdir=... is needed"
)
flags.register_multi_flags_validator(
    ["plan", "chip_flops", "chip_bandwidth"],
    lambda given: (
        (given["chip_flops"] is None) == (given["chip_bandwidth"] is None)
        and (given["plan"] or given["chip_flops"] is None)
    ),
    "--chip_flops and --chip_bandwidth go together, and with --plan",
)


def main():
    with command_line.user_errors():
        config = _CONFIG.value.to_dict()
        if _PLAN.value:
            return _plan(config)
        # Imported once the flags are read, so that a wrong one is answered at once.
        from mixkabrn_jax.training.checkpoint import DoesNotFitError
        from mixkabrn_jax.training.loop import Run

        run = Run(config, Path(_WORKDIR.value))
    try:
        return run.train()
    except (OSError, FloatingPointError, DoesNotFitError) as error:
        sys.exit(f"error: {error}")


def _plan(config):
    from mixkabrn_jax.data import pipeline
    from mixkabrn_jax.training import plan
    from mixkabrn_jax.training.experiment import Experiment

    experiment = Experiment.from_dict(config)
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
