"""What is tried on language models: generators of what each trial sets. docs/sweeps.md has how to run and write them.

A config file offers the sweeps that it defines or imports: `from configs.sweeps import ablation`.
"""

import functools
import itertools
import operator


def sweep(*, metrics, equal="none"):
    """Declares a sweep.

    Args:
        metrics: fields of metrics.jsonl that trials are compared by, the one that decides first.
        equal: what all trials have as much of as the config itself: total_parameters, active_parameters, flops (of the
            whole training), file_bytes, or int8_file_bytes, of files whose float32 matrices are rounded to 8 bits.
            Widths that make it so are found for each trial; none leaves all as it is.
    """

    def declare(generator):
        generator.metrics, generator.equal = metrics, equal
        return generator

    return declare


OFF = {
    "mixer": {"model.mixer": "attention", "model.rotary.kind": "rope"},
    "ffn": {"model.ffn": "mlp"},
    "linear": {"model.linear": "dense", "model.kan.spline_linear": "dense", "model.quantization.embedding": "dense"},
    "routing": {"model.num_experts": 0},
}
"""What switches each of the four ideas off."""
CORNERS = {
    switched: functools.reduce(operator.or_, (OFF[idea] for idea in switched), {})
    for switched in (tuple(itertools.compress(OFF, places)) for places in itertools.product((0, 1), repeat=len(OFF)))
}
"""What each of the sixteen combinations sets, by the ideas that are off in it."""
PLAIN = CORNERS[tuple(OFF)]
"""The plain model, with all of them off."""


@sweep(metrics=("bits_per_byte", "tokens_per_second"), equal="active_parameters")
def ablation(config):
    """All sixteen on-off combinations of the four ideas: what each is worth, alone and together."""
    del config
    yield from CORNERS.values()


@sweep(metrics=("bits_per_byte", "tokens_per_second"), equal="active_parameters")
def one_off(config):
    """The config, then each idea off in turn: five trials of the ablation, for sizes where sixteen are too many."""
    del config
    yield from ({}, *OFF.values())


@sweep(metrics=("bits_per_byte",), equal="active_parameters")
def learning_rate(config):
    """Each corner of the ablation at five rates, so that it can be compared at its own best one."""
    for corner in CORNERS.values():
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
            yield corner | rates(config, factor)


@sweep(metrics=("bits_per_byte", "file_bytes", "parameters"))
def parameters(config):
    """0.1, 0.3, 1 and 3 M parameters of the config and of the plain model: the least that reach a given loss."""
    del config
    # Width, layers, hidden units of an expert, and of the plain model's feed-forward.
    for d_model, num_layers, expert_width, hidden_width in (
        (32, 2, 6, 206),
        (64, 3, 8, 310),
        (128, 4, 11, 460),
        (192, 6, 18, 750),
    ):
        size = {
            "model.d_model": d_model,
            "model.num_layers": num_layers,
            "model.num_heads": d_model // 32,
            "model.key_width": 32,
            "model.value_width": 32,
            "model.embedding_scale": round(d_model**0.5, 1),
        }
        yield size | {"model.expert_width": expert_width}
        yield size | {"model.hidden_width": hidden_width} | PLAIN


@sweep(metrics=("bits_per_byte", "max_load", "load_entropy", "tokens_per_second"), equal="active_parameters")
def experts(config):
    """How many experts and how narrow, how many of them a token uses, and how their load is balanced."""
    yield {}
    # Granularity: half as wide, twice as many, and twice as many a token.
    for num_experts, per_token in ((2, 1), (8, 4), (16, 8)):
        yield {"model.num_experts": num_experts, "model.experts_per_token": per_token}
    for num_experts in (8, 16):
        yield {"model.num_experts": num_experts}
    for per_token in (1, 3):
        yield {"model.experts_per_token": per_token}
    for num_shared in (0, 2):
        yield {"model.num_shared_experts": num_shared}
    yield {"model.router.score": "sigmoid"}
    yield {"objective.balance_loss": 0.0}
    yield {"objective.balance_loss": 0.0, "training.router_bias_rate": 0.001}
    yield {"model.first_dense_layers": 1, "model.hidden_width": 3 * config.model.expert_width}
    yield OFF["routing"]


