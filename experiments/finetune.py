"""Teaches a trained model your own text:

    python -m experiments.finetune --workdir=runs/tiny --path=my_texts/ --minutes=10 --out=runs/mine

The model, a run or a file, is never changed: adapters are trained beside it, in a workdir of their own, --out. To undo
it, delete that folder; experiments.generate and experiments.evaluate take it, and experiments.export makes one small
file of it. A part of the text is held out; the last line says what it took before and after, in bits per byte.

It is training as experiments.train does it, with a number of steps that fits --minutes on this machine. Ctrl-C stops it
with all saved, and the same command goes on.
"""

import dataclasses
import sys
import time
import typing
from pathlib import Path

from absl import flags

from configs import lm
from experiments import command_line, source_flags

_STARTED = time.monotonic()
_PROBE_SECONDS = 10
_VALIDATIONS = 5  # on the way, each of config.evaluate_windows; the first and the last one take all
_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained run, or the file of a model")
_PATH = flags.DEFINE_string("path", "", "file, archive or folder of texts")
_SOURCE = flags.DEFINE_string("source", "auto", "what they are, as config.data.source; text if not given")
_CHOICE = source_flags.define_choice()
_AS_BEFORE = {  # fields of config.data that are the model's own where nothing is given
    "template": flags.DEFINE_string("template", None, "chat: of instruction data, as config.data.template"),
    "loss_on": flags.DEFINE_string("loss_on", None, "all, or targets: prompts are read and not learnt"),
    "directions": flags.DEFINE_string("directions", None, "of parallel text, with commas between"),
    "sequence_length": flags.DEFINE_integer("sequence_length", None, "tokens of a row; a short text needs short ones"),
}
_OUT = flags.DEFINE_string("out", None, "workdir of the adapters, made where it is not there")
_MINUTES = flags.DEFINE_float("minutes", 10.0, "how long all of it takes, compilation too", 0.01, 1e6)
_RANK = flags.DEFINE_integer("rank", 4, "of the adapters", lower_bound=1)
_TARGETS = flags.DEFINE_string("targets", "*.mixer.*,embedding_WD", "patterns of the matrices that have one")
_RATE = flags.DEFINE_float("rate", 1e-2, "learning rate at its peak", lower_bound=0)
command_line.require("workdir", "runs/tiny")
command_line.require("out", "runs/mine")


def main():
    # Only here, so that a wrong flag is answered at once.
    from mixkabrn_jax.data.config import DataConfig
    from mixkabrn_jax.runs.checkpoint import DoesNotFitError
    from mixkabrn_jax.training import loop, start

    command_line.raise_interrupts()
    try:
        with command_line.user_errors("config."):
            out = Path(_OUT.value)
            _check_flags(out)
            config = _config()
            start.require_apart(out, DataConfig(**config["data"]))
            config["num_steps"] = _num_steps_there(out) or _num_steps(config)
            training = loop.prepare(_scheduled(config), out)
        status = loop.train(training)
    except (OSError, FloatingPointError, DoesNotFitError) as error:
        sys.exit(f"error: {error}")
    if status == 0:
        print(_before_and_after(out))
    return status


def _check_flags(out):
    """Raises: OSError, ValueError for what is wrong before anything of the model is read."""
    from mixkabrn_jax.runs import workdir

    if not _PATH.value and _SOURCE.value == "auto":
        raise ValueError(
            "--path=my_texts/ is needed: file, archive or folder of texts; or a --source that is built in, such as quiz"
        )
    if not _MINUTES.value > 0:  # which a flag's bounds let pass where it is no number
        raise ValueError(f"--minutes={_MINUTES.value}: more than 0 is needed")
    if out.resolve() == Path(_WORKDIR.value).resolve():
        raise ValueError(f"--out={out} is --workdir, which stays as it is: name a new folder")
    if not (out / "config.json").is_file():
        workdir.check(out, {})  # now, and not once the pace is measured


def _config():
    """The config of the adapters' run: that of the model's own, with what differs."""
    from mixkabrn_jax.runs import model_file, workdir
    from mixkabrn_jax.runs.config import build
    from mixkabrn_jax.training.experiment import Experiment

    source = Path(_WORKDIR.value)
    own = model_file.read_header(source).config if source.is_file() else workdir.load_config(source)
    config, sections = lm.get_config().to_dict(), typing.get_type_hints(Experiment)
    for section in ("model", "data", "objective", "optimizer"):  # with all fields, though it may be older than some
        built = build(sections[section], own[section], f"config.{section}", is_complete=False)
        config[section] = dataclasses.asdict(built)
    config["init_from"] = str(source.resolve())
    config["adapter"] |= {"rank": _RANK.value, "targets": _TARGETS.value}
    config["data"] |= {field: holder.value for field, holder in _CHOICE.items()}
    config["data"] |= {field: holder.value for field, holder in _AS_BEFORE.items() if holder.value is not None}
    config["data"] |= {"source": _SOURCE.value, "path": _PATH.value, "mixture": "", "validation_path": ""}
    config["optimizer"] |= {"matrices": "adamw", "schedule": "cosine", "peak_rate": _RATE.value, "weight_decay": 0.0}
    return config


def _num_steps_there(out):
    """Of a run that was begun; None where there is none."""
    from mixkabrn_jax.runs import workdir

    if not (out / "config.json").is_file():
        return None
    num_steps = workdir.load_config(out)["num_steps"]
    print(f"{out} was begun with {num_steps:,} steps, which it goes on with: --minutes is of a new run", flush=True)
    return num_steps


def _scheduled(config):
    """With warm-up, records, validations and checkpoints that suit the number of steps."""

    def part(number):  # rounded up, so that none of them comes just before the last step
        return -(-config["num_steps"] // number)

    config["optimizer"]["warmup_steps"] = part(20)
    config["log_every"], config["evaluate_every"] = part(50), part(_VALIDATIONS)
    config["checkpoint"]["every"] = part(10)
    return config


def _num_steps(config):
    """As many as fit what is left of the minutes, by the pace of a few seconds."""
    from mixkabrn_jax.training import probe

    print(f"measuring for {_PROBE_SECONDS} seconds how fast this machine is ...", flush=True)
    pace = probe.measure(_scheduled(config | {"num_steps": 1000}), _PROBE_SECONDS)
    # A forward pass is a third of an update (Kaplan et al. 2020, sec. 2.1); compiling one takes about as large a part.
    windows = _VALIDATIONS * config["evaluate_windows"] / config["data"]["batch_size"]
    aside = pace.start * 4 / 3 + 2 * pace.whole_validation + windows * pace.step / 3
    aside = (time.monotonic() - _STARTED + aside) / 60
    num_steps = max(round(60 * (_MINUTES.value - aside) / pace.step), 1)
    told = f"{pace.step:.3g} s a step, and {aside:.2g} minutes for all else: "
    print(f"{told}{num_steps:,} steps in {_MINUTES.value:g} minutes", flush=True)
    return num_steps


def _before_and_after(out):
    from mixkabrn_jax.runs import metrics

    found = [record for record in metrics.read(out / "metrics.jsonl") if record["split"] == "validation"]
    before, after = found[0]["bits_per_byte"], found[-1]["bits_per_byte"]
    return f"bits per byte of the text that was held out: {before:.4f} before, {after:.4f} after"


if __name__ == "__main__":
    command_line.run(main)
