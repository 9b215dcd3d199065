"""The flags that say what runs the trials of a sweep, and how many at a time."""

from pathlib import Path

from absl import flags

from experiments.sweeping.executor import Executor, Limits
from experiments.sweeping.local_executor import LocalExecutor

EXECUTOR = flags.DEFINE_enum("executor", "local", ["local", "slurm", "ray"], "what runs the trials")
_SLOTS = flags.DEFINE_integer(
    "slots",
    1,
    "trials at a time, on this machine each with its share of the processors: on two cores 2 give half as many trials "
    "again in an hour (losses depend on the number of threads by rounding); on one accelerator more than 1 needs "
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    lower_bound=1,
)
_TIMEOUT = flags.DEFINE_float(
    "timeout_minutes", 0.0, "so long a trial's process may take: then it saves its state and ends; 0 for no limit", 0.0
)
_RETRIES = flags.DEFINE_integer(
    "retries", 0, "so often a trial that fails is started again, from its last checkpoint", lower_bound=0
)
_RESOURCES = flags.DEFINE_list(
    "resources",
    [],
    "of each trial, as name=value,...: options of sbatch, such as partition=gpu,time=60,cpus-per-task=4, or Ray's, "
    "such as num_cpus=4,num_gpus=1",
)


def make(folder: Path) -> Executor:
    """The executor that the flags ask for.

    Args:
        folder: of the sweep.
    Raises: ImportError for an extra that is not installed, OSError or ValueError for what is not there.
    """
    limits = Limits(_TIMEOUT.value, _RETRIES.value)
    if wrong := [each for each in _RESOURCES.value if not each.partition("=")[2]]:
        raise ValueError(f"--resources={wrong[0]}: name=value is needed, such as partition=gpu or num_cpus=4")
    options = dict(each.split("=", 1) for each in _RESOURCES.value)
    if EXECUTOR.value == "slurm":
        from experiments.sweeping.slurm_executor import SlurmExecutor

        return SlurmExecutor(_SLOTS.value, limits, folder / "slurm", options)
    if EXECUTOR.value == "ray":
        from experiments.sweeping.ray_executor import RayExecutor

        return RayExecutor(_SLOTS.value, limits, options)
    if options:
        raise ValueError(f"--resources={','.join(_RESOURCES.value)} is for --executor=slurm or ray")
    return LocalExecutor(_SLOTS.value, limits)
