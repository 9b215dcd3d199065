"""A config as one checked object."""

from collections.abc import Mapping
from dataclasses import dataclass

from flax import nnx

from mixkabrn_jax.data.pipeline import DataConfig
from mixkabrn_jax.models import adapters
from mixkabrn_jax.models.adapters import AdapterConfig
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel
from mixkabrn_jax.runs.config import build
from mixkabrn_jax.runs.policy import CheckpointConfig
from mixkabrn_jax.sharding import MeshConfig
from mixkabrn_jax.training.guard import GuardConfig
from mixkabrn_jax.training.objectives.language import LanguageObjective
from mixkabrn_jax.training.optimizer import OptimizerConfig
from mixkabrn_jax.training.profile import ProfileConfig
from mixkabrn_jax.training.step import StepConfig


@dataclass(frozen=True)
class Experiment:
    """A config, checked: an unknown key is a TypeError, an impossible value a ValueError that names its field."""

    seed: int
    """Of the first parameters and of the order of the data."""
    num_steps: int
    """Updates of the whole run."""
    log_every: int
    """Steps between records of training."""
    evaluate_every: int
    """Steps between validations; the last step is always validated."""
    evaluate_windows: int
    """Validation windows of an evaluation on the way; the last one takes all."""
    # Sections: the meaning of each stands with its dataclass.
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    objective: LanguageObjective
    training: StepConfig
    guard: GuardConfig
    checkpoint: CheckpointConfig
    mesh: MeshConfig
    profile: ProfileConfig
    init_from: str = ""
    """Workdir of a run whose parameters a new run starts from, and whose tokenizer it takes; "" starts anew. With
    adapters the model that stays as it is: such a workdir, or the file of a model."""
    adapter: AdapterConfig = AdapterConfig()

    def __post_init__(self):
        for field in ("num_steps", "log_every", "evaluate_every", "evaluate_windows"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: at least 1 is needed")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: 0 to 2**32 - 1 is needed")
        mesh, rows = self.mesh, self.training.accumulation_steps * self.mesh.data * self.mesh.expert
        if self.data.batch_size % rows:
            raise ValueError(
                f"data.batch_size={self.data.batch_size} is not a multiple of "
                f"config.training.accumulation_steps * config.mesh.data * config.mesh.expert = {rows}"
            )
        if self.checkpoint.keep_best and self.evaluate_every % self.checkpoint.every:
            raise ValueError(
                f"checkpoint.keep_best={self.checkpoint.keep_best} chooses by validation loss, and there is no "
                f"checkpoint of some steps that are validated: config.evaluate_every={self.evaluate_every} must be a "
                f"multiple of config.checkpoint.every={self.checkpoint.every}"
            )
        model = self.model
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
                raise ValueError(f"{field}={value} is not a multiple of config.mesh.{axis}={size}")
        if self.training.grid_update_every and model.ffn == "kan" and model.kan.knots != "adaptive":
            raise ValueError(
                f"training.grid_update_every={self.training.grid_update_every} moves knots, and those of "
                f"config.model.kan.knots={model.kan.knots!r} do not: 'adaptive' is needed, or 0"
            )

        if self.adapter.rank:
            self._check_adapter()

    def _check_adapter(self):
        if not self.init_from:
            raise ValueError(
                f"adapter.rank={self.adapter.rank} trains adapters beside a model that stays as it is: set "
                "config.init_from to the workdir of its run, or to its file"
            )
        for field in ("router_bias_rate", "grid_update_every"):
            if getattr(self.training, field):
                raise ValueError(
                    f"training.{field}={getattr(self.training, field)} changes a model, which stays as it is beside "
                    f"config.adapter.rank={self.adapter.rank}: 0 is needed"
                )

    @classmethod
    def from_dict(cls, config: Mapping) -> "Experiment":
        """From `config.json` or a ConfigDict's `to_dict()`."""
        return build(cls, config)

    def new_model(self, vocab_size: int) -> LanguageModel:
        """The model before its first update."""
        return LanguageModel(self.model, vocab_size, rngs=nnx.Rngs(self.seed))

    def with_adapters(self, base: LanguageModel) -> LanguageModel:
        """A frozen model with adapters before their first update."""
        return adapters.put_in(base, self.adapter, rngs=nnx.Rngs(self.seed))
