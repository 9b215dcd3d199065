"""Trials that are sought rather than listed: Optuna proposes values of continuous fields from what came out before."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from experiments.sweeping.trials import Trial


def check(space: object) -> None:
    """Raises: ValueError for what is no dict of ranges, (low, high) or (low, high, "log"), by their fields."""
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f"{space!r} is not a dict of ranges such as {{'optimizer.peak_rate': (1e-3, 3e-2, 'log')}}")
    for field, given in space.items():
        match given:
            case (int() | float() as low, int() | float() as high, *scale) if low < high and scale in ([], ["log"]):
                if scale and low <= 0:
                    raise ValueError(f"{field}: {given!r}: a range of logarithms begins above 0")
            case _:
                raise ValueError(f"{field}: {given!r} is not (low, high) or (low, high, 'log')")


class Search:
    """A study of Optuna's, which a file of the sweep's folder keeps: the same command goes on with it.

    It is told the validation loss of trials that are complete. One that failed or was stopped stays open: the next
    command has it among those of before, and starts it again.
    """

    def __init__(self, path: Path, name: str, space: Mapping, num_trials: int, make: Callable[[Mapping], Trial]):
        """
        Args:
            path: of the file.
            name: of the study, among others of the file.
            num_trials: of the whole study.
            make: a trial from what it sets.
        Raises: ImportError without Optuna.
        """
        try:
            import optuna
        except ImportError as error:
            raise ImportError("--search has its trials proposed by Optuna: pip install optuna") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        self._study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        # It draws what comes first at random: after a new start not the same again.
        self._study.sampler = optuna.samplers.TPESampler(seed=len(self._study.trials))
        self._ranges = {
            field: optuna.distributions.FloatDistribution(*given[:2], log="log" in given)
            for field, given in space.items()
        }
        self._num_trials, self._make = num_trials, make
        self._numbers = {}
        self.found = [self._trial(one) for one in self._study.trials]
        """The study's trials so far."""

    def propose(self) -> Iterator[Trial]:
        """New trials, each from all that is told before it is asked for; they are in `found`, too."""
        while len(self.found) < self._num_trials:
            self.found.append(self._trial(self._study.ask(self._ranges)))
            yield self.found[-1]

    def tell(self, trial: Trial, loss: float) -> None:
        """What a trial came to; said again, it changes nothing."""
        self._study.tell(self._numbers[trial.name], loss, skip_if_finished=True)

    def _trial(self, proposed):
        trial = self._make(proposed.params)
        self._numbers[trial.name] = proposed.number
        return trial
