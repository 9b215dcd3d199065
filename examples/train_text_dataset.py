"""Trains a small model on a text file, or on a folder of them, and prints a sample. From a clone of the repository:

    python -m examples.train_text_dataset my_texts/ runs/mine

The same command again goes on where it stopped.
"""

import sys
from pathlib import Path

import numpy as np

from configs import lm
from mixkabrn_jax import runs
from mixkabrn_jax.inference.generate import generate
from mixkabrn_jax.inference.sampling import Sampling
from mixkabrn_jax.training import loop


def main(path: str, workdir: str, **changes) -> None:
    """Fields of the config are changed by their names: `num_steps=100`, or `**{"model.ffn": "mlp"}`."""
    config = lm.get_config("tiny")
    config.update_from_flattened_dict({"data.path": path, **changes})
    if code := loop.train(loop.prepare(config.to_dict(), Path(workdir))):
        sys.exit(code)  # a signal asked for an end: what is trained so far is saved
    model, tokenizer, _ = runs.open(workdir)
    prompt_BT = np.array([[tokenizer.separator]])  # a new document
    sample = generate(model, prompt_BT, max_tokens=300, sampling=Sampling(temperature=0.7), seed=0)
    print(tokenizer.decode(int(token_B[0]) for token_B in sample))


if __name__ == "__main__":
    main(*sys.argv[1:3])
