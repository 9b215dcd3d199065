"""The faults of other implementations, shown: each law is tried on the peer and on MixKABRN, in one table.

    python3.11 -m venv .venv-peers
    .venv-peers/bin/pip install --no-deps -r benchmarks/requirements-peers.txt
    .venv-peers/bin/python -m benchmarks.faults            # writes benchmarks/results/faults.md

The same laws are tests here (`tests/peer_faults/`), which need no peer. A peer that is not installed is left out, and
said to be.
"""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import tempfile
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mixkabrn_jax.interop import torchscale
from mixkabrn_jax.layers import refinement
from mixkabrn_jax.layers.features import Grid
from mixkabrn_jax.layers.kan import Kan, KanConfig, KanLayer
from mixkabrn_jax.models import language, quantize
from mixkabrn_jax.ops import retention, ternary

RESULTS = pathlib.Path(__file__).parent / "results"


class Trial(NamedTuple):
    """Whether the law held, and what was seen."""

    holds: bool
    seen: str


class Law(NamedTuple):
    """What ought to hold, and how to try it."""

    peer: str
    text: str
    theirs: Callable[[], Trial]
    ours: Callable[[], Trial]


def close(difference: float, size: float, limit: float = 1e-5) -> Trial:
    """A difference of results that ought to be equal, relative to their size."""
    return Trial(difference <= limit * size, f"off by {difference:.1e} of {size:.2g}")


# --- Retention: torchscale ---------------------------------------------------------------------------------------

WIDTH, HEADS, VOCABULARY, LENGTH = 64, 4, 50, 48
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, LENGTH))


def official_retnet(chunkwise=False):
    import torch
    from torchscale.architecture.config import RetNetConfig
    from torchscale.architecture.retnet import RetNetDecoder

    torch.manual_seed(0)
    config = RetNetConfig(
        decoder_embed_dim=WIDTH,
        decoder_value_embed_dim=2 * WIDTH,
        decoder_retention_heads=HEADS,
        decoder_ffn_embed_dim=2 * WIDTH,
        decoder_layers=2,
        vocab_size=VOCABULARY,
        chunkwise_recurrent=chunkwise,
        recurrent_chunk_size=16,
    )
    decoder = RetNetDecoder(config, embed_tokens=torch.nn.Embedding(VOCABULARY, WIDTH)).eval()
    for name, parameter in decoder.named_parameters():
        if "proj" in name or "ffn" in name:
            parameter.data *= 4  # as large as in a trained model: at the start epsilon hides nothing
    return decoder


def our_retnet(chunk_size):
    params = {name: tensor.numpy() for name, tensor in official_retnet().state_dict().items()}
    return torchscale.load(params, num_heads=HEADS, chunk_size=chunk_size)


def official_logits(decoder, tokens, **options):
    import torch

    with torch.no_grad():
        return decoder(torch.tensor(tokens), **options)[0].numpy()


def our_logits(model, tokens, state=None, mask=None):
    output = jax.jit(lambda model, tokens, state, mask: model(tokens, state, mask_BT=mask))(model, tokens, state, mask)
    return np.asarray(output.logits_BTW), output.state


def official_modes():
    parallel, chunkwise = (official_logits(official_retnet(mode), TOKENS) for mode in (False, True))
    return close(np.abs(parallel - chunkwise).max(), np.abs(parallel).max())


def our_modes():
    (parallel, _), (chunkwise, _) = (our_logits(our_retnet(size), TOKENS) for size in (LENGTH, 16))
    return close(np.abs(parallel - chunkwise).max(), np.abs(parallel).max())


def official_decay():
    import torch
    from torchscale.architecture.config import RetNetConfig
    from torchscale.architecture.retnet import RetNetRelPos

    decay = RetNetRelPos(RetNetConfig(decoder_embed_dim=256, decoder_retention_heads=32)).decay
    still = int(torch.sum(decay == 0))
    return Trial(still == 0, f"{still} of 32 heads never forget")


def our_decay():
    still = int(np.sum(np.asarray(retention.log_decay(32)) == 0))
    return Trial(still == 0, f"{still} of 32 heads never forget")


def official_prefill():
    decoder, state = official_retnet(), {"is_first_step": True}
    whole = official_logits(decoder, TOKENS)
    official_logits(decoder, TOKENS[:, :8], incremental_state=state)
    state["is_first_step"] = False
    got = official_logits(decoder, TOKENS[:, :9], incremental_state=state)
    return close(np.abs(got[:, -1] - whole[:, 8]).max(), np.abs(whole).max())


def our_prefill():
    model = our_retnet(16)
    whole, _ = our_logits(model, TOKENS)
    _, state = our_logits(model, TOKENS[:, :8])
    got, _ = our_logits(model, TOKENS[:, 8:9], state)
    return close(np.abs(got[:, 0] - whole[:, 8]).max(), np.abs(whole).max())


def official_padding():
    decoder = official_retnet()
    whole = official_logits(decoder, TOKENS)
    padded = np.concatenate([np.zeros((2, 5), int), TOKENS], axis=1)
    got = official_logits(decoder, padded)  # there is no mask to give
    return close(np.abs(got[:, 5:] - whole).max(), np.abs(whole).max())


