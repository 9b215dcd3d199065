"""When training has diverged: the run ends with a sentence, and nothing of it is logged or saved from then on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mixkabrn_jax.training import guard, skips
from mixkabrn_jax.training.experiment import Experiment
from mixkabrn_jax.training.guard import History


@dataclass(frozen=True)
class Divergence:
    """Looks for divergence in one run."""

    workdir: Path
    experiment: Experiment
    latest_checkpoint: Callable[[], int | None]
    """The step of the newest one."""

    def require_finite(self, step: int, name: str, value: float) -> None:
        """Raises: FloatingPointError naming the value that is infinite or not a number."""
        if not math.isfinite(value):
            raise self._error(f"the {name} is {value} at step {step}", "try a lower ")

    def has_given_up(self, history: History | None) -> bool:
        """Whether the guard has skipped too many updates in a row."""
        return guard.has_given_up(history, self.experiment.guard)

    def too_many_skips(self, history: History) -> FloatingPointError:
        """What ends the run once the guard has given up."""
        last, config = skips.records(history.skips)[-1], self.experiment.guard
        return self._error(
            f"{skips.describe(last.pop('step'), last)}, the last of "
            f"config.guard.max_consecutive_skips={config.max_consecutive_skips} in a row",
            "look at the batches that metrics.jsonl names, or try a higher "
            f"config.guard.sigmas={config.sigmas} or a lower ",
        )

    def _error(self, how, advice):
        last, rate = self.latest_checkpoint(), self.experiment.optimizer.peak_rate
        checkpoint = f"that of step {last} in {self.workdir / 'checkpoints'}" if last else "not there yet"
        return FloatingPointError(
            f"{how}; the last good checkpoint is {checkpoint}; {advice}config.optimizer.peak_rate={rate} in another "
            "workdir"
        )
