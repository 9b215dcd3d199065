import functools

import jax
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.inference import generate as generation
from mixkabrn_jax.inference.sampling import Sampling
from mixkabrn_jax.training import optimizer, step
from tests import toy

GREEDY = Sampling(temperature=0.0)
DRAWN = Sampling(temperature=1.0, top_k=20)
MIXERS = ("retention", "attention")
forward = jax.jit(lambda model, tokens: model(tokens).logits_BTW)


@functools.cache
def model(mixer="retention", linear="dense", num_experts=0):
    return toy.make(toy.model_config(mixer=mixer, linear=linear, num_experts=num_experts, ffn="mlp"))


def generate(model, prompt, max_tokens, sampling=DRAWN, seed=0, stop_token=None, mask=None):
    """The continuation of each row, `[B, number]`."""
    options = {"max_tokens": max_tokens, "sampling": sampling, "seed": seed, "stop_token": stop_token, "mask": mask}
    return np.array(list(generation.generate(model, prompt, **options)), np.int32).T


@pytest.mark.parametrize(
    ("mixer", "linear", "num_experts"),
    [
        pytest.param("retention", "dense", 0, marks=pytest.mark.slow),
        ("attention", "dense", 4),
        ("retention", "ternary", 4),
    ],
)
def test_greedy_tokens_are_the_best_of_the_whole_pass_repeated(mixer, linear, num_experts):
    prompt, number = toy.tokens(1, 3, 6), 14
    got = generate(model(mixer, linear, num_experts), prompt, number, GREEDY)
    tokens = np.zeros((3, 6 + number), np.int32)  # what comes later changes nothing: one shape, one compilation
    tokens[:, :6] = prompt
    for t in range(6, 6 + number):
        tokens[:, t] = np.asarray(forward(model(mixer, linear, num_experts), tokens))[:, t - 1].argmax(axis=-1)
    np.testing.assert_array_equal(got, tokens[:, 6:])
    assert len(np.unique(got)) > 3


@pytest.mark.parametrize("mixer", ["retention", pytest.param("attention", marks=pytest.mark.slow)])
def test_tokens_depend_on_the_seed_and_not_on_how_many_are_asked_for(mixer):
    prompt, number = toy.tokens(1, 3, 6), generation.STRIDE + 3
    whole = generate(model(mixer), prompt, number)
    assert whole.shape == (3, number)
    for fewer in (1, generation.STRIDE, number - 1):
        np.testing.assert_array_equal(generate(model(mixer), prompt, fewer), whole[:, :fewer])
    assert not generate(model(mixer), prompt, 0).size
    np.testing.assert_array_equal(generate(model(mixer), prompt, number), whole)
    assert (generate(model(mixer), prompt, number, seed=1) != whole).any()


@pytest.fixture
def stride(monkeypatch):
    """Sets the stride, which is a constant of the compiled programs."""

    def set_stride(value):
        monkeypatch.setattr(generation, "STRIDE", value)
        generation._decode.clear_cache()

    yield set_stride
    generation._decode.clear_cache()


def test_tokens_and_their_end_do_not_depend_on_the_stride(stride):
    """A row that has drawn the stop token goes on drawing it; when all rows have, that is the end."""
    prompt = toy.tokens(1, 3, 6)
    want = generate(model(num_experts=4), prompt, 2 * generation.STRIDE)
    stop = next(int(token) for token in want[0, 4:] if all(token in row[:-1] for row in want))
    ends = [np.flatnonzero(row == stop)[0] for row in want]
    assert max(ends) + 1 < want.shape[1]
    for row, end in zip(want, ends, strict=True):
        row[end:] = stop
    for number in (generation.STRIDE, 5):
        stride(number)
        got = generate(model(num_experts=4), prompt, want.shape[1], stop_token=stop)
        np.testing.assert_array_equal(got[:, : max(ends) + 1], want[:, : max(ends) + 1])
        assert got.shape[1] == max(ends) + 1


@pytest.mark.parametrize(("mixer", "length"), [("attention", 6), ("retention", 1)])
def test_rows_do_not_see_each_other(mixer, length):
    prompt = toy.tokens(1, 3, length)
    together = generate(model(mixer), prompt, 14, GREEDY)
    alone = np.concatenate([generate(model(mixer), prompt[row : row + 1], 14, GREEDY) for row in range(3)])
    np.testing.assert_array_equal(together, alone)


def test_rows_of_one_prompt_are_drawn_apart_by_seeds_that_count_up():
    prompt = np.repeat(toy.tokens(1, 1, 6), 3, axis=0)
    got = generate(model(), prompt, generation.STRIDE, seed=2**32 - 2)
    assert len({tuple(row) for row in got}) == 3
    np.testing.assert_array_equal(generate(model(), prompt, generation.STRIDE, seed=[2**32 - 2, 2**32 - 1, 0]), got)


