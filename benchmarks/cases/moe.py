"""A mixture of experts on 4096 tokens of 256, experts of width 256, two a token; floor: a dense layer of their work."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.measure import Case, Contender, compiled, difference, forward_and_backward
from mixkabrn_jax.layers.branch import BranchConfig
from mixkabrn_jax.layers.mlp import Glu
from mixkabrn_jax.layers.moe import MixtureOfExperts, MoeConfig

BATCH, LENGTH, D_MODEL, WIDTH, CHOICES = 8, 512, 256, 256, 2


def cases(options):
    found = {f"moe E={num_experts}": partial(_case, options, num_experts) for num_experts in (8, 64)}
    if options.peers and options.suite == "cpu":
        found["moe E=32, 1 shared"] = partial(_deepseek, options, 32)
    return found


def _case(options, num_experts):
    x, cotangent = _inputs(options)
    layer = _layer(num_experts, num_shared_experts=0)
    dense = _feed_forward(CHOICES * WIDTH)(rngs=nnx.Rngs(0))
    return Case(
        [
            _contender("ours", "MixtureOfExperts", layer, x, cotangent),
            _contender("floor", "dense layer of equal active work", dense, x, cotangent),
        ]
    )


def _inputs(options):
    batch, dtype = (64, jnp.bfloat16) if options.suite == "gpu" else (BATCH, jnp.float32)
    return [jax.random.normal(jax.random.key(seed), (batch, LENGTH, D_MODEL), dtype) for seed in (0, 1)]


def _deepseek(options, num_experts):
    import torch
    from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe

    x, cotangent = _inputs(options)
    layer = _layer(num_experts, num_shared_experts=1)
    config = DeepseekV2Config(
        hidden_size=D_MODEL,
        moe_intermediate_size=WIDTH,
        n_routed_experts=num_experts,
        n_shared_experts=1,
        num_experts_per_tok=CHOICES,
        topk_method="greedy",
        routed_scaling_factor=1.0,
        norm_topk_prob=False,
        n_group=1,
        topk_group=1,
    )
    peer = DeepseekV2Moe(config)

    def put(parameter, *kernels):  # ours [.., in, out], side by side; theirs [.., out, in]
        kernel = np.concatenate([np.asarray(kernel[...]) for kernel in kernels], axis=-1)
        parameter.data = torch.tensor(np.ascontiguousarray(np.swapaxes(kernel, -1, -2)))

    experts, shared = layer.experts, layer.shared
    put(peer.experts.gate_up_proj, experts.gate.kernel, experts.up.kernel)
    put(peer.experts.down_proj, experts.down.kernel)
    put(peer.gate.weight, layer.router)
    for name in ("gate", "up", "down"):
        put(getattr(peer.shared_experts, f"{name}_proj").weight, getattr(shared, name).kernel)
    tokens, bar = (torch.tensor(np.asarray(a)) for a in (x, cotangent))
    tokens.requires_grad_()

    def train():
        peer.zero_grad()
        tokens.grad = None
        peer(tokens).backward(bar)

    def agree():
        with torch.no_grad():
            return {"transformers DeepseekV2Moe": difference(peer(tokens).numpy(), layer(x)[0])}

    ours = _contender("ours", "MixtureOfExperts", layer, x, cotangent)
    theirs = Contender("peer", "transformers DeepseekV2Moe", train)
    return Case([ours, theirs], agree=agree)


def _contender(role, name, layer, x, cotangent):
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    def run(params, x):
        return nnx.merge(graph, params, rest)(x)[0]

    return compiled(role, name, forward_and_backward(run), (params, x), cotangent)


def _layer(num_experts, num_shared_experts):
    config = MoeConfig(num_experts, CHOICES, num_shared_experts)
    return MixtureOfExperts(D_MODEL, config, _feed_forward(WIDTH), rngs=nnx.Rngs(0))


def _feed_forward(width):
    """What makes feed-forwards of this width: SwiGLU without a norm inside."""
    return partial(Glu, D_MODEL, width, "swiglu", BranchConfig("dense", sub_norm=False))
