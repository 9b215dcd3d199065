"""The official RetNet's weights: its numbers here, ours there."""

import jax
import numpy as np
import pytest

from mixkabrn_jax.inference.generate import generate
from mixkabrn_jax.inference.sampling import Sampling
from mixkabrn_jax.interop import torchscale
from mixkabrn_jax.models import quantize
from tests import reference, toy

forward = jax.jit(lambda model, tokens: model(tokens).logits_BTW)
RETNET = {
    "ffn": "swiglu",
    "num_experts": 0,
    "sub_norm": False,
    "conv_size": 1,
    "rotary__layout": "interleaved",
    "value_width": 12,
    "retention__first_decay_exponent": 5.0,
}


@pytest.fixture(scope="module")
def peer():
    arrays = reference.golden("retnet_lm")
    params = {name.removeprefix("param/"): array for name, array in arrays.items() if name.startswith("param/")}
    return arrays, params


def test_logits_are_those_of_the_official_model(peer):
    arrays, params = peer
    model = torchscale.load(params, num_heads=int(arrays["heads"]), activation=str(arrays["activation"]))
    got = forward(model, arrays["ids"].astype(np.int32))
    # Two layers of sums over widths of 32 to 64 and 24 positions. torchscale's own modes differ by 5e-4 of 8.3.
    reference.assert_close(got, arrays["logits"], terms=2 * (3 * 32 + 3 * 64 + 24))


def test_the_greedy_continuation_is_that_of_the_official_model(peer):
    arrays, params = peer
    model = torchscale.load(params, num_heads=int(arrays["heads"]), chunk_size=4)
    want = arrays["greedy"]
    tokens = generate(model, want[:, :6], max_tokens=want.shape[1] - 6, sampling=Sampling(temperature=0.0), seed=0)
    np.testing.assert_array_equal(np.stack(list(tokens), axis=1), want[:, 6:])


def retnet(**changes):
    return toy.make(toy.model_config(**(RETNET | changes)))


