"""The flags of a run of several processes: how each finds the others."""

import re

from absl import flags

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


def join() -> None:
    """Joins the other processes of the run, where the flags say that there are some.

    Raises: OSError or ValueError, as `processes.join` does.
    """
    if not (_DISTRIBUTED.value or _COORDINATOR.value):
        return
    from mixkabrn_jax import processes

    given = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    who = "this process" if given[0] is None else f"process {given[2]} of {given[1]}, at {given[0]}"
    print(f"{who}: joining the others of the run; JAX waits for them for 300 s", flush=True)
    processes.join(*given, heartbeat_seconds=_HEARTBEAT.value)
