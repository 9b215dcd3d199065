"""What a vocabulary is worth and costs: byte-pair tokenizers of many sizes, trained on the State of the Union.

    python -m benchmarks.vocabulary       # writes benchmarks/results/vocabulary.json and vocabulary.md

Bytes per token are of the documents that configs/lm.py:tiny holds out; CPU seconds, of all cores, are of the
training of the tokenizer.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import time

RESULTS = pathlib.Path(__file__).parent / "results"
VOCAB_SIZES = [2**n for n in range(9, 17)]
MODELS = ("tiny", "small")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    # Only here, so that --help is answered at once: JAX comes with them.
    from configs import lm
    from mixkabrn_jax.data.config import DataConfig
    from mixkabrn_jax.data.splitting import Split

    documents = {"train": [], "validation": []}
    for name, document in Split(DataConfig(**lm.get_config().data.to_dict())):
        documents[name].append(document)
    rows = [row(None, documents)]
    for vocab_size in VOCAB_SIZES:
        rows.append(row(vocab_size, documents))
        print(rows[-1], flush=True)
    about = {
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "training_bytes": sum(len(document.content) for document in documents["train"]),
        "validation_bytes": sum(len(document.content) for document in documents["validation"]),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "vocabulary.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    (RESULTS / "vocabulary.md").write_text(table(about, rows))


def row(vocab_size, documents):
    """The figures of one size; None for bytes."""
    from mixkabrn_jax.data import tokenizers
    from mixkabrn_jax.data.tokenizers import bpe

    began, cpu = time.perf_counter(), time.process_time()
    tokenizer = bpe.train(documents["train"], vocab_size) if vocab_size else tokenizers.Bytes()
    found = {
        "vocab_size": tokenizer.vocab_size,
        "train_seconds": round(time.perf_counter() - began, 1),
        "train_cpu_seconds": round(time.process_time() - cpu, 1),
    }
    for name in documents:
        num_bytes = sum(len(document.content) for document in documents[name])
        cpu = time.process_time()
        num_tokens = sum(len(tokenizer.encode(document.content)) for document in documents[name])
        found[f"{name}_bytes_per_token"] = round(num_bytes / num_tokens, 3)
        found[f"{name}_megabytes_per_cpu_second"] = round(num_bytes / 1e6 / (time.process_time() - cpu), 1)
    return found | {
        f"embedding_share_of_{size}": round(embedding_share(size, tokenizer.vocab_size), 4) for size in MODELS
    }


def embedding_share(size, vocab_size):
    """Of the parameters of configs/lm.py."""
    import jax
    from flax import nnx

    from configs import lm
    from mixkabrn_jax.models.config import ModelConfig
    from mixkabrn_jax.models.language import LanguageModel
    from mixkabrn_jax.runs.config import build

    config = build(ModelConfig, lm.get_config(size).model.to_dict(), "config.model")
    model = jax.eval_shape(lambda: LanguageModel(config, vocab_size, rngs=nnx.Rngs(0)))
    total = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    return vocab_size * config.d_model / total


def table(about, rows):
    """Markdown."""
    lines = [
        f"`python -m benchmarks.vocabulary`, {'; '.join(f'{key} {value}' for key, value in about.items())}",
        "",
        "| tokens | bytes per token, held out | on the training documents | embedding's share of tiny | of small | "
        "CPU seconds to train |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        shares = " | ".join(f"{row[f'embedding_share_of_{size}']:.0%}" for size in MODELS)
        lines.append(
            f"| {row['vocab_size']:,} | {row['validation_bytes_per_token']:.2f} | "
            f"{row['train_bytes_per_token']:.2f} | {shares} | {row['train_cpu_seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
