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

_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained run")
_OUT = flags.DEFINE_string("out", None, "the file to write")
_FORMAT = flags.DEFINE_enum("format", "safetensors", ["safetensors", "html"], "form of the file")
command_line.require("workdir", "runs/tiny")
command_line.require("out", "model.safetensors")


def main():
    # Only here, so that a wrong flag is answered at once: JAX comes with them.
    from mixkabrn_jax import runs
    from mixkabrn_jax.runs import model_file, workdir
    from mixkabrn_run import page

    with command_line.user_errors():
        out = Path(_OUT.value)
        if not out.parent.is_dir():
            raise FileNotFoundError(f"--out={out}: there is no folder {out.parent}")
        if out.is_dir():
            raise IsADirectoryError(f"--out={out} is a folder: the name of a file is needed")
        model, tokenizer, config = runs.open(_WORKDIR.value)
        about = {"data": workdir.load_data(Path(_WORKDIR.value))}
        content = model_file.to_bytes(model, tokenizer, config, about)
        written = content
        if _FORMAT.value == "html":
            about = "the State of the Union addresses" if config["data"]["source"] == "sotu" else config["data"]["path"]
            written = page.page(content, title=out.stem, about=about or config["data"]["source"]).encode()
        model_file.write(out, written)
    # Every number format of training is stored as it is multiplied by.
    print(json.dumps({"bytes": len(written), "tensors": model_file.describe(content), "exact": True}))
    return 0


if __name__ == "__main__":
    command_line.run(main)
