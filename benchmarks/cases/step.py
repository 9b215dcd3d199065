"""Whole training steps: RetNet beside torchscale's, and the parts of configs/lm.py:tiny switched off in turn."""

from functools import partial

import jax
import numpy as np

from benchmarks.cases import models
from benchmarks.measure import Case, Contender, difference
from configs import lm, sweeps
from experiments.sweeping import equal
from mixkabrn_jax.interop import torchscale
from mixkabrn_jax.runs.config import flatten
from mixkabrn_jax.runs.moved import nested

BATCH, LENGTH, LAYERS = 8, 512, 4


def cases(options):
    if options.suite == "gpu":
        return {"lm.py:base training step": lambda: Case([models.lm_step("ours", "all four ideas", "base")])}
    return {"RetNet training step": partial(_retnet, options.peers), "lm.py:tiny training step": _tiny}


def _tiny():
    data = lm.get_config("tiny").data
    return Case(
        [
            models.lm_step("ours", "all four ideas"),
            models.lm_step("part", "dense matrices", **{"model.linear": "dense"}),
            models.lm_step("part", "MLP experts of equal active parameters", **_off("ffn")),
            models.lm_step("part", "attention of equal active parameters", **_off("mixer")),
            models.lm_step("part", "no experts", **{"model.num_experts": 0}),
        ],
        {"tokens": data.batch_size * data.sequence_length},
    )


def _off(idea):
    """What switches an idea off, and the widths that keep active parameters as they are."""
    config, off = lm.get_config().to_dict(), sweeps.OFF[idea]
    return off | equal.equalise(nested(flatten(config) | off), config, "active_parameters")


def _retnet(peers):
    rows = models.batch(BATCH, LENGTH, models.VOCABULARY)
    if not peers:
        ours = models.train_step("ours", "MixKABRN", models.retnet(LAYERS), rows)
        return Case([ours], {"tokens": BATCH * LENGTH})
    official = {name: _official(**options) for name, options in _MODES.items()}
    weights = {name: tensor.numpy() for name, tensor in next(iter(official.values())).state_dict().items()}
    model = torchscale.load(weights, num_heads=models.RETNET["num_heads"])
    logits = jax.jit(lambda model, tokens: model(tokens).logits_BTW)(model, rows["tokens"])

    def agree():
        import torch

        with torch.no_grad():
            return {
                name: difference(decoder(torch.tensor(rows["tokens"], dtype=torch.long))[0].numpy(), logits)
                for name, decoder in official.items()
            }

    contenders = [models.train_step("ours", "MixKABRN", model, rows)]
    contenders += [Contender("peer", name, _official_step(decoder, rows)) for name, decoder in official.items()]
    # torchscale's modes differ among themselves by this much at the start, where what its norms add is felt.
    return Case(contenders, {"tokens": BATCH * LENGTH}, agree, limit=1e-2)


_MODES = {
    "torchscale, parallel": {"chunkwise_recurrent": False},
    "torchscale, chunks of 64": {"chunkwise_recurrent": True, "recurrent_chunk_size": 64},
    "torchscale, chunks of 128": {"chunkwise_recurrent": True, "recurrent_chunk_size": 128},
}


def _official(**options):
    import torch
    from torchscale.architecture.config import RetNetConfig
    from torchscale.architecture.retnet import RetNetDecoder

    torch.manual_seed(0)
    size = models.RETNET
    config = RetNetConfig(
        decoder_embed_dim=size["d_model"],
        decoder_value_embed_dim=size["value_width"] * size["num_heads"],
        decoder_retention_heads=size["num_heads"],
        decoder_ffn_embed_dim=size["hidden_width"],
        decoder_layers=LAYERS,
        vocab_size=models.VOCABULARY,
        **options,
    )
    embedding = torch.nn.Embedding(models.VOCABULARY, size["d_model"])
    return RetNetDecoder(config, embed_tokens=embedding)


def _official_step(decoder, rows):
    import torch

    decoder.train()
    tokens, targets = (torch.tensor(np.asarray(rows[key]), dtype=torch.long) for key in ("tokens", "targets"))
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3)

    def call():
        optimizer.zero_grad()
        logits = decoder(tokens)[0]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        optimizer.step()

    return call