def our_padding():
    model = our_retnet(16)
    whole, _ = our_logits(model, TOKENS)
    padded = np.concatenate([np.zeros((2, 5), int), TOKENS], axis=1)
    got, _ = our_logits(model, padded, None, np.arange(LENGTH + 5)[None].repeat(2, 0) >= 5)
    return close(np.abs(got[:, 5:] - whole).max(), np.abs(whole).max())


def official_reorder():
    decoder = official_retnet()
    names = [name for name in dir(decoder) if "reorder" in name]
    return Trial(bool(names), f"methods to reorder a state: {names or 'none'}")


def our_reorder():
    model = our_retnet(16)
    _, state = our_logits(model, TOKENS[:, :8])
    got, _ = our_logits(model, TOKENS[::-1, 8:9], language.reorder(state, jnp.array([1, 0])))
    want, _ = our_logits(model, TOKENS[:, 8:9], state)
    return close(np.abs(got[::-1] - want).max(), np.abs(want).max())


# --- KAN: pykan, jaxkan ------------------------------------------------------------------------------------------


def kan_config(degree=3, reach=1.0, knots="uniform"):
    return KanConfig(
        grid=Grid(-reach, reach, 5, degree, "fade"),
        basis="bspline",
        knots=knots,
        rational_groups=1,
        init="variance",
        spline_share=0.5,
        train_base=True,
        train_spline=True,
        spline_kind="dense",
    )


def kan_layer(width_in=2, width_out=5, seed=0, **options):
    kan = kan_config(**options)
    return KanLayer(width_in, width_out, kan=kan, kind="dense", activation_bits=8, rngs=nnx.Rngs(seed))


def in_an_empty_folder(build):
    """Names of the files that building something leaves behind."""
    before = pathlib.Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            build()
            return sorted(path.name for path in pathlib.Path(folder).rglob("*"))
        finally:
            os.chdir(before)


def pykan(**options):
    import kan

    return kan.KAN(**({"width": [2, 5, 1], "grid": 5, "k": 3, "auto_save": False, "device": "cpu"} | options))


def pykan_files():
    files = in_an_empty_folder(lambda: pykan(auto_save=True))  # its default
    return Trial(not files, f"files written by the constructor: {files}")


def our_files():
    files = in_an_empty_folder(kan_layer)
    return Trial(not files, f"files written by the constructor: {files}")


def pykan_randomness():
    import torch

    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        pykan()
        drawn.append(float(torch.rand(())))
    return Trial(drawn[0] != drawn[1], f"the next number after seeds 1 and 2: {drawn[0]:.4f}, {drawn[1]:.4f}")


def our_randomness():
    drawn = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002 - the global state is what is looked at
        kan_layer()
        drawn.append(float(np.random.rand()))  # noqa: NPY002
    return Trial(drawn[0] != drawn[1], f"the next number after seeds 1 and 2: {drawn[0]:.4f}, {drawn[1]:.4f}")


def pykan_degree_zero():
    import torch

    y = pykan(k=0)(torch.linspace(-0.9, 0.9, 20).reshape(10, 2))
    return Trial(bool(torch.isfinite(y).all()), "a finite output")


def our_degree_zero():
    y = kan_layer(degree=0)(jnp.linspace(-0.9, 0.9, 20).reshape(10, 2))
    return Trial(bool(jnp.isfinite(y).all()), "a finite output")


def through_layers(x, layers):
    """How much smaller or larger a signal is after some layers."""
    before = float(x.std())
    for layer in layers:
        x = layer(x)
    ratio = float(x.std()) / before
    return Trial(abs(ratio - 1) < 0.1, f"its size is {ratio:.2g} times what it was")


def pykan_size():
    import torch
    from kan.KANLayer import KANLayer

    torch.manual_seed(0)
    layers = [KANLayer(in_dim=64, out_dim=64, num=5, k=3, device="cpu") for _ in range(8)]
    return through_layers(2 * torch.rand(1000, 64) - 1, [lambda x, f=f: f(x)[0] for f in layers])


def our_size():
    layers = [kan_layer(64, 64, seed=seed, reach=3.0) for seed in range(8)]
    return through_layers(jax.random.normal(jax.random.key(9), (1000, 64)), layers)


def jaxkan(dims=(3, 3, 3), **options):
    from jaxkan.models.KAN import KAN

    return KAN(list(dims), layer_type="base", required_parameters={"k": 3, "G": 5} | options, seed=0)


def spread(number, width=3, scale=0.5):
    return scale * jax.random.normal(jax.random.key(1), (number, width))


def jaxkan_seeds():
    first, second = jaxkan().layers
    equal = bool(jnp.array_equal(first.c_basis[...], second.c_basis[...]))
    return Trial(not equal, f"two layers start {'equal' if equal else 'different'}")


def our_seeds():
    options = {"kan": kan_config(), "kind": "dense", "activation_bits": 8, "epsilon": 1e-6, "out_scale": 1.0}
    both = Kan(3, 3, rngs=nnx.Rngs(0), **options)
    equal = bool(jnp.array_equal(both.up.spline[...], both.down.spline[...]))
    return Trial(not equal, f"two layers start {'equal' if equal else 'different'}")


