"""How long configs/shakespeare.py takes to nanoGPT's loss: both are trained in turns in one run, on the same cores.

    make .venv-peers/installed
    .venv-peers/bin/python -W ignore -m benchmarks.nanogpt --path=tinyshakespeare.txt [--num_steps=400]

nanoGPT's recipe for a CPU is a GPT-2 of 4 layers, 4 heads and width 128 without biases and dropout, in 2000 steps of
12 x 64 characters: AdamW (b2 0.99, decay 0.1 of matrices), 100 steps up to 1e-3, half a cosine down to 1e-4, gradients
clipped at 1. Here it is written out in PyTorch. Both see the first 90% of the file and are scored on all of the rest,
in windows as they were trained. Time is that of training steps; compilation is told apart, evaluation is not counted.
Writes benchmarks/results/nanogpt.json and nanogpt.md.
"""

import argparse
import json
import math
import os
import pathlib
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the idle threads of one are not to spin while the other is timed

LAYERS, HEADS, WIDTH, BLOCK, BATCH, STEPS, WARMUP = 4, 4, 128, 64, 12, 2000, 100
PEAK_RATE, END_RATE = 1e-3, 1e-4
SLICES = 10
"""Turns: so many times one of them trains a slice of its steps, and then the other."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=pathlib.Path, required=True, help="tinyshakespeare.txt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_steps", type=int, default=0, help="of ours; 0 for the config's")
    options = parser.parse_args()
    if not options.path.is_file():
        parser.error(f"--path={options.path}: there is no such file")
    from benchmarks.run import about, processor
    from mixkabrn_jax import host

    host.keep_freed_memory()
    runs = [nanogpt(options.path, options.seed), ours(options.path, options.seed, options.num_steps)]
    curves = [[], []]
    for index in range(SLICES):
        for run, curve in zip(runs, curves, strict=True):
            curve.append(next(run))
            print(f"{index + 1}/{SLICES}  {curve[-1]}", file=sys.stderr, flush=True)
    record = {"about": about(processor()), "command": " ".join(sys.argv[1:])}
    record |= {"nanogpt": curves[0], "ours": curves[1]} | summary(*curves)
    results = pathlib.Path(__file__).parent / "results"
    (results / "nanogpt.json").write_text(json.dumps(record, indent=1) + "\n")
    text = table(record)
    (results / "nanogpt.md").write_text(text)
    print(text)


def nanogpt(path, seed):
    """Yields after each slice: steps, seconds of training so far, loss on the validation part."""
    import numpy as np
    import torch

    text = path.read_text()
    letters = sorted(set(text))
    tokens = torch.tensor([letters.index(letter) for letter in text])
    train, validation = tokens[: int(0.9 * len(tokens))], tokens[int(0.9 * len(tokens)) :]
    torch.manual_seed(seed)
    draws = np.random.default_rng(seed)
    model = _gpt2(len(letters))
    matrices = [weight for weight in model.parameters() if weight.dim() >= 2]
    rest = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, PEAK_RATE, betas=(0.9, 0.99))
    count = (len(validation) - 1) // BLOCK
    inputs = validation[: count * BLOCK].view(count, BLOCK)
    targets = validation[1 : count * BLOCK + 1].view(count, BLOCK)
    seconds = 0.0
    for step in range(1, STEPS + 1):
        began = time.perf_counter()
        for group in adamw.param_groups:
            group["lr"] = _rate(step - 1)
        starts = draws.integers(0, len(train) - BLOCK - 1, BATCH)
        windows = torch.stack([train[start : start + BLOCK + 1] for start in starts])
        adamw.zero_grad(set_to_none=True)
        _loss(model, windows[:, :-1], windows[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        seconds += time.perf_counter() - began
        if step % (STEPS // SLICES) == 0:
            with torch.no_grad():
                loss = float(_loss(model, inputs, targets))
            yield {"step": step, "seconds": round(seconds, 2), "loss": round(loss, 4)}


def _rate(step):
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / (WARMUP + 1)
    share = (step - WARMUP) / (STEPS - WARMUP)
    return END_RATE + (PEAK_RATE - END_RATE) * (1 + math.cos(math.pi * share)) / 2


def _loss(model, inputs, targets):
    import torch

    return torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def _gpt2(vocab_size):
    from torch import nn

    def linear(d_in, d_out, std=0.02):
        layer = nn.Linear(d_in, d_out, bias=False)
        nn.init.normal_(layer.weight, std=std)
        return layer

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            end = 0.02 / (2 * LAYERS) ** 0.5  # of what writes to the residual stream
            self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
            self.qkv, self.out = linear(WIDTH, 3 * WIDTH), linear(WIDTH, WIDTH, end)
            self.up, self.down = linear(WIDTH, 4 * WIDTH), linear(4 * WIDTH, WIDTH, end)

        def forward(self, x):
            heads = (a.unflatten(-1, (HEADS, -1)).transpose(1, 2) for a in self.qkv(self.norms[0](x)).chunk(3, -1))
            y = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
            x = x + self.out(y.transpose(1, 2).flatten(2))
            return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))

    class GPT2(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocab_size, WIDTH), nn.Embedding(BLOCK, WIDTH)
            for embedding in (self.tokens, self.positions):
                nn.init.normal_(embedding.weight, std=0.02)
            self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
            self.norm = nn.LayerNorm(WIDTH, bias=False)

        def forward(self, tokens):
            x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
            for layer in self.layers:
                x = layer(x)
            return nn.functional.linear(self.norm(x), self.tokens.weight)

    return GPT2()


def ours(path, seed, num_steps):
    """Yields the same of configs/shakespeare.py, and at first the seconds of its compilation."""
    from functools import partial

    import jax

    from configs import shakespeare
    from mixkabrn_jax import sharding
    from mixkabrn_jax.data import pipeline
    from mixkabrn_jax.training import start
    from mixkabrn_jax.training.evaluate import evaluate
    from mixkabrn_jax.training.experiment import Experiment
    from mixkabrn_jax.training.step import evaluate_step

    config = shakespeare.get_config()
    config.seed, config.data.path, config.num_steps = seed, str(path), num_steps or config.num_steps
    experiment = Experiment.from_dict(config.to_dict())
    mesh, size = sharding.make_mesh(experiment.mesh), experiment.data.batch_size
    corpus = pipeline.load(experiment.data)
    setup, state = start.new(experiment, corpus.tokenizer.vocab_size, mesh)
    batches = pipeline.train_batches(corpus.train, experiment.data, experiment.seed)
    began = time.perf_counter()
    update = start.compile(setup, state, corpus, size)
    compilation = time.perf_counter() - began
    score, seconds, step = jax.jit(partial(evaluate_step, setup=setup)), 0.0, 0
    for index in range(1, SLICES + 1):
        began = time.perf_counter()
        while step < index * experiment.num_steps // SLICES:
            state = update(state, sharding.place_rows(next(batches), mesh, size))
            step += 1
        jax.block_until_ready(state)
        seconds += time.perf_counter() - began
        windows = pipeline.validation_batches(corpus.validation, 32)
        place = partial(sharding.place_rows, mesh=mesh, num_rows=32)
        totals = evaluate(score, state.params, state.buffers, windows, place)
        yield {
            "step": step,
            "seconds": round(seconds, 2),
            "loss": round(float(totals.nats / totals.tokens), 4),
            "compilation_seconds": round(compilation, 2),
        }


def summary(theirs, mine):
    """nanoGPT's last loss, and the seconds of both until they are there; None where ours never is."""
    goal = theirs[-1]["loss"]
    there = next((row for row in mine if row["loss"] <= goal), None)
    return {
        "goal": goal,
        "nanogpt_seconds": theirs[-1]["seconds"],
        "our_seconds": there and there["seconds"],
        "our_seconds_with_compilation": there and round(there["seconds"] + there["compilation_seconds"], 2),
        "ratio": there and round(there["seconds"] / theirs[-1]["seconds"], 3),
    }


def table(record):
    """As Markdown."""
    facts = "; ".join(f"{key} {value}" for key, value in record["about"].items())
    lines = [f"`python -m benchmarks.nanogpt {record['command']}`, {facts}", ""]
    lines += ["| | steps | seconds of training | nats a character |", "|---|---:|---:|---:|"]
    for name in ("nanogpt", "ours"):
        rows = record[name]
        chosen = sorted({len(rows) // 4 - 1, len(rows) // 2 - 1, 3 * len(rows) // 4 - 1, len(rows) - 1})
        lines += [f"| {name} | {rows[i]['step']} | {rows[i]['seconds']} | {rows[i]['loss']} |" for i in chosen]
    lines += [
        "",
        f"nanoGPT ends at {record['goal']} after {record['nanogpt_seconds']} s; ours is there after "
        f"{record['our_seconds']} s, {record['our_seconds_with_compilation']} s with compilation: "
        f"{record['ratio']} of nanoGPT's time.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
