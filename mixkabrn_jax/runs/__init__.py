"""A run on disk: its config, tokenizer, checkpoints and metrics, and the model in it, read without an optimiser."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nothing of JAX for those who need a workdir's files only, as a sweep
    from mixkabrn_jax.data.tokenizers import Tokenizer
    from mixkabrn_jax.models.language import LanguageModel


def open(workdir: str | Path, step: int | None = None) -> tuple["LanguageModel", "Tokenizer", dict]:
    """The model of a run with its tokenizer and config, from the newest checkpoint that is intact, on one device.

    In place of a workdir, the file of a model that `experiments.export` wrote can be given: that model is for
    evaluation and generation alone. Of a run that trained adapters it is the model that they are for, with them.

    Args:
        step: of an older checkpoint, for those who look at what training did.
    Returns: (model, tokenizer, config), where config is what `config.json` holds.
    Raises: FileNotFoundError when the workdir holds no run, or no checkpoint yet; OSError when no checkpoint is intact;
        ValueError for a step of which there is no checkpoint, and when one of the files cannot be read or the
        checkpoint is of another model than its config; TypeError when that config has a field that there is not.
    """
    from mixkabrn_jax.runs import adapters, model, model_file
    from mixkabrn_jax.runs.workdir import load_config

    path = Path(workdir)
    if not path.is_file():
        has_adapters = adapters.config_of(load_config(path)).rank
        return adapters.read_run(path, step) if has_adapters else model.read(path, step)
    if step is not None:
        raise ValueError(f"step={step}: {path} is the file of a model, which holds one; name the workdir of its run")
    return model_file.read(path)


def save(workdir: str | Path, model: "LanguageModel", tokenizer: "Tokenizer", config: dict) -> None:
    """Writes a model into a new workdir, which `open` and `experiments.generate` take: one that was changed after
    training, by `grid.extend_grid` or `quantize`, say. Training does not go on from there: it has no optimiser.

    Args:
        config: that of the run which the model comes from; its model section becomes the model's own.
    Raises: FileExistsError when the workdir holds anything; ValueError for a model that no config describes, such as
        one with some of its layers quantised, or one of integers.
    """
    from mixkabrn_jax.runs import model as models

    models.write(Path(workdir), model, tokenizer, config)
