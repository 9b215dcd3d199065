"""What a training step takes on each device:

    python -m experiments.plan --config=configs/lm.py:large --config.mesh.data=16 --config.mesh.expert=16

Nothing is trained, and none of the devices is needed: the step is traced on a mesh of config.mesh, of any size, for the
processor of config.model.backend. With the figures of a chip it also says how long a step takes at best and at worst.
"""

from collections.abc import Mapping

from absl import flags

from experiments import command_line

CONFIG = command_line.define_config()
_CHIP_FLOPS = flags.DEFINE_float("chip_flops", None, "flops a second of one device, for a plan", lower_bound=1)
_CHIP_BANDWIDTH = flags.DEFINE_float(
    "chip_bandwidth", None, "bytes a second that one device can receive from others, for a plan", lower_bound=1
)
flags.register_multi_flags_validator(
    ["chip_flops", "chip_bandwidth"],
    lambda given: (given["chip_flops"] is None) == (given["chip_bandwidth"] is None),
    "--chip_flops and --chip_bandwidth go together",
)


def main():
    with command_line.user_errors():
        show(CONFIG.value.to_dict())
    return 0


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
    if experiment.data.tokenizer == "bpe":
        print(
            f"these are at most: they count config.data.vocab_size={experiment.data.vocab_size} tokens, and a bpe of a "
            "small text has fewer"
        )
    if _CHIP_FLOPS.value is not None:
        computing, exchanging = found.seconds(_CHIP_FLOPS.value, _CHIP_BANDWIDTH.value)
        best, worst = max(computing, exchanging), computing + exchanging
        print(f"a step: {best:.3g} s where both overlap, {worst:.3g} s where nothing does")
        print(f"  computing {computing:.3g} s, exchanging {exchanging:.3g} s")


if __name__ == "__main__":
    command_line.run(main)
