import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.evaluation import score
from mixkabrn_jax.evaluation.score import Scorer
from mixkabrn_jax.models import surgery
from mixkabrn_jax.models.language import LanguageModel
from tests import toy

TOKENIZER = tokenizers.Characters("abcdefgh\u00e4")
LETTERS = "abcdefgh\u00e4"
WINDOW = 16


def text(seed, size):
    return "".join(LETTERS[i] for i in toy.tokens(seed, size, vocab_size=len(LETTERS))).encode()


DOCUMENTS = [Document(text(i, size), f"d{i % 2}", f"{i}") for i, size in enumerate((3, 40, 15, 0, 22, 1, 7))]


@pytest.fixture(scope="module")
def models():
    """Toy models by name."""
    small = {"ffn": "mlp", "num_experts": 0}
    configs = {
        "retention": toy.model_config(**small),
        "attention": toy.model_config(mixer="attention", **small),
        "experts": toy.model_config(ffn="mlp", router__capacity_factor=0.6),
    }
    return {name: toy.make(config, vocab_size=TOKENIZER.vocab_size) for name, config in configs.items()}


def direct(model: LanguageModel, content: bytes):
    """(nats of each token of a document and its separator, whether each is the likeliest, how far rounding may take
    one of them), by one call of the model."""
    tokens = TOKENIZER.encode(content)
    return nats_of(model, np.concatenate([[TOKENIZER.separator], tokens, [TOKENIZER.separator]]))


def nats_of(model, stream):
    """The same of tokens, each but the first."""
    # What comes behind changes nothing, and one length is one program.
    padded = np.zeros((1, 64), np.int32)
    padded[0, : len(stream) - 1] = stream[:-1]
    logits = np.asarray(_logits(model, padded)[0, : len(stream) - 1], np.float64)
    nats = np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(logits)), stream[1:]]
    bound = 2 * np.max(toy.rounding(logits, model.config, len(stream)))
    return nats, logits.argmax(axis=-1) == stream[1:], bound


@jax.jit
def _logits(model, tokens_BT):
    return model(tokens_BT).logits_BTW


def by_id(scorer, documents=DOCUMENTS, **options):
    return {scored.id: scored for scored in scorer.documents(documents, **options)}


def test_a_uniform_model_scores_the_logarithm_of_the_vocabulary_for_each_token(models):
    model = surgery.copy(models["retention"])
    assert model.config.tied_embeddings
    model.embedding_WD = nnx.Param(jnp.zeros_like(model.embedding_WD[...]), letters="WD")
    scorer = Scorer(model, TOKENIZER, WINDOW, 32)
    for windowed in (False, True):
        for scored in scorer.documents(DOCUMENTS, windowed=windowed):
            want = math.log(TOKENIZER.vocab_size)
            assert scored.nats == pytest.approx(scored.num_tokens * want, rel=2**-23)
            assert scored.separator_nats == pytest.approx(want, rel=2**-23)


@pytest.mark.parametrize("chunk_tokens", [4, 32])
def test_the_state_carried_from_row_to_row_is_one_pass_over_the_document(models, chunk_tokens):
    found = by_id(Scorer(models["retention"], TOKENIZER, WINDOW, chunk_tokens))
    for document in DOCUMENTS:
        nats, _, bound = direct(models["retention"], document.content)
        scored = found[document.id]
        assert scored.nats == pytest.approx(nats[:-1].sum(), abs=bound * len(nats))
        assert scored.separator_nats == pytest.approx(nats[-1], abs=bound)
        assert (scored.num_bytes, scored.num_tokens) == (len(document.content), len(document.content.decode()))
        assert scored.domain == document.domain


@pytest.mark.parametrize("name", ["retention", "attention", "experts"])
def test_a_documents_score_does_not_depend_on_the_others(models, name):
    """Exactly, where it comes to lie on the same places of retention's chunks; experts drop nothing."""
    scorer = Scorer(models[name], TOKENIZER, WINDOW, 32)
    together, reversed_ = by_id(scorer), by_id(scorer, DOCUMENTS[::-1])
    alone = {document.id: next(scorer.documents([document])) for document in DOCUMENTS}
    for scored in together.values():
        others = [alone[scored.id].nats, reversed_[scored.id].nats]
        if name == "attention":  # a softmax over a row of others adds zeros, in another order
            assert scored.nats == pytest.approx(others[0], rel=1e-6, abs=1e-6)
        else:
            assert [scored.nats] * 2 == others
    assert [scored.id for scored in scorer.documents(DOCUMENTS)] == [document.id for document in DOCUMENTS]


@pytest.mark.parametrize("name", ["retention", "attention"])
def test_windows_are_documents_of_their_own_that_begin_with_the_token_before(models, name):
    content = text(9, 40)
    found = list(Scorer(models[name], TOKENIZER, WINDOW, 32).pieces([Document(content, "", "")], windowed=True))
    stream = np.concatenate([[TOKENIZER.separator], TOKENIZER.encode(content), [TOKENIZER.separator]])
    nats = np.concatenate([*(piece.nats_T for piece in found), [found[-1].separator_nats]])
    for start in range(0, 41, WINDOW):
        tokens = stream[start : start + WINDOW + 1]
        want, _, bound = nats_of(models[name], tokens)
        np.testing.assert_allclose(nats[start : start + WINDOW], want, rtol=0, atol=bound)


def test_both_orders_agree_where_a_document_fits_a_window_and_only_there(models):
    scorer = Scorer(models["retention"], TOKENIZER, WINDOW, 32)
    carried, windowed = by_id(scorer), by_id(scorer, windowed=True)
    for document in DOCUMENTS:
        fits = len(document.content.decode()) < WINDOW
        assert (carried[document.id].nats == pytest.approx(windowed[document.id].nats, rel=1e-5)) == fits