def test_a_penalty_is_for_tokens_of_the_prompt_and_what_was_written_but_not_for_the_stop():
    prompt, number, stop = toy.tokens(1, 2, 6), 20, 4
    prompt[:, 2] = stop
    sampling = Sampling(temperature=0.0, repetition_penalty=100.0)
    got = generate(model(), prompt, number, sampling, stop_token=stop)
    tokens = np.concatenate([prompt, np.zeros((2, number), np.int32)], axis=1)
    for t in range(6, 6 + got.shape[1]):
        for row, logits in enumerate(np.asarray(forward(model(), tokens))[:, t - 1]):
            has_stopped = stop in tokens[row, 6:t]
            seen = np.isin(np.arange(len(logits)), tokens[row, :t]) & (np.arange(len(logits)) != stop)
            penalized = np.where(seen, np.where(logits > 0, logits / 100, logits * 100), logits)
            tokens[row, t] = stop if has_stopped else penalized.argmax()
    np.testing.assert_array_equal(got, tokens[:, 6 : 6 + got.shape[1]])
    assert (got != generate(model(), prompt, number, GREEDY, stop_token=stop)[:, : got.shape[1]]).any()


@pytest.mark.parametrize("mixer", MIXERS)
def test_rows_of_different_lengths_are_continued_as_each_alone_with_its_seed(mixer):
    prompt, mask, drawn = toy.tokens(1, 3, 9), np.ones((3, 9), np.int32), Sampling(repetition_penalty=1.5)
    mask[0, :4], mask[1, 5:] = 0, 0
    seeds = [7, 2**32 - 1, 7]
    together = generate(model(mixer), prompt, 9, drawn, seeds, mask=mask)
    for row in range(3):
        alone = generate(model(mixer), prompt[row : row + 1, mask[row] == 1], 9, drawn, seeds[row])
        np.testing.assert_array_equal(together[row : row + 1], alone)
    with pytest.raises(ValueError, match="at least one token in each row"):
        generation.generate(model(mixer), prompt, max_tokens=9, sampling=GREEDY, seed=0, mask=0 * mask)


RULE_MODEL = {"ffn": "mlp", "num_experts": 0}


def trained(num_steps=60):
    """A model of retention that has learnt a rule: rows count up by five."""
    stream = ((np.arange(13) * 5)[None] + np.arange(4)[:, None]).astype(np.int32) % toy.VOCAB_SIZE
    batch = toy.batch(0) | {"tokens": stream[:, :-1], "targets": stream[:, 1:]}
    batch |= {"segment_ids": np.ones((4, 12), np.int32), "loss_mask": np.ones((4, 12), np.float32)}
    start = toy.make(toy.model_config(**RULE_MODEL))
    adamw = optimizer.make(optimizer.OptimizerConfig(**toy.section("optimizer")), num_steps)
    update, state = jax.jit(toy.train_step(start, adamw)), step.init(start, adamw)
    for _ in range(num_steps):
        state = update(state, batch)
    return nnx.merge(nnx.graphdef(start), state.params, state.buffers), stream


@pytest.mark.slow
def test_a_trained_retention_model_writes_the_same_by_all_three_orders():
    chunkwise, stream = trained()
    prompt, number = stream[:, :6], 14
    want = generate(chunkwise, prompt, number, GREEDY)
    np.testing.assert_array_equal(want[:, :7], stream[:, 6:])  # it has learnt

    one_chunk = toy.make(toy.model_config(**RULE_MODEL, retention__chunk_size=64))
    parallel = nnx.merge(nnx.graphdef(one_chunk), nnx.state(chunkwise))
    tokens = np.concatenate([prompt, np.zeros((4, number), np.int32)], axis=1)
    for t in range(6, 6 + number):
        tokens[:, t] = np.asarray(forward(parallel, tokens))[:, t - 1].argmax(axis=-1)
    np.testing.assert_array_equal(tokens[:, 6:], want)

    one = jax.jit(lambda model, token, state: model.step(token, state))
    state, written = chunkwise.init_state(4, None), []
    for t in range(6 + number - 1):
        logits, state = one(chunkwise, prompt[:, t] if t < 6 else written[-1], state)
        if t >= 5:
            written.append(np.asarray(logits).argmax(axis=-1))
    np.testing.assert_array_equal(np.stack(written, axis=1), want)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (3,)])
def test_an_empty_prompt_is_refused_at_the_call(shape):
    with pytest.raises(ValueError, match="at least one token"):
        generation.generate(model(), np.zeros(shape, np.int32), max_tokens=1, sampling=GREEDY, seed=0)


def test_a_negative_number_of_tokens_is_refused_at_the_call():
    with pytest.raises(ValueError, match="max_tokens=-1"):
        generation.generate(model(), np.zeros((1, 1), np.int32), max_tokens=-1, sampling=GREEDY, seed=0)


@pytest.mark.parametrize("seed", [-1, 2**32, [0, -1], [0], [0, 1, 2]])
def test_seeds_that_cannot_be_are_refused_at_the_call(seed):
    with pytest.raises(ValueError, match=r"seed=.*(0 to 4294967295|each of the 2 rows,) is needed"):
        generation.generate(model(), np.zeros((2, 1), np.int32), max_tokens=1, sampling=GREEDY, seed=seed)
