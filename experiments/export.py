"""Writes a trained model as one file: python -m experiments.export --workdir=runs/tiny --out=tiny.safetensors

The file holds what the model multiplies by, exactly: packed codes with their scales, float32 where a number format has
no codes; with its config and tokenizer. docs/format.md has its form. experiments.evaluate and experiments.generate take
it in place of a workdir, and mixkabrn_run runs it without JAX. One line of JSON says what takes how many bytes.

With --round=int8 or bfloat16, matrices that training did not round take less, and the line says what that costs in bits
per byte of the text that the run held out.

With --format=html it is a page that holds the file and what runs it, for any browser, offline. With --format=onnx it is
the model's step as a graph, and a whole text's beside it. With --format=huggingface it is a folder for that hub, with
a card that tells of the model; --push=owner/name uploads it too.

Of a run that trained adapters, it is the file of those alone (docs/adapters.md).
"""

import json
import re
import shlex
from pathlib import Path

from absl import flags

from configs import lm
from experiments import command_line

_SOTU = "the State of the Union addresses"
_FORMATS = ["safetensors", "html", "onnx", "huggingface"]
_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained run, or a file that was written from one")
_OUT = flags.DEFINE_string("out", None, "the file to write, or the folder")
_FORMAT = flags.DEFINE_enum("format", "safetensors", _FORMATS, "form of the file")
_ROUND = flags.DEFINE_enum("round", "", ["", "int8", "bfloat16"], "number format of matrices that have no codes")
_LICENSE = flags.DEFINE_string("license", "", "of the weights, as the Hugging Face hub names it, such as apache-2.0")
_PUSH = flags.DEFINE_string("push", "", "owner/name on the Hugging Face hub, to upload the folder to")
command_line.require("workdir", "runs/tiny")
command_line.require("out", "model.safetensors")


def main():
    # Only here, so that a wrong flag is answered at once: JAX comes with them.
    from mixkabrn_jax import runs
    from mixkabrn_jax.runs import adapters, model_file, workdir

    with command_line.user_errors():
        out, source = Path(_OUT.value), Path(_WORKDIR.value)
        _check(out)
        model, tokenizer, config = opened = runs.open(source)
        has_adapters = source.is_dir() and _check_adapters(config)
        if source.is_file():
            content = source.read_bytes()
        elif has_adapters:
            content = adapters.to_bytes(model, workdir.load_base(source), config, _about(source, config))
        else:
            content = model_file.to_bytes(model, tokenizer, config, _about(source, config), _ROUND.value)
        cost = _cost(source, opened, content) if _ROUND.value else {}
        tensors = model_file.describe(content)
        match _FORMAT.value:
            case "safetensors":
                files = {out: content}
            case "html":
                files = {out: _page(out, config, content)}
            case "onnx":
                files, tensors = _graphs(out, content)
            case "huggingface":
                files = _folder(out, opened, content)
                out.mkdir(exist_ok=True)
        for path, written in files.items():
            model_file.write(path, written)
        if _PUSH.value:
            from mixkabrn_jax.export import huggingface

            print(huggingface.push(out, _PUSH.value))
    sizes = {path.name: len(written) for path, written in files.items()}
    size = len(files[out]) if out in files else sum(sizes.values())
    # Every number format of training is stored as it is multiplied by.
    print(json.dumps({"bytes": size, "files": sizes, "tensors": tensors, "exact": not cost, **cost}))
    return 0


def training_command(config: dict) -> str:
    """The command that trains such a model, from the size of configs/lm.py that it differs least from."""
    from mixkabrn_jax.runs import workdir
    from mixkabrn_jax.runs.config import flatten

    changes = {}
    for size in lm.SIZES:
        there = flatten(lm.get_config(size).to_dict())
        mine = {field: value for field, value in flatten(config).items() if field in there}
        changes[size] = {
            field: value for field, value in mine.items() if value != there[field] and not workdir.is_bookkeeping(field)
        }
    size = min(changes, key=lambda size: len(changes[size]))
    command = ["python", "-m", "experiments.train", f"--config=configs/lm.py:{size}", "--workdir=runs/again"]
    return shlex.join([*command, *(f"--config.{field}={value}" for field, value in changes[size].items())])


