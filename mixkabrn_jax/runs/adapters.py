"""A run that trains adapters: the model that it leaves as it is, its own checkpoints, the file of what it learnt."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mixkabrn_jax.data.template import TEMPLATES, Template
from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.models import adapters
from mixkabrn_jax.models.adapters import AdapterConfig
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.runs import model as models
from mixkabrn_jax.runs import model_file, workdir
from mixkabrn_jax.runs.config import build

FORMAT = "mixkabrn-adapter-1"


class Base(NamedTuple):
    """A trained model that is kept as codes, with nothing to train."""

    model: LanguageModel
    tokenizer: Tokenizer
    config: dict
    sha256: str
    """Of the tensors of its file: that of a run, and of what `experiments.export` makes of it, is the same."""


def open_base(path: str | Path) -> Base:
    """The model at a path, the workdir of a run or the file of a model.

    Raises: as `runs.open`; ValueError for a run that itself trains adapters.
    """
    path = Path(path)
    if path.is_file():
        content = path.read_bytes()
    else:
        require_own_model(path)
        content = model_file.to_bytes(*models.read(path))
    try:
        return Base(*model_file.frozen_from_bytes(content), model_file.header(content).sha256)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_of(config: Mapping) -> AdapterConfig:
    """The section of a run's config, which may be older than adapters."""
    return build(AdapterConfig, config.get("adapter", {}), "config.adapter", is_complete=False)


def require_own_model(directory: Path) -> None:
    """Makes sure that a run is of a whole model. Raises: ValueError for one that trains adapters."""
    if config_of(workdir.load_config(directory)).rank:
        raise ValueError(f"{directory} holds adapters, not a model of its own: name the model that they are for")


def read_run(directory: Path, step: int | None = None) -> tuple[LanguageModel, Tokenizer, dict]:
    """(model, tokenizer, config) of a run that trains adapters; see `runs.open`. The model is the base with them.

    Raises: FileNotFoundError when there is no model at config.init_from, ValueError when it is not the one that the
        run was begun with.
    """
    config = workdir.load_config(directory)
    if not Path(config["init_from"]).exists():
        raise FileNotFoundError(
            f"{directory} holds adapters for the model at {config['init_from']}, which is not there: bring it back, or "
            f"write where it is now into init_from of {directory / 'config.json'}"
        )
    base = open_base(config["init_from"])
    workdir.require_base(directory, base.sha256, config["init_from"])
    model = adapters.put_in(base.model, config_of(config), rngs=nnx.Rngs(0))
    graph, params, frozen = nnx.split(model, nnx.Param, ...)
    part = {"params": jax.tree.map(models.on_one_device, params), "buffers": nnx.State({})}
    part = models.restore(directory, part, step)
    base.tokenizer.template = _template(config)  # a base may have another one, or none
    return nnx.merge(graph, part["params"], frozen), base.tokenizer, config


def _template(config):
    """What the run's texts were written by."""
    return TEMPLATES.get(config["data"].get("template", ""))


class Adapter(NamedTuple):
    """What the file of an adapter holds."""

    factors: dict[str, tuple[jax.Array, jax.Array]]
    """(A `[..., D, K]`, B `[..., K, F]`) by the name of the matrix that A B is added to."""
    base: str
    """SHA-256 of the file of the model that it is for."""
    config: dict
    """rank, alpha, targets, experts."""
    about: dict
    template: Template | None
    """What its conversations were written by: one who asks the model with it writes the same."""


def to_bytes(model: LanguageModel, base: str, config: Mapping, about: Mapping = {}) -> bytes:
    """The file of a model's adapters.

    Args:
        base: SHA-256 of the model's own file.
        config: that of the run.
        about: where they come from; anything that JSON can hold.
    """
    tensors = {}
    for name, pair in adapters.factors(model).items():
        for letter, factor in zip("AB", pair, strict=True):
            tensors[f"{name}.lora_{letter}"] = np.asarray(factor, np.float32)
    section = dataclasses.asdict(config_of(config))
    metadata = {"base": base, "adapter": json.dumps(section), "about": json.dumps(about)}
    if template := _template(config):
        metadata["chat_template"] = json.dumps(template._asdict())
    return model_file.serialize(FORMAT, tensors, metadata)


def read(path: str | Path, base: str) -> Adapter:
    """The adapter in a file, for `adapters.apply`.

    Args:
        base: SHA-256 of the file of the model that it is to be put in, as `open_base` and `model_file.header` give it.
    Raises: OSError; ValueError for a file of another form, a damaged one, and for an adapter of another base.
    """
    try:
        tensors, metadata = model_file.parse(FORMAT, Path(path).read_bytes())
        if metadata["base"] != base:
            raise ValueError(f"it is for the model of SHA-256 {metadata['base'][:12]}..., and this is {base[:12]}...")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    names = sorted({name.rpartition(".")[0] for name in tensors})
    factors = {name: tuple(jnp.asarray(tensors[f"{name}.lora_{letter}"]) for letter in "AB") for name in names}
    template = Template.from_json(json.loads(metadata["chat_template"])) if "chat_template" in metadata else None
    return Adapter(factors, metadata["base"], json.loads(metadata["adapter"]), json.loads(metadata["about"]), template)
