"""Checkpoints by orbax: the model, the optimiser and the data iterator of one step, written together or not at all."""

from dataclasses import dataclass
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from mixkabrn_jax.training.step import TrainState


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep; fields are those of `config.checkpoint`."""

    every: int
    """Steps between checkpoints; the last step is always saved."""
    keep: int
    """The newest so many are kept."""

    def __post_init__(self):
        if self.every < 1 or self.keep < 1:
            raise ValueError(f"config.checkpoint.every={self.every}, keep={self.keep}: at least 1 is needed")


class Checkpoints:
    """The checkpoints of one run. A step directory exists only once everything in it is on disk."""

    def __init__(self, directory: Path, *, keep: int | None = None, read_only: bool = False):
        """
        Args:
            directory: created unless read_only.
            keep: older checkpoints beyond this number are deleted after a save; None keeps all.
        """
        # Saving is synchronous: the next step donates (overwrites) the very buffers being written.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, read_only=read_only, create=not read_only, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, iterator_state) -> None:
        """Writes the state after `state.step` updates, with the position of the data."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(_model_part(state)),
                optimizer=ocp.args.StandardSave(_optimizer_part(state)),
                iterator=ocp.args.JsonSave({"state": iterator_state}),
            ),
        )

    def restore(self, step: int, abstract: TrainState):
        """Returns (state, iterator state), with the shapes, dtypes and layout of `abstract`."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(_model_part(abstract)),
                optimizer=ocp.args.StandardRestore(_optimizer_part(abstract)),
                iterator=ocp.args.JsonRestore(),
            ),
        )
        state = TrainState(**restored["model"], **restored["optimizer"])
        return state, restored["iterator"]["state"]

    def restore_model(self, step: int, params, buffers):
        """Returns (params, buffers) only: what generation needs."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, {"params": params, "buffers": buffers})
        model = self._manager.restore(step, args=ocp.args.Composite(model=ocp.args.StandardRestore(abstract)))["model"]
        return model["params"], model["buffers"]

    def close(self) -> None:
        """Releases orbax's threads."""
        self._manager.close()


def _model_part(state):
    return {"params": state.params, "buffers": state.buffers}


def _optimizer_part(state):
    return {"step": state.step, "optimizer": state.optimizer, "sums": state.sums, "guard": state.guard}
