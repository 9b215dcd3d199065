"""Trains on a Ray cluster: experiments.train in each worker of a JaxTrainer. An example, for Ray is not required here.

    pip install "ray[train]"
    python -m experiments.ray_train --config=configs/lm.py:small --workdir=/shared/runs/x --num_workers=4 --use_gpu \
        --config.mesh.data=4
    python -m experiments.ray_train --config=configs/lm.py:base --workdir=/shared/runs/y --num_workers=4 --use_tpu \
        --topology=4x4 --accelerator_type=TPU-V6E --config.mesh.data=16

The workdir, and the data if it is not the built-in one, must be on a file system that all workers share. When a worker
fails, Ray starts all of them again, and the run goes on from its newest checkpoint.
"""

from pathlib import Path

from absl import flags

from experiments import command_line

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of the run, seen by all workers")
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", 1, "processes of the run: one a GPU, or one a TPU host", lower_bound=1
)
_USE_GPU = flags.DEFINE_bool("use_gpu", False, "each worker has a GPU")
_USE_TPU = flags.DEFINE_bool("use_tpu", False, "each worker is a TPU host")
_TOPOLOGY = flags.DEFINE_string("topology", None, "of a TPU slice, such as 4x4")
_ACCELERATOR = flags.DEFINE_string("accelerator_type", None, "such as TPU-V6E or H100")
_MAX_FAILURES = flags.DEFINE_integer("max_failures", 3, "so often Ray starts the workers again", lower_bound=0)
command_line.require("workdir", "/shared/runs/x")


def main():
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.jax import JaxConfig, JaxTrainer
    except ImportError as error:
        raise SystemExit(f'error: {error}: this example needs Ray, pip install "ray[train]"') from error
    command_line.raise_interrupts()
    config = _CONFIG.value.to_dict()
    if config["data"]["path"]:
        config["data"]["path"] = str(Path(config["data"]["path"]).resolve())  # workers run in folders of their own
    ray.init()
    trainer = JaxTrainer(
        _train,
        train_loop_config={"config": config, "workdir": str(Path(_WORKDIR.value).resolve())},
        jax_config=JaxConfig(use_tpu=_USE_TPU.value, use_gpu=_USE_GPU.value),
        scaling_config=ScalingConfig(
            num_workers=_NUM_WORKERS.value,
            use_gpu=_USE_GPU.value,
            use_tpu=_USE_TPU.value,
            topology=_TOPOLOGY.value,
            accelerator_type=_ACCELERATOR.value,
        ),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=_MAX_FAILURES.value)),
    )
    trainer.fit()


def _train(given):
    """In a worker, which Ray has made one of JAX's processes."""
    from mixkabrn_jax.training import loop

    command_line.keep_to_our_sentences()
    loop.train(loop.prepare(given["config"], Path(given["workdir"])))


if __name__ == "__main__":
    command_line.run(main)
