"""The model of a run, read from its workdir and written into a new one."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
from flax import nnx

from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.models.quantize import linear_type
from mixkabrn_jax.runs import arrays, workdir
from mixkabrn_jax.runs.checkpoint import Checkpoints
from mixkabrn_jax.runs.config import build


def read(directory: Path, step: int | None = None) -> tuple[LanguageModel, Tokenizer, dict]:
    """(model, tokenizer, config) of the run in a workdir; see `runs.open`."""
    config = workdir.load_config(directory)
    tokenizer = workdir.load_tokenizer(directory)
    if tokenizer is None:
        raise FileNotFoundError(f"{directory} holds no checkpoint yet: train longer")
    model_config = build(ModelConfig, config["model"], "config.model", is_complete=False)
    graph, part = abstract(model_config, tokenizer.vocab_size)
    part = restore(directory, part, step)
    return nnx.merge(graph, part["params"], part["buffers"]), tokenizer, config


def restore(directory: Path, part: Mapping, step: int | None = None) -> dict:
    """The part "model" of a run's newest checkpoint that is intact, or of that of a step, like an abstract one.

    Raises: as `runs.open`.
    """
    if not (directory / "checkpoints").is_dir():
        raise FileNotFoundError(f"{directory} holds no checkpoint yet: train longer")
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        if step is not None:
            checkpoints.require_intact(step)
        elif (step := checkpoints.latest_intact_step()) is None:
            raise FileNotFoundError(f"{directory} holds no checkpoint yet: train longer")
        return checkpoints.restore(step, {"model": part})[0]["model"]


def write(directory: Path, model: LanguageModel, tokenizer: Tokenizer, config: Mapping) -> None:
    """Writes the workdir of a model; see `runs.save`."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is not empty: a new or empty directory is needed")
    if any(linear_type(layer) == "integers" for _, layer in surgery.layers(model)):
        raise ValueError(
            "the model has integer layers, which no checkpoint holds yet: save the model that to_integers was given, "
            "and call to_integers again where it is opened"
        )
    config = {**config, "model": dataclasses.asdict(model.config)}
    # What `read` makes of this config has to be this model.
    graph, part = abstract(build(ModelConfig, config["model"], "config.model"), tokenizer.vocab_size)
    own_graph, params, buffers = nnx.split(model, nnx.Param, ...)
    own_part = {"params": params, "buffers": buffers}
    wrong = arrays.differences(arrays.describe(own_part), arrays.describe(part))
    if wrong:
        raise ValueError(f"the model is not the one of its config, by which it would be read: {'; '.join(wrong)}")
    if own_graph != graph:
        raise ValueError(
            "the model's layers are not those of its config, by which they would be read: all of them have to be of "
            "one number format, as quantize(model, 'ternary', ['*']) makes them"
        )
    workdir.create(directory, config, tokenizer, {})
    with Checkpoints(directory / "checkpoints", about={"config": config}) as checkpoints:
        checkpoints.save(0, {"model": own_part}, None)


def of_config(config: Mapping, vocab_size: int) -> LanguageModel:
    """The model of a run's config, in shapes alone: what its size is told by."""
    graph, part = abstract(build(ModelConfig, config["model"], "config.model", is_complete=False), vocab_size)
    return nnx.merge(graph, part["params"], part["buffers"])


def abstract(config: ModelConfig, vocab_size: int):
    """(graph, part "model" of a checkpoint) of a config's model, as shapes that are to lie on one device."""
    shapes = jax.eval_shape(lambda: LanguageModel(config, vocab_size, rngs=nnx.Rngs(0)))
    graph, params, buffers = nnx.split(shapes, nnx.Param, ...)
    return graph, jax.tree.map(on_one_device, {"params": params, "buffers": buffers})


def on_one_device(leaf) -> jax.ShapeDtypeStruct:
    """An array's shape, to be restored here: told where to, or orbax asks for the devices of the mesh that wrote it."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