def _check(out):
    """Raises: OSError, ValueError where nothing can be written."""
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out={out}: there is no folder {out.parent}")
    is_folder = _FORMAT.value == "huggingface"
    if out.is_dir() and not is_folder:
        raise IsADirectoryError(f"--out={out} is a folder: the name of a file is needed")
    if is_folder and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"--out={out}: the name of a new or empty folder is needed")
    if _ROUND.value and Path(_WORKDIR.value).is_file():
        raise ValueError(f"--round={_ROUND.value} is for the workdir of a run: a file has its numbers already")
    for flag in (_LICENSE, _PUSH):
        if flag.value and not is_folder:
            raise ValueError(f"--{flag.name}={flag.value} is of --format=huggingface alone")
    if _PUSH.value and not re.fullmatch(r"[\w.-]+/[\w.-]+", _PUSH.value):
        raise ValueError(f"--push={_PUSH.value}: owner/name is needed")


def _check_adapters(config):
    """Whether a run trained adapters. Raises: ValueError for a form that holds a whole model."""
    from mixkabrn_jax.runs import adapters

    has_adapters = adapters.config_of(config).rank > 0
    if has_adapters and (_FORMAT.value != "safetensors" or _ROUND.value):
        flag = f"--round={_ROUND.value}" if _ROUND.value else f"--format={_FORMAT.value}"
        raise ValueError(f"{flag} is of a whole model, and {_WORKDIR.value} holds adapters: leave it out")
    return has_adapters


def _about(source, config):
    """Where the model comes from, for the header of its file."""
    from mixkabrn_jax.runs import metrics, workdir

    told = source / "metrics.jsonl"
    scores = [record for record in metrics.read(told) if record["split"] == "validation"] if told.is_file() else []
    return {
        "command": training_command(config),
        "data": workdir.load_data(source),
        "validation": {key: scores[-1][key] for key in ("step", "tokens", "loss", "bits_per_byte")} if scores else {},
    }


def _cost(source, opened, content):
    """Bits per byte of what the run held out, of the model as it was trained and of what is in the file."""
    from experiments.evaluating import documents
    from mixkabrn_jax.evaluation.score import Scorer
    from mixkabrn_jax.evaluation.tasks import bits_per_byte
    from mixkabrn_jax.runs import model_file, workdir

    model, tokenizer, config = opened
    run = documents.Run(source, config, tokenizer, workdir.load_data(source))
    found = {}
    for name, each in (("trained", model), ("rounded", model_file.from_bytes(content)[0])):
        scorer = Scorer(each, tokenizer, config["data"]["sequence_length"])
        found[name] = bits_per_byte.run(scorer, documents.held_out(run))["bits_per_byte"]
    return {"bits_per_byte": found}


def _page(out, config, content):
    from mixkabrn_run import page

    about, _ = _data(config)
    prompt = "The American people" if about == _SOTU else ""
    return page.page(content, title=out.stem, about=about, prompt=prompt).encode()


def _graphs(out, content):
    """The step where it was asked for, a whole text's graph beside it; and what takes how many bytes in the step."""
    from mixkabrn_jax.export import onnx
    from mixkabrn_run import file

    parsed = file.parse(content)
    step, prefill = onnx.step(parsed), onnx.prefill(parsed)
    beside = out.with_suffix(".prefill.onnx")
    return {out: step.SerializeToString(), beside: prefill.SerializeToString()}, onnx.describe(step)


def _folder(out, opened, content):
    from mixkabrn_jax.export import huggingface
    from mixkabrn_jax.runs import model_file

    learnt_from, language = _data(opened[-1])
    about = model_file.header(content).about
    origin = huggingface.Origin(
        command=about.get("command") or training_command(opened[-1]),
        learnt_from=learnt_from,
        data=about.get("data", {}),
        validation=about.get("validation", {}),
        language=language,
        license=_LICENSE.value,
    )
    files = huggingface.files(_PUSH.value.split("/")[-1] or out.name, *opened, content, origin)
    return {out / name: written for name, written in files.items()}


def _data(config):
    """(what a model has learnt from, in a few words; its language as the hub names it, or "")."""
    from mixkabrn_jax.data.config import DataConfig
    from mixkabrn_jax.runs.config import build

    data = build(DataConfig, config["data"], "config.data", is_complete=False)
    if data.family == "sotu" and not data.mixture:
        return _SOTU, "en"
    return data.mixture or data.path or data.family, ""


if __name__ == "__main__":
    command_line.run(main)