@sweep(metrics=("bits_per_byte", "outside_grid", "file_bytes", "tokens_per_second"), equal="active_parameters")
def splines(config):
    """Grids, degrees and ranges, the base and the splines alone, number formats, and functions in place of splines."""
    del config
    yield {}
    for num_intervals in (1, 2, 5, 8):
        yield {"model.kan.grid.num_intervals": num_intervals}
    for degree in (1, 2):
        yield {"model.kan.grid.degree": degree}
    for reach in (2.0, 4.0):
        yield {"model.kan.grid.low": -reach, "model.kan.grid.high": reach}
    for extrapolation in ("clamp", "linear"):
        yield {"model.kan.grid.extrapolation": extrapolation}
    for share in (0.2, 0.8):
        yield {"model.kan.spline_share": share}
    yield {"model.kan.train_base": False}
    yield {"model.kan.train_spline": False}
    for spline_linear in ("int4", "int8", "dense"):
        yield {"model.kan.spline_linear": spline_linear}
    for basis in ("chebyshev", "fourier", "rbf", "rational"):
        yield {"model.kan.basis": basis}
    for ffn in ("mlp", "swiglu", "geglu"):
        yield {"model.ffn": ffn}


@sweep(metrics=("bits_per_byte", "tokens_per_second"), equal="active_parameters")
def retention(config):
    """How heads forget, how many there are and how wide, and how positions turn them."""
    heads, keys, values = config.model.num_heads, config.model.key_width, config.model.value_width
    yield {}
    # A constant decay has a known sum to be normalised by, a gated one has not.
    constant = {"model.retention.normalization": "sqrt_sum"}
    for decay in ("paper", "lm", "learned"):
        yield constant | {"model.retention.decay": decay}
    for exponent in (2.0, 5.0):
        yield constant | {"model.retention.decay": "paper", "model.retention.first_decay_exponent": exponent}
    yield {"model.retention.decay": "paper"}
    yield {"model.num_heads": heads // 2, "model.key_width": 2 * keys, "model.value_width": 2 * values}
    yield {"model.num_heads": 2 * heads, "model.key_width": keys // 2, "model.value_width": values // 2}
    yield {"model.key_width": keys // 2}
    yield {"model.value_width": 2 * values}
    yield {"model.rotary.kind": "rope"}
    yield {"model.conv_size": 1}
    yield OFF["mixer"]


@sweep(metrics=("bits_per_byte", "tokens_per_second"), equal="flops")
def schedule(config):
    """What trains the config: schedules, rates, batches of the same number of tokens in all, and optimisers."""
    yield {}
    for factor in (0.5, 2.0):
        yield rates(config, factor)
    yield {"optimizer.schedule": "cosine"}
    for fraction in (0.2, 0.5):
        yield {"optimizer.schedule": "wsd", "optimizer.decay_fraction": fraction}
    for factor in (0.5, 2.0):
        yield {"optimizer.warmup_steps": round(factor * config.optimizer.warmup_steps)}
    yield {"optimizer.final_fraction": 0.1}
    yield {"optimizer.weight_decay": 0.0}
    yield {"optimizer.momentum": 0.95}
    yield {"optimizer.matrices": "adamw"} | rates(config, 0.25)
    yield {"data.batch_size": config.data.batch_size // 2, "num_steps": 2 * config.num_steps}
    yield {"data.batch_size": 2 * config.data.batch_size, "num_steps": config.num_steps // 2}


def rates(config, factor):
    """Both rates of a config, so many times as high."""
    return {
        f"optimizer.{name}": float(f"{factor * config.optimizer[name]:.4g}")
        for name in ("peak_rate", "second_peak_rate")
    }
