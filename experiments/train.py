"""Trains a language model: python -m experiments.train --config=configs/lm.py:tiny --workdir=runs/tiny

The same command again goes on where the last one stopped. Any field of the config can be set on the command line, as in
--config.model.ffn=mlp; the README's map says where each is declared. With --plan nothing is trained: the step is traced
on a mesh of any size, and what it takes on each device is printed.

A run of several processes is this command once for each of them: with --distributed where JAX finds the others by
itself (Slurm, Open MPI, Kubernetes, TPU pods), else with --coordinator_address, --num_processes and --process_id.
"""

import re
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
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "one of the processes of a run, which JAX finds by itself")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "host:port that process 0 of the run listens at")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "processes of the run", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "number of this process, from 0", lower_bound=0)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 100, "a process that is not heard of for so long counts as dead", lower_bound=2
)
flags.mark_flag_as_required("config")
flags.register_multi_flags_validator(
    ["coordinator_address", "num_processes", "process_id"],
    lambda given: len({value is None for value in given.values()}) == 1,
    "--coordinator_address, --num_processes and --process_id go together",
)
flags.register_validator(
    "coordinator_address",
    lambda address: address is None or re.fullmatch(r".+:\d+", address),
    "host:port is needed",
)
flags.register_multi_flags_validator(
    ["num_processes", "process_id"],
    lambda given: given["process_id"] is None or given["process_id"] < (given["num_processes"] or 0),
    "--process_id must be below --num_processes",
)
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
        from mixkabrn_jax import processes
        from mixkabrn_jax.runs.checkpoint import DoesNotFitError
        from mixkabrn_jax.training.loop import Run

        if _DISTRIBUTED.value or _COORDINATOR.value:
            _join(processes)
    try:
        with processes.exchange():
            with command_line.user_errors():
                run = Run(config, Path(_WORKDIR.value))
            return run.train()
    except (OSError, FloatingPointError, DoesNotFitError) as error:
        print(f"error: {error}", file=sys.stderr)
        processes.shutdown(1)
    except KeyboardInterrupt:
        processes.shutdown(130)


def _join(processes):
    given = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    who = "this process" if given[0] is None else f"process {given[2]} of {given[1]}, at {given[0]}"
    print(f"{who}: joining the others of the run; JAX waits for them for 300 s", flush=True)
    processes.join(*given, heartbeat_seconds=_HEARTBEAT.value)


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
