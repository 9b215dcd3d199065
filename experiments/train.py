"""Trains a language model: python -m experiments.train --config=configs/lm.py:tiny --workdir=runs/tiny

The same command again goes on where the last one stopped. Any field of the config can be set on the command line, as in
--config.model.ffn=mlp; --help lists them, and --print_config prints the config that it makes. With --plan nothing is
trained: the step is traced on a mesh of any size, and what it takes on each device is printed.

A run of several processes is this command once for each of them: with --distributed where JAX finds the others by
itself (Slurm, Open MPI, Kubernetes, TPU pods), else with --coordinator_address, --num_processes and --process_id.
"""

import json
import sys
from pathlib import Path

from absl import flags

from experiments import command_line, plan, process_flags

_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of the run, made where it is not there")
_PLAN = flags.DEFINE_bool("plan", False, "end after what experiments.plan says of this config")
_EXTEND = flags.DEFINE_bool("extend", False, "train a finished run on to a larger config.num_steps")
_PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "print the config with all that was set, as JSON, and end")
flags.register_multi_flags_validator(
    ["workdir", "plan", "print_config"],
    lambda given: given["plan"] or given["print_config"] or given["workdir"],
    f"--workdir=runs/tiny is needed: {flags.FLAGS['workdir'].help}",
)

flags.register_multi_flags_validator(
    ["plan", "chip_flops"],
    lambda given: given["plan"] or given["chip_flops"] is None,
    "--chip_flops and --chip_bandwidth go with --plan",
)


def main():
    with command_line.user_errors():
        config = plan.CONFIG.value.to_dict()
        if _PRINT_CONFIG.value:
            print(json.dumps(config, indent=2))
            return 0
        if _PLAN.value:
            plan.show(config)
            return 0
        # Imported once the flags are read, so that a wrong one is answered at once.
        from mixkabrn_jax import processes
        from mixkabrn_jax.runs.checkpoint import DoesNotFitError
        from mixkabrn_jax.training import loop

        command_line.raise_interrupts()
        process_flags.join()
    try:
        with processes.exchange():
            with command_line.user_errors():
                training = loop.prepare(config, Path(_WORKDIR.value), extend=_EXTEND.value)
            return loop.train(training)
    except (OSError, FloatingPointError, DoesNotFitError) as error:
        print(f"error: {error}", file=sys.stderr)
        processes.shutdown(1)
    except KeyboardInterrupt:
        processes.shutdown(130)


if __name__ == "__main__":
    command_line.run(main)
