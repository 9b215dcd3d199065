"""Continues a prompt: python -m experiments.generate --workdir=runs/tiny --prompt="The American people"

Several prompts are continued side by side: with --prompt more than once, or --prompts=FILE, one a line; so is one
prompt with --seed more than once. Then a line of JSON is printed for each: its prompt, its seed and the text behind it.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from experiments import command_line
from mixkabrn_run.stops import unescape, until

_WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a trained run, or the file of a model")
_PROMPT = flags.DEFINE_multi_string("prompt", None, "text to continue, may be repeated; without, a new document")
_PROMPTS = flags.DEFINE_string("prompts", None, "file of texts to continue, one a line")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 400, "tokens to generate at most")
_STOP = flags.DEFINE_multi_string("stop", None, r"text to end before, may be repeated; \n is a new line, \t a tab")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.7, "0 takes the most likely token each time")
_TOP_K = flags.DEFINE_integer("top_k", 0, "keep the k most likely tokens; 0 keeps all")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "keep the most likely tokens of this total probability")
_MIN_P = flags.DEFINE_float("min_p", 0.0, "keep tokens at least this likely, relative to the most likely one")
_REPETITION_PENALTY = flags.DEFINE_float("repetition_penalty", 1.0, "above 1 makes tokens that were there rarer")
_SEED = flags.DEFINE_multi_integer("seed", None, "the same seed gives the same text: one (0), or one for each prompt")
_BEAMS = flags.DEFINE_integer("beams", 0, "above 0 draws nothing: a beam search of this width", lower_bound=0)
_LENGTH_PENALTY = flags.DEFINE_float("length_penalty", 0.6, "of a beam search; 0 prefers short texts")
_DRAWING = (_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P, _REPETITION_PENALTY, _SEED)
command_line.require("workdir", "runs/tiny")


def main():
    from mixkabrn_jax import runs
    from mixkabrn_jax.inference import completion
    from mixkabrn_jax.inference.generate import generate
    from mixkabrn_jax.inference.sampling import Sampling

    with command_line.user_errors():
        _check_flags()
        sampling = Sampling(*(flag.value for flag in _DRAWING[:-1]))
        stop = [unescape(text) for text in _STOP.value or ()]
        prompts, seeds = _prompts_and_seeds()
        is_list = _PROMPTS.value is not None or len(prompts) > 1
        model, tokenizer, _ = runs.open(_WORKDIR.value)
        options = {"max_tokens": _MAX_TOKENS.value, "sampling": sampling}
        if _BEAMS.value:
            texts = [_search(model, tokenizer, prompt, stop) for prompt in prompts]
        elif is_list:
            stop = [os.fsencode(text) for text in stop]
            found = completion.complete(model, tokenizer, prompts, seeds=seeds, stop=stop, **options)
            texts = [text.decode(errors="replace") for text in found]
        else:
            prompt = completion.encode(tokenizer, prompts[0], "--prompt")[None]
            tokens = generate(model, prompt, seed=seeds, stop_token=tokenizer.separator, **options)
            texts = until(_pieces(tokens, tokenizer), stop)
    if is_list:
        for prompt, seed, text in zip(prompts, seeds, texts, strict=True):
            drawn = {} if _BEAMS.value else {"seed": seed}
            print(json.dumps({"prompt": prompt.decode(errors="replace"), **drawn, "text": text}, ensure_ascii=False))
    else:
        print(prompts[0].decode(errors="replace"), end="")
        for text in texts:
            print(text, end="", flush=True)
        print()


def _check_flags():
    """Raises: ValueError for flags that would change nothing."""
    idle = _DRAWING if _BEAMS.value else (_LENGTH_PENALTY,)
    for flag in (flag for flag in idle if flag.present):
        why = f"--beams={_BEAMS.value} draws nothing" if _BEAMS.value else "this is of a beam search, such as --beams=4"
        raise ValueError(f"--{flag.name}={flag.value}: {why}")


def _prompts_and_seeds() -> tuple[list[bytes], list[int]]:
    """As many of one as of the other."""
    prompts, seeds = _prompts(), _SEED.value or [0]
    number = max(len(prompts), len(seeds))
    if not {len(prompts), len(seeds)} <= {1, number}:
        raise ValueError(f"--seed={seeds}: one, or one for each of the {len(prompts)} prompts, is needed")
    return prompts * (number // len(prompts)), seeds * (number // len(seeds))


def _prompts():
    if _PROMPTS.value is None:
        return [os.fsencode(text) for text in _PROMPT.value or [""]]
    if _PROMPT.value is not None:
        raise ValueError(f"--prompts={_PROMPTS.value}: together with --prompt; give one of them")
    path = Path(_PROMPTS.value)
    if not path.is_file():
        raise FileNotFoundError(f"--prompts={path}: there is no such file")
    if not (lines := path.read_bytes().splitlines()):
        raise ValueError(f"--prompts={path}: there is no line in it")
    return lines


def _search(model, tokenizer, prompt, stop):
    """The text of the best hypothesis, up to a stop."""
    from mixkabrn_jax.inference import beam, completion

    tokens_BT, mask_BT = completion.pad([completion.encode(tokenizer, prompt, "--prompt")])
    options = {"max_tokens": _MAX_TOKENS.value, "length_penalty": _LENGTH_PENALTY.value, "mask": mask_BT}
    found = beam.search(model, tokens_BT, num_beams=_BEAMS.value, stop_token=tokenizer.separator, **options)
    return "".join(until([tokenizer.decode(found[0][0].tokens)], stop))


def _pieces(tokens, tokenizer) -> Iterator[str]:
    """The text that is complete by each token, until the document ends."""
    decoder = tokenizer.stream_decoder()
    for token_B in tokens:
        if token_B[0] == tokenizer.separator:
            break
        yield decoder.decode(int(token_B[0]))
    yield decoder.finish()


if __name__ == "__main__":
    command_line.run(main)
