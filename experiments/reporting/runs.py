"""The runs that a report is of, and whether they compare."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mixkabrn_jax.runs import metrics


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: str
    config: Mapping
    """All fields by their dotted names."""
    records: Sequence[dict]
    data: Mapping[str, str]
    """What identifies each part of the data; {} where the run does not say."""
    tokenizer: str
    """A digest."""

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @cached_property
    def final(self) -> dict | None:
        """The record of the validation after the last step, over all of the validation data; None before it."""
        return metrics.final(self.records, self.config["num_steps"])

    @cached_property
    def training(self) -> list[dict]:
        """The records of training; those of skipped updates alone, which have a rate of 0, aside."""
        return [record for record in self.records if record["split"] == "train" and record.get("tokens_per_second")]

    @property
    def tokens(self) -> int:
        """Positions trained on, padding included."""
        return self.config["num_steps"] * self._tokens_per_step

    @property
    def tokens_per_second(self) -> float:
        """Median over the records of training: compilation and pauses weigh nothing."""
        return statistics.median(record["tokens_per_second"] for record in self.training)

    @property
    def seconds(self) -> float:
        """Of training alone: evaluation and checkpoints do not count. Of every record, its tokens over their rate."""
        before, total = 0, 0.0
        for record in self.training:
            updates = record["step"] - before - record.get("skipped", 0)
            total += updates * self._tokens_per_step / record["tokens_per_second"]
            before = record["step"]
        return total

    @property
    def flops(self) -> float | None:
        """What the model needs for its training, whatever is recomputed on the way; None where the log has no rate."""
        devices = 1
        for axis in ("data", "expert", "model", "context"):
            devices *= self.config.get(f"mesh.{axis}", 1)  # the log's rate is of one device
        last = self.training[-1]
        if "model_flops_per_second" not in last:
            return None
        return round(last["model_flops_per_second"] * devices / last["tokens_per_second"]) * self.tokens

    @property
    def _tokens_per_step(self):
        return self.config["data.batch_size"] * self.config["data.sequence_length"]


def require_comparable(runs: Sequence[Run]) -> None:
    """Raises: ValueError naming two runs whose losses are of different tokens."""
    one = runs[0]
    for other in runs[1:]:
        apart = "their losses do not compare: report on them apart"
        if one.tokenizer != other.tokenizer:
            raise ValueError(f"{other.path} has another tokenizer than {one.path}, so {apart}")
        validated = [(run.data.get("validation", ""), run.final.get("tokens")) for run in (one, other)]
        if validated[0] != validated[1]:
            texts = [text or f"{tokens} tokens" for text, tokens in validated]
            raise ValueError(f"{other.path} is validated on {texts[1]}, {one.path} on {texts[0]}, so {apart}")
