"""Continues a prompt: python -m experiments.generate --workdir=runs/tiny --prompt="The American people" """

import os

import numpy as np
from absl import flags

from experiments import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained run, or the file of a model")
_PROMPT = flags.DEFINE_string("prompt", "", "text to continue; empty starts a new document")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 400, "tokens to generate at most")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.7, "0 takes the most likely token each time")
_TOP_K = flags.DEFINE_integer("top_k", 0, "keep the k most likely tokens; 0 keeps all")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "keep the most likely tokens of this total probability")
_MIN_P = flags.DEFINE_float("min_p", 0.0, "keep tokens at least this likely, relative to the most likely one")
_SEED = flags.DEFINE_integer("seed", 0, "the same seed gives the same text")
command_line.require("workdir", "runs/tiny")


def main():
    from mixkabrn_jax import runs
    from mixkabrn_jax.inference.generate import generate
    from mixkabrn_jax.inference.sampling import Sampling

    with command_line.user_errors():
        sampling = Sampling(_TEMPERATURE.value, _TOP_K.value, _TOP_P.value, _MIN_P.value)
        model, tokenizer, _ = runs.open(_WORKDIR.value)
        prompt = tokenizer.encode(os.fsencode(_PROMPT.value), "--prompt")
        prompt = np.concatenate([[tokenizer.separator], prompt])[None]
        options = {"max_tokens": _MAX_TOKENS.value, "sampling": sampling, "seed": _SEED.value}
        tokens = generate(model, prompt, stop_token=tokenizer.separator, **options)
    decoder = tokenizer.stream_decoder()
    print(os.fsencode(_PROMPT.value).decode(errors="replace"), end="")
    for token_B in tokens:
        if token_B[0] == tokenizer.separator:
            break
        print(decoder.decode(int(token_B[0])), end="", flush=True)
    print(decoder.finish())


if __name__ == "__main__":
    command_line.run(main)
