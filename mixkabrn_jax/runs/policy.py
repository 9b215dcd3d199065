"""Which checkpoints of a run are written, and which of them are kept."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep; fields are those of `config.checkpoint`."""

    every: int
    """Steps between checkpoints; the last step is always saved."""
    keep: int
    """The newest so many are kept; with 1, there is none to go back to when that one is damaged."""
    keep_every: int
    """Those of every so many steps are kept for good; 0 for none."""
    keep_best: int
    """So many with the lowest validation loss are kept, of those before the newest; 0 for none."""

    def __post_init__(self):
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"config.checkpoint.{name}={getattr(self, name)}: at least 1 is needed")
        if self.keep_every < 0 or self.keep_every % self.every:
            raise ValueError(
                f"config.checkpoint.keep_every={self.keep_every}: a multiple of config.checkpoint.every={self.every} "
                "is needed, or 0"
            )
        if self.keep_best < 0:
            raise ValueError(f"config.checkpoint.keep_best={self.keep_best}: 0 or more is needed")

    def kept(self, steps: list[int], losses: Mapping[int, float]) -> set[int]:
        """Of these steps in rising order, those whose checkpoints stay; `losses` are those of validated steps."""
        newest = set(steps[-self.keep :])
        for_good = {step for step in steps if self.keep_every and step % self.keep_every == 0}
        # Not the last one, whose loss may be known by now or not: what stays must not depend on how fast a disk is.
        validated = [step for step in steps[:-1] if step in losses]
        best = sorted(validated, key=lambda step: (losses[step], step))[: self.keep_best]
        return newest | for_good | set(best)
