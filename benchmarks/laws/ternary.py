"""Laws of ternary layers that bitnet breaks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.laws.retention import our_retnet
from benchmarks.laws.verdict import Law, Verdict
from mixkabrn_jax.models import quantize
from mixkabrn_jax.ops import ternary


def bitnet_levels():
    import torch
    from bitnet.bitlinear import weight_quant

    torch.manual_seed(0)
    levels = len(torch.unique(weight_quant(torch.randn(64, 64))))
    return Verdict(levels == 3, f"{levels} levels")


def our_levels():
    weights = ternary.fake_quant_weight(jax.random.normal(jax.random.key(0), (64, 64)))
    levels = len(np.unique(np.asarray(weights)))
    return Verdict(levels == 3, f"{levels} levels")


def bitnet_replacement():
    import torch
    from bitnet.replace_hf import replace_linears_in_pytorch_model

    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    before = model[0].weight.detach().clone()
    replace_linears_in_pytorch_model(model)
    kept = bool(torch.equal(model[0].weight, before))
    return Verdict(kept, f"trained weights {'kept' if kept else 'replaced by random ones'}")


def our_replacement():
    model = our_retnet(16)
    ternary_model = quantize.quantize(model, "ternary", ["*"])
    pairs = zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(ternary_model)), strict=True)
    kept = all(bool(jnp.array_equal(old, new)) for old, new in pairs)
    return Verdict(kept, f"trained weights {'kept' if kept else 'changed'}")


LAWS = (
    Law("bitnet", "b1.58 weights have three levels", bitnet_levels, our_levels),
    Law("bitnet", "replacing the linear layers keeps what was trained", bitnet_replacement, our_replacement),
)
