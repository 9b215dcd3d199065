"""Trains a byte-pair tokenizer on the training documents of a source:

    python -m experiments.tokenize --source=text --path=my_texts/ --vocab_size=2048 --out=tokenizer.json

The file is one of the library `tokenizers`, and --config.data.tokenizer=tokenizer.json trains a model with it; to have
one trained on the way, give --config.data.tokenizer=bpe. The last line says in JSON how far it shortens the text.
"""

import hashlib
import json
import os
from pathlib import Path

from absl import flags

from experiments import command_line, source_flags

_CONFIG = source_flags.define()
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 2048, "tokens, among them the bytes and the separator of documents")
_OUT = flags.DEFINE_string("out", None, "the file to write, whose name ends in .json")
command_line.require("out", "tokenizer.json")


def main():
    # Only here, so that a wrong flag is answered at once.
    from mixkabrn_jax.data import sources
    from mixkabrn_jax.data.splitting import Split
    from mixkabrn_jax.data.tokenizers import bpe
    from mixkabrn_jax.runs import workdir

    with command_line.user_errors("config.data."):
        out = writable(Path(_OUT.value))
        config = _CONFIG(tokenizer="bpe", vocab_size=_VOCAB_SIZE.value)
        if legal := sources.FAMILIES[config.family].legal:
            print(f"legal: {legal}", flush=True)
        split = Split(config)
        tokenizer = bpe.train(shown("read for the tokenizer", split.training()), config.vocab_size)
        if split.skipped.counts:
            print(f"left out or damaged: {split.skipped}", flush=True)
        text = json.dumps(tokenizer.to_json()["tokenizer"]) + "\n"
        workdir.write_atomically(out, text)
        num_bytes = num_tokens = 0
        for document in shown("encoded", split.training()):
            num_bytes += len(document.content)
            num_tokens += len(tokenizer.encode(document.content, document.id))
    sizes = {"vocab_size": tokenizer.vocab_size, "bytes": num_bytes, "tokens": num_tokens}
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    print(json.dumps({**sizes, "bytes_per_token": round(num_bytes / num_tokens, 4), "sha256": sha256}))
    return 0


def writable(out: Path) -> Path:
    """The path, once it is seen that it may be written to: training comes before. Raises: ValueError, OSError."""
    if out.suffix != ".json":
        raise ValueError(f"--out={out}: the name of a tokenizer ends in .json, by which config.data.tokenizer knows it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out={out}: there is no folder {out.parent}")
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"--out={out}: the folder {out.parent} cannot be written to")
    return out


def shown(what: str, documents):
    """The documents, with a line on the terminal of how far they are."""
    from mixkabrn_jax.data.progress import Progress

    progress = Progress(what)
    for document in documents:
        yield document
        progress.add(len(document.content))
    progress.close()
