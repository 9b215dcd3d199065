"""Entry points in this process: their flags belong to the process, so they are forgotten after each test."""

import importlib
import sys

import pytest
from absl import flags

import experiments
from experiments import command_line


class Entry:
    """An entry point whose command lines are read as if it had just been started."""

    def __init__(self, name):
        self._module = importlib.import_module(f"experiments.{name}")

    def parse(self, *arguments):
        """Ends with SystemExit where the program would."""
        sys.modules.pop("config_config", None)  # ml_collections would execute the next file in the last one's module
        sys.argv[:] = [f"experiments/{self._module.__name__}.py", *arguments]  # ml_collections looks into it
        return command_line.parse(sys.argv, self._module.main)

    def run(self, *arguments):
        """What its main function returns."""
        self.parse(*arguments)
        return self._module.main()


@pytest.fixture
def entry(monkeypatch):
    """Makes an `Entry` by its name."""
    before = set(flags.FLAGS)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    yield Entry
    defined = flags.FLAGS.flags_by_module_dict()
    for module in [name for name, own in defined.items() if own and name.startswith("experiments.")]:
        del sys.modules[module]
        delattr(experiments, module.removeprefix("experiments."))
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