@pytest.mark.parametrize("naming", torchscale.NAMINGS)
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"tied_embeddings": False}, {"activation": "swish"}),
        ({"ffn": "geglu", "retention__decay": "lm", "embedding_scale": 4.0}, {"decay": "lm", "embedding_scale": 4.0}),
    ],
)
def test_what_is_saved_is_loaded_bit_for_bit(naming, changes, options):
    model = retnet(**changes)
    params = torchscale.save(model, naming)
    again = torchscale.load(params, num_heads=2, chunk_size=model.config.retention.chunk_size, **options)
    for got, want in zip(jax.tree.leaves(again), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(got, want)
    tokens = toy.tokens(0, 2, 9)
    reference.assert_close(forward(again, tokens), forward(model, tokens))


def test_both_namings_are_those_of_the_libraries():
    official = torchscale.save(retnet())
    port = torchscale.save(retnet(), "huggingface")
    assert "layers.1.retention.g_proj.weight" in official
    assert official["layers.0.retention.v_proj.weight"].shape == (24, 16)
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.layers.0.ffn.fc1.weight"} < port.keys()
    # One angle for each feature and one decay for each head: buffers that a strict load_state_dict asks for.
    np.testing.assert_allclose(official["retnet_rel_pos.angle"], np.repeat(1e4 ** -np.linspace(0, 1, 4), 2), rtol=1e-6)
    np.testing.assert_allclose(official["retnet_rel_pos.decay"], np.log(1 - 2.0 ** -np.arange(5, 7)), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"layers.1.ffn.gate.weight": None}, {}, r"missing \['layers\.1\.ffn\.gate\.weight'\]"),
        ({"layers.0.ffn.fc1.bias": np.zeros(3)}, {}, r"unknown \['layers\.0\.ffn\.fc1\.bias'\]"),
        ({"layer_norm.weight": np.ones(3)}, {}, r"final_norm\.scale_D needs shape \(16,\)"),
        ({"layers.1.ffn.fc1.weight": np.ones((3, 16))}, {}, r"layers\.\*\.ffn\.fc1\.weight differs in shape"),
        ({}, {"num_heads": 3}, "num_heads=3 does not divide the width 16"),
        ({}, {"num_heads": 4}, r"retnet_rel_pos\.angle of the checkpoint"),
        ({}, {"decay": "lm"}, r"retnet_rel_pos\.decay of the checkpoint is .* decay='lm'"),
        ({}, {"decay": "learned"}, "decay='learned'"),
        ({}, {"num_heads": 0}, "num_heads=0"),
        ({"layers.x.foo": np.ones(1)}, {}, r"unknown \['layers\.x\.foo'\]"),
        ({"embed_tokens.weight": np.ones(3)}, {}, r"embed_tokens\.weight of shape \(3,\)"),
        ({}, {"activation": "tanh"}, "activation='tanh'"),
        (
            {"layernorm_embedding.weight": np.ones(3)},
            {},
            r"layernorm_embedding\.weight of shape \(3,\): \(16,\) is needed",
        ),
        ({"layernorm_embedding.bias": np.ones(16)}, {}, r"unknown \['layernorm_embedding\.bias'\]"),
        (
            {"layernorm_embedding.weight": np.ones(16), "embed_tokens.weight": None},
            {},
            r"missing \['embed_tokens\.weight'\]",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_its_reason(changes, options, message):
    params = {name: array for name, array in (torchscale.save(retnet()) | changes).items() if array is not None}
    with pytest.raises(ValueError, match=message):
        torchscale.load(params, **({"num_heads": 2, "activation": "swish"} | options))


@pytest.mark.parametrize("tied", [True, False])
def test_a_norm_behind_the_embedding_is_loaded_as_a_part_of_it(tied):
    """As the HF-style port's shipped configs have it (layernorm_embedding: true, no_scale_embedding: false)."""
    epsilon, scale = 1e-5, 4.0  # sqrt(d_model)
    params = torchscale.save(retnet(tied_embeddings=tied, norm_epsilon=epsilon), "huggingface")
    weight_D = 1 + 0.1 * reference.normal(3, 16)
    options = {"num_heads": 2, "activation": "swish", "norm_epsilon": epsilon}
    loaded = torchscale.load(params | {"model.layernorm_embedding.weight": weight_D}, embedding_scale=scale, **options)
    plain = torchscale.load(params, **options)
    # The definition: the table's rows scaled, divided by their size, weighted, and then all that comes after.
    scaled = scale * params["model.embed_tokens.weight"].astype(np.float64)
    rows = scaled / np.sqrt((scaled**2).mean(axis=-1, keepdims=True) + epsilon) * weight_D
    reference.assert_close(loaded.embedding_WD[...], rows)
    want = torchscale.load(
        params | {"model.embed_tokens.weight": rows, "lm_head.weight": params["lm_head.weight"]}, **options
    )
    tokens = toy.tokens(0, 2, 9)
    np.testing.assert_array_equal(forward(loaded, tokens), forward(want, tokens))
    assert np.abs(forward(loaded, tokens) - forward(plain, tokens)).max() > 0.1


def test_no_checkpoint_at_all_is_refused():
    with pytest.raises(ValueError, match="a RetNet of 0 layers"):
        torchscale.load({}, num_heads=2)


NOT_A_RETNET = (
    *({"ffn": "kan"}, {"mixer": "attention"}, {"linear": "ternary"}, {"conv_size": 3}),
    *({"retention__first_decay_exponent": 3.0}, {"retention__decay": "learned"}),
)


@pytest.mark.parametrize("changes", NOT_A_RETNET)
def test_a_model_that_is_no_retnet_is_not_saved_as_one(changes):
    field = next(iter(changes)).replace("__", r"\.")
    with pytest.raises(ValueError, match=rf"config\.model\.{field}="):
        torchscale.save(retnet(**changes))


@pytest.mark.parametrize("integers", [False, True])
def test_a_retnet_that_was_quantised_is_not_saved_as_a_dense_one(integers):
    model = quantize.quantize(retnet(), "ternary", ["*.mixer.query"])
    with pytest.raises(ValueError, match=r"dense_blocks\.mixer\.query holds (ternary|integers) weights"):
        torchscale.save(quantize.to_integers(model) if integers else model)


@pytest.mark.parametrize("changes", [{"tied_embeddings": False}, {"ffn": "geglu"}])
def test_torchscale_itself_computes_our_logits_from_our_weights(changes):
    torch = pytest.importorskip("torch", reason="torch is not installed: benchmarks/requirements-peers.txt has it")
    architecture = pytest.importorskip("torchscale.architecture.retnet", reason="torchscale is not installed")
    from torchscale.architecture.config import RetNetConfig

    model, tokens = retnet(**changes), toy.tokens(0, 2, 9)
    config = model.config
    decoder = architecture.RetNetDecoder(
        RetNetConfig(
            decoder_embed_dim=config.d_model,
            decoder_value_embed_dim=config.num_heads * config.value_width,
            decoder_retention_heads=config.num_heads,
            decoder_ffn_embed_dim=config.hidden_width,
            decoder_layers=config.num_layers,
            vocab_size=model.vocab_size,
            activation_fn={ours: theirs for theirs, ours in torchscale.ACTIVATIONS.items()}[config.ffn],
            no_output_layer=False,
            layernorm_eps=config.norm_epsilon,
        ),
        embed_tokens=torch.nn.Embedding(model.vocab_size, config.d_model),
    )
    if not hasattr(decoder, "output_projection") or decoder.output_projection is None:
        decoder.output_projection = torch.nn.Linear(config.d_model, model.vocab_size, bias=False)
    decoder.load_state_dict({name: torch.tensor(array) for name, array in torchscale.save(model).items()})
    decoder.eval()
    with torch.no_grad():
        want = decoder(torch.tensor(tokens, dtype=torch.long))[0].numpy()
    # Its parallel mode clamps rows and divides by their sizes before epsilon acts.
    reference.assert_close(forward(model, tokens), want, atol=6e-5 * np.abs(want).max())
