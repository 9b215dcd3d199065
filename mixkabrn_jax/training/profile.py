"""A trace of some steps of a run, to be looked at in Perfetto or XProf."""

from dataclasses import dataclass
from pathlib import Path

import jax

from mixkabrn_jax import processes


@dataclass(frozen=True)
class ProfileConfig:
    """Which steps to trace; fields are those of `config.profile`."""

    start: int
    """The first step that is traced, counted from 1. The first one of a process is slower than the others."""
    steps: int
    """How many steps are traced; 0 traces nothing."""

    def __post_init__(self):
        if self.start < 1:
            raise ValueError(f"config.profile.start={self.start}: 1 or more is needed")
        if self.steps < 0:
            raise ValueError(f"config.profile.steps={self.steps}: 0 or more is needed")


class Profile:
    """Starts and stops the trace of a run as its steps go by; leaving the context ends a trace that is under way."""

    def __init__(self, config: ProfileConfig, directory: Path):
        """
        Args:
            directory: where traces go, in a folder for each.
        """
        # Of several processes the first one's: those of one machine would write to the same file.
        self._first, self._end = config.start, config.start + (config.steps if processes.is_first() else 0)
        self._directory, self._is_on = directory, False

    def before(self, step: int) -> None:
        """Before the step of this number is started."""
        if self._first <= step < self._end and not self._is_on:
            jax.profiler.start_trace(str(self._directory))
            self._is_on = True

    def after(self, step: int, state) -> None:
        """After it was started; waits for the last one that is traced."""
        if self._is_on and step >= self._end - 1:
            jax.block_until_ready(state)
            self.__exit__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._is_on:
            self._is_on = False
            jax.profiler.stop_trace()
