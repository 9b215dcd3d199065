"""The flags of --plan: what a training step would take on a mesh that is not there."""

from collections.abc import Mapping

from absl import flags

PLAN = flags.DEFINE_bool(
    "plan", False, "say what a step would take on config.mesh, without any of its devices, and end"
)
_CHIP_FLOPS = flags.DEFINE_float("chip_flops", None, "flops a second of one device, for --plan", lower_bound=1)
_CHIP_BANDWIDTH = flags.DEFINE_float(
    "chip_bandwidth", None, "bytes a second that one device can receive from others, for --plan", lower_bound=1
)
flags.register_multi_flags_validator(
    ["plan", "chip_flops", "chip_bandwidth"],
    lambda given: (
        (given["chip_flops"] is None) == (given["chip_bandwidth"] is None)
        and (given["plan"] or given["chip_flops"] is None)
    ),
    "--chip_flops and --chip_bandwidth go together, and with --plan",
)


def show(config: Mapping) -> None:
    """Prints the plan of a config, and the seconds of a step where the figures of a chip are given.

    Raises: TypeError, ValueError, OSError with a sentence that names the field or file.
    """
    # Only here, so that a wrong flag is answered at once: JAX comes with them.
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
