"""Laws of retention that the official RetNet, torchscale, breaks."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.laws.verdict import Law, Verdict, close
from mixkabrn_jax.interop import torchscale
from mixkabrn_jax.models import language
from mixkabrn_jax.ops import retention

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
    # In float64, where a difference is none of rounding.
    parallel, chunkwise = (official_logits(official_retnet(mode).double(), TOKENS) for mode in (False, True))
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
    return Verdict(still == 0, f"{still} of 32 heads never forget")


def our_decay():
    still = int(np.sum(np.asarray(retention.log_decay(32)) == 0))
    return Verdict(still == 0, f"{still} of 32 heads never forget")


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
    return Verdict(bool(names), f"methods to reorder a state: {names or 'none'}")


def our_reorder():
    model = our_retnet(16)
    _, state = our_logits(model, TOKENS[:, :8])
    got, _ = our_logits(model, TOKENS[::-1, 8:9], language.reorder(state, jnp.array([1, 0])))
    want, _ = our_logits(model, TOKENS[:, 8:9], state)
    return close(np.abs(got[::-1] - want).max(), np.abs(want).max())


LAWS = (
    Law("torchscale", "parallel and chunkwise give the same logits", official_modes, our_modes),
    Law("torchscale", "every head forgets", official_decay, our_decay),
    Law("torchscale", "a prompt, then one token, is the whole pass", official_prefill, our_prefill),
    Law("torchscale", "left padding changes no logit", official_padding, our_padding),
    Law("torchscale", "a state can be reordered for a beam search", official_reorder, our_reorder),
)