def jaxkan_state():
    model, x = jaxkan(), spread(200)
    model.update_grids(x, 5)
    again = jaxkan()
    nnx.update(again, nnx.state(model))
    return close(float(jnp.abs(again(x) - model(x)).max()), float(jnp.abs(model(x)).max()))


def jaxkan_one_sample():
    model = jaxkan()
    model.update_grids(spread(1), 5)
    finite = bool(jnp.isfinite(model(spread(4))).all())
    return Trial(finite, "finite after an update" if finite else "NaN after an update")


def our_state():
    x = spread(200)
    layer = refinement.update_grid(kan_layer(3, 3, knots="adaptive"), x, 0.02)
    again = kan_layer(3, 3, seed=1, knots="adaptive")
    nnx.update(again, nnx.state(layer))
    return close(float(jnp.abs(again(x) - layer(x)).max()), float(jnp.abs(layer(x)).max()))


def our_one_sample():
    layer = refinement.update_grid(kan_layer(3, 3, knots="adaptive"), spread(1), 0.02)
    finite = bool(jnp.isfinite(layer(spread(4))).all())
    return Trial(finite, "finite after an update" if finite else "NaN after an update")


# --- Ternary: bitnet ---------------------------------------------------------------------------------------------


def bitnet_levels():
    import torch
    from bitnet.bitlinear import weight_quant

    torch.manual_seed(0)
    levels = len(torch.unique(weight_quant(torch.randn(64, 64))))
    return Trial(levels == 3, f"{levels} levels")


def our_levels():
    weights = ternary.fake_quant_weight(jax.random.normal(jax.random.key(0), (64, 64)))
    levels = len(np.unique(np.asarray(weights)))
    return Trial(levels == 3, f"{levels} levels")


def bitnet_replacement():
    import torch
    from bitnet.replace_hf import replace_linears_in_pytorch_model

    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    before = model[0].weight.detach().clone()
    replace_linears_in_pytorch_model(model)
    kept = bool(torch.equal(model[0].weight, before))
    return Trial(kept, f"trained weights {'kept' if kept else 'replaced by random ones'}")


def our_replacement():
    model = our_retnet(16)
    ternary_model = quantize.quantize(model, "ternary", ["*"])
    pairs = zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(ternary_model)), strict=True)
    kept = all(bool(jnp.array_equal(old, new)) for old, new in pairs)
    return Trial(kept, f"trained weights {'kept' if kept else 'changed'}")


LAWS = (
    Law("torchscale", "parallel and chunkwise give the same logits", official_modes, our_modes),
    Law("torchscale", "every head forgets", official_decay, our_decay),
    Law("torchscale", "a prompt, then one token, is the whole pass", official_prefill, our_prefill),
    Law("torchscale", "left padding changes no logit", official_padding, our_padding),
    Law("torchscale", "a state can be reordered for a beam search", official_reorder, our_reorder),
    Law("pykan", "building a model writes no file", pykan_files, our_files),
    Law("pykan", "building a model leaves the global random state alone", pykan_randomness, our_randomness),
    Law("pykan", "degree 0 works", pykan_degree_zero, our_degree_zero),
    Law("pykan", "eight 64-wide layers keep the size of a signal", pykan_size, our_size),
    Law("jaxkan", "layers start from different numbers", jaxkan_seeds, our_seeds),
    Law("jaxkan", "a saved state holds the grid", jaxkan_state, our_state),
    Law("jaxkan", "one sample updates a grid", jaxkan_one_sample, our_one_sample),
    Law("bitnet", "b1.58 weights have three levels", bitnet_levels, our_levels),
    Law("bitnet", "replacing the linear layers keeps what was trained", bitnet_replacement, our_replacement),
)
PEERS = ("torchscale", "pykan", "jaxkan", "bitnet")


def attempt(trial: Callable[[], Trial]) -> Trial | None:
    """A peer that crashes has not kept the law either; None without it or what it needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return trial()
        except ModuleNotFoundError:
            return None
        except Exception as error:
            return Trial(False, f"{type(error).__name__}: {' '.join(str(error).split())[:70]}")


def cell(trial: Trial | None) -> str:
    if trial is None:
        return "not installed"
    return f"{'holds' if trial.holds else '**fails**'}: {trial.seen}"


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main():
    lines = ["| peer | law | peer | MixKABRN |", "|---|---|---|---|"]
    broken = 0
    for law in LAWS:
        ours = attempt(law.ours)
        broken += ours is not None and not ours.holds
        lines.append(f"| {law.peer} | {law.text} | {cell(attempt(law.theirs))} | {cell(ours)} |")
        print(lines[-1], flush=True)
    versions = ", ".join(f"{name} {version(name)}" for name in (*PEERS, "torch", "jax"))
    header = f"{datetime.date.today()}; {platform.machine()}, Python {platform.python_version()}; {versions}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "faults.md").write_text("\n".join([f"`python -m benchmarks.faults`, {header}", "", *lines, ""]))
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()
