"""Teaches a trained model your own text:

    python -m experiments.finetune --workdir=runs/tiny --path=my_texts/ --minutes=10 --out=runs/mine

The model, a run or a file, is never changed: adapters are trained beside it, in a workdir of their own, --out. To undo
it, delete that folder; experiments.generate and experiments.evaluate take it, and experiments.export makes one small
file of it. A part of the text is held out; the last line says what it took before and after, in bits per byte.

It is training as experiments.train does it, with a number of steps that fits --minutes on this machine. Ctrl-C stops it
with all saved, and the same command goes on.
"""

import sys
import time
from pathlib import Path

from absl import flags

from configs import lm
from experiments import command_line, source_flags

_STARTED = time.monotonic()
_PROBE_SECONDS = 10
_VALIDATIONS = 5  # on the way, each of config.evaluate_windows; the first and the last one take all
_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained run, or the file of a model")
_PATH = flags.DEFINE_string("path", None, "file, archive or folder of texts")
_SOURCE = flags.DEFINE_string("source", "auto", "what they are, as config.data.source; text if not given")
_CHOICE = source_flags.define_choice()
_OUT = flags.DEFINE_string("out", None, "workdir of the adapters, made where it is not there")
_MINUTES = flags.DEFINE_float("minutes", 10.0, "how long all of it takes, compilation too", lower_bound=0.01)
_RANK = flags.DEFINE_integer("rank", 4, "of the adapters", lower_bound=1)
_TARGETS = flags.DEFINE_string("targets", "*.mixer.*,embedding_WD", "patterns of the matrices that have one")
_RATE = flags.DEFINE_float("rate", 1e-2, "learning rate at its peak", lower_bound=0)
command_line.require("workdir", "runs/tiny")
command_line.require("path", "my_texts/")
command_line.require("out", "runs/mine")


def main():
    # Only here, so that a wrong flag is answered at once.
    from mixkabrn_jax.runs.checkpoint import DoesNotFitError
    from mixkabrn_jax.training import loop

    command_line.raise_interrupts()
    try:
        with command_line.user_errors():
            config, out = _config(), Path(_OUT.value)
            config["num_steps"] = _num_steps_there(out) or _num_steps(config)
            training = loop.prepare(_scheduled(config), out)
        status = loop.train(training)
    except (OSError, FloatingPointError, DoesNotFitError) as error:
        sys.exit(f"error: {error}")
    if status == 0:
        print(_before_and_after(out))
    return status


def _config():
    """The config of the adapters' run: that of the model's own, with what differs."""
    from mixkabrn_jax.runs import model_file, workdir

    source = Path(_WORKDIR.value)
    own = model_file.read_header(source).config if source.is_file() else workdir.load_config(source)
    config = lm.get_config().to_dict()
    for section in ("model", "data", "objective", "optimizer"):
        config[section] |= own[section]
    config["init_from"] = str(source.resolve())
    config["adapter"] |= {"rank": _RANK.value, "targets": _TARGETS.value}
    choice = {field: holder.value for field, holder in _CHOICE.items()}
    data = {"source": _SOURCE.value, "path": _PATH.value, "mixture": "", "validation_path": "", **choice}
    config["data"] |= data
    config["optimizer"] |= {"matrices": "adamw", "schedule": "cosine", "peak_rate": _RATE.value, "weight_decay": 0.0}
    return config


def _num_steps_there(out):
    """Of a run that was begun; None where there is none."""
    from mixkabrn_jax.runs import workdir

    return workdir.load_config(out)["num_steps"] if (out / "config.json").is_file() else None


def _scheduled(config):
    """With warm-up, records, validations and checkpoints that suit the number of steps."""
    num_steps = config["num_steps"]
    config["optimizer"]["warmup_steps"] = max(num_steps // 20, 1)
    config["log_every"] = max(num_steps // 50, 1)
    config["evaluate_every"] = max(num_steps // _VALIDATIONS, 1)
    config["checkpoint"]["every"] = max(num_steps // 10, 1)
    return config


def _num_steps(config):
    """As many as fit what is left of the minutes, by the pace of a few seconds."""
    from mixkabrn_jax.training import probe

    print(f"measuring for {_PROBE_SECONDS} seconds how fast this machine is ...", flush=True)
    pace = probe.measure(_scheduled(config | {"num_steps": 1000}), _PROBE_SECONDS)
    # A forward pass is a third of an update (Kaplan et al. 2020, sec. 2.1); compiling one takes about as large a part.
    windows = _VALIDATIONS * config["evaluate_windows"] / config["data"]["batch_size"]
    aside = pace.start * 4 / 3 + 2 * pace.whole_validation + windows * pace.step / 3
    left = 60 * _MINUTES.value - (time.monotonic() - _STARTED) - aside
    num_steps = max(round(left / pace.step), 1)
    print(f"{pace.step:.3g} s a step: {num_steps:,} steps in {_MINUTES.value:g} minutes", flush=True)
    return num_steps


def _before_and_after(out):
    from mixkabrn_jax.runs import metrics

    found = [record for record in metrics.read(out / "metrics.jsonl") if record["split"] == "validation"]
    before, after = found[0]["bits_per_byte"], found[-1]["bits_per_byte"]
    return f"bits per byte of the text that was held out: {before:.4f} before, {after:.4f} after"


if __name__ == "__main__":
    command_line.run(main)
