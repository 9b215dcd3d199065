"""The widths that make a trial equal to its sweep's config: in parameters, flops of training or bytes of a file."""

import functools
from collections.abc import Callable, Iterator, Mapping

import jax
from flax import nnx

from mixkabrn_jax.data import pipeline
from mixkabrn_jax.models.config import ModelConfig
from mixkabrn_jax.models.language import LanguageModel, count_parameters
from mixkabrn_jax.models.size import sizes
from mixkabrn_jax.runs.config import flatten
from mixkabrn_jax.runs.moved import nested
from mixkabrn_jax.training.experiment import Experiment
from mixkabrn_jax.training.utilisation import model_flops_per_token

TOLERANCE = 0.01
"""Of the config's quantity: one unit of a narrow model's width is more than a thousandth of it."""


def count(config: Mapping) -> dict[str, float]:
    """`trials.QUANTITIES` of a config, counted from its model as it is initialised, in shapes alone.

    flops: `model_flops_per_token` of all tokens that are trained on. file_bytes: as in results, of the model alone;
    int8_file_bytes: where what training left in float32 is rounded to 8 bits.
    Where the tokenizer is a bpe, the tokens are as many as it may have.
    """
    experiment = Experiment.from_dict(config)
    data = experiment.data
    counted = dict(_count_model(experiment.model, pipeline.vocab_size(data), data.sequence_length))
    tokens = experiment.num_steps * data.batch_size * data.sequence_length
    return {**counted, "flops": counted["flops"] * tokens}


@functools.cache
def _count_model(config: ModelConfig, vocab_size: int, sequence_length: int) -> dict[str, float]:
    """The same of a model; its flops for one token."""
    model = jax.eval_shape(lambda: LanguageModel(config, vocab_size, rngs=nnx.Rngs(0)))
    parameters, kept = count_parameters(model), sizes(model, sequence_length)["parameter_bytes"]
    return {
        "total_parameters": parameters["total"],
        "active_parameters": parameters["active"],
        "flops": model_flops_per_token(model, parameters, sequence_length),
        "file_bytes": kept["file"],
        "int8_file_bytes": kept["int8_file"],
    }


def equalise(config: Mapping, base: Mapping, quantity: str) -> dict[str, int | float]:
    """The fields that a trial has to change to have as much of a quantity as `base`, within `TOLERANCE`.

    The feed-forward becomes wider or narrower, and where one unit of it is too much, heads do by as little as helps.
    Where it would be left with less than a quarter of its share, as with float32 numbers in a file of ternary ones, the
    whole model is narrowed in proportion first.

    Args:
        config: of the trial; base: of the sweep.
    Returns: {} for a trial that is equal as it stands.
    Raises: ValueError with what came nearest, where widths do not reach it.
    """
    target, fields = count(base)[quantity], flatten(config)

    def measure(widths):
        return count(nested(fields | widths))[quantity]

    if _is_equal(measure({}), target):
        return {}
    wanted = _share(flatten(base), lambda widths: count(nested(flatten(base) | widths))[quantity], target)
    tried = {}
    for narrowed in _narrowed(fields, measure, target, wanted):
        for widths in _candidates(fields | narrowed, lambda more, own=narrowed: measure(own | more), target):
            changes = {field: value for field, value in (narrowed | widths).items() if fields[field] != value}
            tried[measure(changes)] = changes
            if _is_equal(measure(changes), target):
                return changes
    nearest = min(tried, key=lambda value: abs(value - target))
    raise ValueError(
        f"no widths give {target:,.0f} {quantity} within {TOLERANCE:.0%}: the nearest is {nearest:,.0f}, by "
        f"{tried[nearest]}; --equal=none, or a larger config, is needed"
    )


def _is_equal(value, target):
    return abs(value - target) <= TOLERANCE * target


def _feed_forward(fields, width):
    """What makes feed-forwards so wide: dense ones beside experts keep their proportion to them."""
    if not fields["model.num_experts"]:
        return {"model.hidden_width": width}
    widths = {"model.expert_width": width}
    if fields["model.first_dense_layers"]:
        proportion = fields["model.hidden_width"] / fields["model.expert_width"]
        widths["model.hidden_width"] = max(1, round(width * proportion))
    return widths


def _feed_forward_line(fields, measure):
    """(width, its step, the quantity of one unit of it): quantities are linear in the width of feed-forwards."""
    width = fields["model.expert_width" if fields["model.num_experts"] else "model.hidden_width"]
    slope = (measure(_feed_forward(fields, 2 * width)) - measure({})) / width
    return width, fields["mesh.model"], slope


def _share(fields: Mapping, measure: Callable, target: float) -> float:
    """The feed-forwards' share of the target, once their width has made up for all else."""
    width, _, slope = _feed_forward_line(fields, measure)
    return 1 - (measure({}) - slope * width) / target


def _narrowed(fields: Mapping, measure: Callable, target: float, wanted: float) -> Iterator[dict[str, int | float]]:
    """{} where the trial's own widths leave feed-forwards a quarter of the share that is wanted. Else the widest model
    of the same proportions that leaves them all of it, and those that are narrower still."""

    def narrow(number):
        ratio = number * unit / fields["model.d_model"]
        scale = fields["model.embedding_scale"]
        return {
            "model.d_model": number * unit,
            "model.key_width": max(2, 2 * round(fields["model.key_width"] * ratio / 2)),
            "model.value_width": max(1, round(fields["model.value_width"] * ratio)),
            "model.embedding_scale": scale if scale == 1 else round(scale * ratio**0.5, 1),
        }

    def share(widths):
        return _share(fields | widths, lambda more: measure(widths | more), target)

    if share({}) >= wanted / 4:
        yield {}
        return
    unit = fields["model.num_heads"] * fields["mesh.data"]
    low, high = 1, fields["model.d_model"] // unit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if share(narrow(middle)) >= wanted else (low, middle - 1)
    yield from map(narrow, range(low, 0, -1))


def _candidates(fields: Mapping, measure: Callable, target: float) -> Iterator[dict[str, int]]:
    """Widths that should reach the target, those first that change least of the heads; the first whatever it reaches.

    Quantities are linear in each width, but for what crosses between keys and values in flops: what is yielded is still
    to be measured.
    """
    start, (width, step, slope) = measure({}), _feed_forward_line(fields, measure)

    def filled(missing):
        return max(step, step * round((width + missing / slope) / step))

    yield _feed_forward(fields, filled(target - start))
    keys, values = fields["model.key_width"], fields["model.value_width"]
    per_key = (measure({"model.key_width": 2 * keys}) - start) / keys
    per_value = (measure({"model.value_width": 2 * values}) - start) / values
    steps = [(k, v) for k in range(-keys // 4 * 2, keys // 2, 2) for v in range(-values // 2, values // 2)]
    for more_keys, more_values in sorted(steps, key=lambda step: abs(step[0]) + abs(step[1])):
        heads = {"model.key_width": keys + more_keys, "model.value_width": values + more_values}
        with_heads = start + more_keys * per_key + more_values * per_value
        new_width = filled(target - with_heads)
        if _is_equal(with_heads + (new_width - width) * slope, target) and min(heads.values()) > 0:
            yield heads | _feed_forward(fields, new_width)
