"""A config as one checked object, and the model of a finished run."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
from flax import nnx

from mixkabrn_jax.data.pipeline import DataConfig
from mixkabrn_jax.data.tokenizers import Tokenizer
from mixkabrn_jax.layers import variables
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.sharding import MeshConfig
from mixkabrn_jax.training import workdir
from mixkabrn_jax.training.checkpoint import CheckpointConfig, Checkpoints
from mixkabrn_jax.training.guard import GuardConfig
from mixkabrn_jax.training.objectives.language import LanguageObjective
from mixkabrn_jax.training.optimizer import OptimizerConfig
from mixkabrn_jax.training.profile import ProfileConfig
from mixkabrn_jax.training.step import StepConfig


@dataclass(frozen=True)
class Experiment:
    """A config, checked: an unknown key is a TypeError, an impossible value a ValueError that names its field."""

    seed: int
    num_steps: int
    log_every: int
    evaluate_every: int
    evaluate_windows: int
    """Validation windows of an evaluation on the way; the last one takes all."""
    model: Mapping
    """The fields of `ModelConfig` but vocab_size, which the tokenizer decides."""
    data: DataConfig
    optimizer: OptimizerConfig
    objective: LanguageObjective
    training: StepConfig
    guard: GuardConfig
    checkpoint: CheckpointConfig
    mesh: MeshConfig
    profile: ProfileConfig

    def __post_init__(self):
        for field in ("num_steps", "log_every", "evaluate_every", "evaluate_windows"):
            if getattr(self, field) < 1:
                raise ValueError(f"config.{field}={getattr(self, field)}: at least 1 is needed")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"config.seed={self.seed}: 0 to 2**32 - 1 is needed")
        mesh, rows = self.mesh, self.training.accumulation_steps * self.mesh.data * self.mesh.expert
        if self.data.batch_size % rows:
            raise ValueError(
                f"config.data.batch_size={self.data.batch_size} is not a multiple of "
                f"config.training.accumulation_steps * config.mesh.data * config.mesh.expert = {rows}"
            )
        if self.checkpoint.keep_best and self.evaluate_every % self.checkpoint.every:
            raise ValueError(
                f"config.checkpoint.keep_best={self.checkpoint.keep_best} chooses by validation loss, and there is no "
                f"checkpoint of some steps that are validated: config.evaluate_every={self.evaluate_every} must be a "
                f"multiple of config.checkpoint.every={self.checkpoint.every}"
            )
        model = self.model_config(vocab_size=1)
        divided = [
            ("data.sequence_length", self.data.sequence_length, "context"),
            ("model.d_model", model.d_model, "data"),
        ]
        divided += [("model.num_heads", model.num_heads, "model"), ("model.hidden_width", model.hidden_width, "model")]
        if model.num_experts:
            divided += [("model.num_experts", model.num_experts, "expert")]
            divided += [("model.expert_width", model.expert_width, "model")]
        for field, value, axis in divided:
            size = getattr(mesh, axis)
            if value % size:
                raise ValueError(f"config.{field}={value} is not a multiple of config.mesh.{axis}={size}")
        if self.training.grid_update_every and model.ffn == "kan" and model.knots != "adaptive":
            raise ValueError(
                f"config.training.grid_update_every={self.training.grid_update_every} moves knots, and those of "
                f"config.model.knots={model.knots!r} do not: 'adaptive' is needed, or 0"
            )

    @classmethod
    def from_dict(cls, config: Mapping) -> "Experiment":
        """From `config.json` or a ConfigDict's `to_dict()`."""
        if "objective" not in config:  # its fields are among those of `training`
            both, names = config["training"], {field.name for field in dataclasses.fields(LanguageObjective)}
            objective = {name: value for name, value in both.items() if name in names}
            training = {name: value for name, value in both.items() if name not in names}
            config = {**config, "objective": objective, "training": training}
        sections = {
            "data": DataConfig,
            "optimizer": OptimizerConfig,
            "objective": LanguageObjective,
            "training": StepConfig,
            "guard": GuardConfig,
            "checkpoint": CheckpointConfig,
            "mesh": MeshConfig,
            "profile": ProfileConfig,
        }
        return cls(**{key: sections[key](**value) if key in sections else value for key, value in config.items()})

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The model for a tokenizer of this size."""
        return ModelConfig(vocab_size=vocab_size, **self.model)

    def new_model(self, vocab_size: int) -> LanguageModel:
        """The model before its first update."""
        return LanguageModel(self.model_config(vocab_size), rngs=nnx.Rngs(self.seed))


def load_model(directory: Path) -> tuple[LanguageModel, Tokenizer]:
    """The model and tokenizer of a trained run, from its newest checkpoint; from one before it where that is damaged.

    Raises: FileNotFoundError when the directory holds no run or no checkpoint; OSError when no checkpoint is intact.
    """
    experiment = Experiment.from_dict(workdir.load_config(directory))
    checkpoints_path = directory / "checkpoints"
    tokenizer = workdir.load_tokenizer(directory)
    if tokenizer is None or not checkpoints_path.is_dir():
        raise FileNotFoundError(f"--workdir={directory} holds no checkpoint yet: train longer")
    model_config = experiment.model_config(tokenizer.vocab_size)
    abstract = jax.eval_shape(lambda: LanguageModel(model_config, rngs=nnx.Rngs(0)))
    graph, params, buffers = variables.split(abstract)
    with Checkpoints(checkpoints_path, read_only=True) as checkpoints:
        latest = checkpoints.latest_intact_step()
        if latest is None:
            raise FileNotFoundError(f"--workdir={directory} holds no checkpoint yet: train longer")
        params, buffers = checkpoints.restore_model(latest, params, buffers)
    return variables.merge(graph, params, buffers), tokenizer
