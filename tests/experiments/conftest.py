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
        for flag in flags.FLAGS.flags_by_module_dict().get(self._module.__name__, ()):
            flag.unparse()  # a flag that may be given more than once would keep what it had
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


TEXTS = {"a/1.txt": "to be or not to be, that is it", "a/2.txt": "x", "b/3.txt": "größe\n" * 9}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a run's workdir, its model), untrained; one for all tests of a file."""
    # Only here: tests of command lines alone import no JAX.
    from mixkabrn_jax.data import tokenizers
    from mixkabrn_jax.runs import workdir
    from mixkabrn_jax.runs.checkpoint import Checkpoints
    from mixkabrn_jax.training import optimizer, step
    from tests import toy

    tokenizer = tokenizers.Bytes()
    directory = tmp_path_factory.mktemp("run")
    for name, text in TEXTS.items():
        (directory / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "texts" / name).write_text(text)
    changes = {"ffn": "mlp", "num_experts": 0}
    model = toy.make(toy.model_config(**changes), vocab_size=tokenizer.vocab_size)
    config = toy.experiment(directory / "texts", **{f"model__{field}": value for field, value in changes.items()})
    workdir.create(directory / "run", config, tokenizer, {})
    adamw = optimizer.make(optimizer.OptimizerConfig(**config["optimizer"]), config["num_steps"])
    with Checkpoints(directory / "run" / "checkpoints") as checkpoints:
        checkpoints.save(0, step.parts(step.init(model, adamw)), {})
    return directory, model
