"""Trains a language model: python -m experiments.train --config=configs/lm.py:tiny --workdir=runs/tiny

The same command again goes on where the last one stopped. Any field of the config can be set on the command line, as in
--config.model.ffn=mlp; the README's map says where each is declared. With --plan nothing is trained: it is
`experiments.plan` then.

A run of several processes is this command once for each of them: with --distributed where JAX finds the others by
itself (Slurm, Open MPI, Kubernetes, TPU pods), else with --coordinator_address, --num_processes and --process_id.
"""

import os
import re
import sys
from pathlib import Path

from absl import flags

from experiments import command_line, plan

_WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run")
_PLAN = flags.DEFINE_bool(
    "plan", False, "say what a step would take on config.mesh, without any of its devices, and end"
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "one of the processes of a run, which JAX finds by itself")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "host:port that process 0 of the run listens at")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "processes of the run", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "number of this process, from 0", lower_bound=0)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 100, "a process that is not heard of for so long counts as dead", lower_bound=2
)
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
    ["plan", "chip_flops"],
    lambda given: given["plan"] or given["chip_flops"] is None,
    "--chip_flops and --chip_bandwidth go with --plan",
)


def main():
    with command_line.user_errors():
        if _PLAN.value:
            return plan.show()
        config = plan.CONFIG.value.to_dict()
        # Imported once the flags are read, so that a wrong one is answered at once.
        from mixkabrn_jax import processes
        from mixkabrn_jax.training import loop
        from mixkabrn_jax.training.checkpoint import DoesNotFitError

        if _DISTRIBUTED.value or _COORDINATOR.value:
            _join(processes)
    try:
        with processes.exchange():
            with command_line.user_errors():
                training = loop.prepare(config, Path(_WORKDIR.value))
            return loop.train(training)
    except (OSError, FloatingPointError, DoesNotFitError) as error:
        print(f"error: {error}", file=sys.stderr)
        processes.shutdown(1)
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(130)  # XLA's compiler may be at work in a thread, for which `sys.exit` would wait


def _join(processes):
    given = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    who = "this process" if given[0] is None else f"process {given[2]} of {given[1]}, at {given[0]}"
    print(f"{who}: joining the others of the run; JAX waits for them for 300 s", flush=True)
    processes.join(*given, heartbeat_seconds=_HEARTBEAT.value)


if __name__ == "__main__":
    command_line.run(main)