def test_a_document_in_parts_is_one_document(models):
    scorer = Scorer(models["retention"], TOKENIZER, WINDOW, 32)
    content = b"".join(document.content for document in DOCUMENTS)
    parts = [dataclasses.replace(document, id="x", continues=True) for document in DOCUMENTS[:-1]]
    parts.append(dataclasses.replace(DOCUMENTS[-1], id="x"))
    for windowed in (False, True):
        (whole,) = scorer.documents([Document(content, "d0", "x")], windowed=windowed)
        (found,) = scorer.documents(parts, windowed=windowed)
        assert dataclasses.astuple(found) == dataclasses.astuple(whole)


def test_a_document_without_end_is_scored_in_constant_memory_by_one_program(models):
    scorer = Scorer(models["retention"], TOKENIZER, WINDOW, 32)
    read = itertools.count()
    parts = (Document(text(next(read), 50), "", "endless", continues=True) for _ in itertools.repeat(None))
    before = score._score._cache_size()
    list(scorer.documents(DOCUMENTS))
    num_tokens = sum(len(piece.nats_T) for piece in itertools.islice(scorer.pieces(parts), 200))
    assert next(read) <= num_tokens / 50 + 2
    assert score._score._cache_size() <= before + 1


@pytest.mark.parametrize("name", ["retention", "attention"])
def test_a_continuation_is_worth_what_it_adds_to_its_context(models, name):
    scorer = Scorer(models[name], TOKENIZER, 32, 32)
    pairs = [(text(1, 9), text(2, 5)), (b"", text(3, 4)), (text(4, 6), b""), (b"", b""), (text(5, 20), text(6, 1))]
    for (context, continuation), found in zip(pairs, scorer.loglikelihood(pairs), strict=True):
        nats, is_greedy, bound = direct(models[name], context + continuation)
        own = slice(len(context.decode()), -1)
        assert found.nats == pytest.approx(nats[own].sum(), abs=bound * len(nats))
        assert (found.tokens, found.is_greedy) == (len(continuation.decode()), is_greedy[own].all())


def test_what_the_model_would_write_is_greedy_and_nothing_else(models):
    scorer = Scorer(models["retention"], TOKENIZER, WINDOW, 32)
    contexts = [text(seed, 5) for seed in range(6)]
    written = scorer.complete(contexts, 4)
    others = [text(seed + 50, 4) for seed in range(6)]
    assert any(written)
    assert all(one.is_greedy for one in scorer.loglikelihood(list(zip(contexts, written, strict=True))))
    assert not any(one.is_greedy for one in scorer.loglikelihood(list(zip(contexts, others, strict=True))))


def test_attention_sees_the_end_of_a_context_that_is_too_long(models):
    scorer = Scorer(models["attention"], TOKENIZER, WINDOW, 32)
    context, continuation = text(1, 30), text(2, 5)
    (found,) = scorer.loglikelihood([(context, continuation)])
    tokens = TOKENIZER.encode(context + continuation)[-WINDOW - 1 :]
    nats, _, bound = nats_of(models["attention"], tokens)
    assert found.nats == pytest.approx(nats[-5:].sum(), abs=5 * bound)
    assert found.tokens == 5


@pytest.mark.parametrize("name", ["retention", "attention"])
def test_prompts_side_by_side_get_what_each_gets_alone(models, name):
    prompts = [text(seed, size) for seed, size in enumerate((4, 20, 0, 9))]
    found = Scorer(models[name], TOKENIZER, WINDOW).complete(prompts, 12)
    for prompt, completion in zip(prompts, found, strict=True):
        tokens = list(np.concatenate([[TOKENIZER.separator], TOKENIZER.encode(prompt)]))
        for letter in [*TOKENIZER.encode(completion), TOKENIZER.separator][:12]:
            padded = np.array([tokens + [0] * (64 - len(tokens))], np.int32)
            assert _logits(models[name], padded)[0, len(tokens) - 1].argmax() == letter
            tokens.append(letter)


def test_a_completion_ends_before_its_stop(models):
    scorer = Scorer(models["retention"], TOKENIZER, WINDOW)
    prompts = [text(seed, 6) for seed in range(5)]
    whole = scorer.complete(prompts, 32, temperature=1.0, seed=3)
    stop = [b"ab", "\u00e4".encode()]
    want = [min((one.partition(each)[0] for each in stop), key=len) for one in whole]
    assert scorer.complete(prompts, 32, stop, temperature=1.0, seed=3) == want != whole
    with pytest.raises(ValueError, match="empty text"):
        scorer.complete(prompts, 3, [b""])


def test_equal_prompts_get_continuations_of_their_own_and_a_seed_gives_the_same_ones(models):
    scorer = Scorer(models["retention"], TOKENIZER, WINDOW)
    first = scorer.complete([b"abc"] * 20, 12, temperature=1.0, seed=1)
    assert scorer.complete([b"abc"] * 20, 12, temperature=1.0, seed=1) == first
    longer = [each for each in first if len(each) > 3]  # the random model ends some at once
    assert len(set(longer)) == len(longer) > 8
    assert scorer.complete([b"abc"] * 20, 12, temperature=1.0, seed=2) != first


def test_sizes_out_of_range_are_named(models):
    for arguments, message in (((WINDOW, -1), "chunk_tokens=-1"), ((0,), "sequence_length=0")):
        with pytest.raises(ValueError, match=message):
            Scorer(models["retention"], TOKENIZER, *arguments)
    with pytest.raises(ValueError, match="vocab_size=10"):
        Scorer(models["retention"], tokenizers.Bytes(), WINDOW)
