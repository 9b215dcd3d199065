"""Writes a trained model as one file: python -m experiments.export --workdir=runs/tiny --out=tiny.safetensors

The file holds what the model multiplies by, exactly: packed codes with their scales, float32 where a number format has
no codes; with its config and tokenizer. docs/format.md has its form. experiments.evaluate and experiments.generate take
it in place of a workdir, and mixkabrn_run runs it without JAX. One line of JSON says what takes how many bytes.

With --format=html it is a page that holds the file and what runs it, for any browser, offline.
"""

import json
from pathlib import Path

from absl import flags

from experiments import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained run, or the file of a model")
_OUT = flags.DEFINE_string("out", None, "the file to write")
_FORMAT = flags.DEFINE_enum("format", "safetensors", ["safetensors", "html"], "form of the file")
_NOTE = flags.DEFINE_string("note", "", "words for the file's header, such as the command that trained the model")
command_line.require("workdir", "runs/tiny")
command_line.require("out", "model.safetensors")


def main():
    # Only here, so that a wrong flag is answered at once: JAX comes with them.
    from mixkabrn_jax.runs import model_file

    with command_line.user_errors():
        out = Path(_OUT.value)
        if not out.parent.is_dir():
            raise FileNotFoundError(f"--out={out}: there is no folder {out.parent}")
        if out.is_dir():
            raise IsADirectoryError(f"--out={out} is a folder: the name of a file is needed")
        content = _model_file(Path(_WORKDIR.value))
        written = _page(content, out.stem) if _FORMAT.value == "html" else content
        model_file.write(out, written)
    # Every number format of training is stored as it is multiplied by.
    print(json.dumps({"bytes": len(written), "tensors": model_file.describe(content), "exact": True}))
    return 0


def _model_file(path):
    """The bytes of a model's file: of a run, or of the file that is there already."""
    from mixkabrn_jax import runs
    from mixkabrn_jax.runs import metrics, model_file, workdir

    if path.is_file():
        if _NOTE.value:
            raise ValueError(f"--note={_NOTE.value!r} goes with the workdir of a run: {path} has its header already")
        return path.read_bytes()
    model, tokenizer, config = runs.open(path)
    records = metrics.read(path / "metrics.jsonl") if (path / "metrics.jsonl").exists() else []
    scores = [record for record in records if record["split"] == "validation"]
    about = {
        "data": workdir.load_data(path),
        "validation": {key: scores[-1][key] for key in ("step", "loss", "bits_per_byte")} if scores else {},
        "note": _NOTE.value,
    }
    return model_file.to_bytes(model, tokenizer, config, about)


def _page(content, title):
    from mixkabrn_jax.runs import model_file
    from mixkabrn_run import page

    data = model_file.header(content).config["data"]
    if not data["path"] and not data["mixture"] and data["source"] in ("auto", "sotu"):
        about, prompt = "the State of the Union addresses", "The American people"
    else:
        about, prompt = data["mixture"] or data["path"] or data["source"], ""
    return page.page(content, title=title, about=about, prompt=prompt).encode()


if __name__ == "__main__":
    command_line.run(main)
