"""OpenAI's fields, and the texts that they ask for."""

import itertools
import json
import string

import pytest

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.runs import model_file
from mixkabrn_run.completions import Limits, Refusal, parse
from mixkabrn_run.language import load
from mixkabrn_run.sampling import Sampling
from tests import toy

LIMITS = Limits(max_prompt_tokens=20, max_tokens=50, max_choices=4)


def toy_file(folder, template=None):
    """The path of a model whose tokens are characters, those of a template among them."""
    signs = {*f" {string.ascii_letters}é", *"".join(itertools.chain(*template or ()))}
    characters, path = tokenizers.Characters("".join(sorted(signs))), folder / "toy.safetensors"
    characters.template = template
    model = toy.make(toy.model_config(), vocab_size=characters.vocab_size)
    path.write_bytes(model_file.to_bytes(model, characters, toy.document()))
    return path


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    return load(toy_file(tmp_path_factory.mktemp("run")), "numpy")


def asked(language, **fields):
    return parse(json.dumps(fields).encode(), {"toy": language}, LIMITS)


def written(language, request):
    """The texts of a request, as a server joins them."""
    return ["".join(choice.pieces(language, request)) for choice in request.choices]


def test_a_text_is_that_of_the_same_seed_without_a_server(language):
    request = asked(language, prompt="The toe", max_tokens=40, temperature=0.7, top_k=5, top_p=0.9, min_p=0.01, seed=3)
    want = "".join(language.complete("The toe", max_tokens=40, sampling=Sampling(0.7, 5, 0.9, 0.01), seed=3))
    assert written(language, request) == [want]
    assert want


def test_each_step_of_the_model_is_a_step_of_its_own(language):
    request = asked(language, prompt="The toe", max_tokens=5, seed=1, echo=True)
    pieces = list(request.choices[0].pieces(language, request))
    assert pieces[:8] == ["The toe", *[""] * 7]
    assert len(pieces) <= 8 + 5 + 1


def test_choices_draw_with_seeds_from_the_one_given_on(language):
    request = asked(language, prompt=["The", "hoe"], n=2, max_tokens=20, seed=(1 << 32) - 1)
    want = [
        "".join(language.complete(prompt, max_tokens=20, sampling=Sampling(1.0), seed=seed))
        for prompt in ("The", "hoe")
        for seed in ((1 << 32) - 1, 0)
    ]
    assert written(language, request) == want


def test_without_a_seed_two_requests_are_drawn_apart(language):
    seeds = {asked(language).choices[0].seed for _ in range(8)}
    assert len(seeds) > 1


def test_usage_counts_a_prompt_once_and_the_tokens_drawn(language):
    request = asked(language, prompt=["The", "hoe "], n=2, max_tokens=30, seed=5)
    texts = written(language, request)
    assert request.usage() == {
        "prompt_tokens": 7,
        "completion_tokens": sum(map(len, texts)),  # a token is a character
        "total_tokens": 7 + sum(map(len, texts)),
    }
    for text, choice in zip(texts, request.choices, strict=True):
        assert choice.finish_reason == ("length" if len(text) == 30 else "stop")


def test_a_text_ends_before_the_first_stop_string(language):
    texts = ((seed, *written(language, asked(language, max_tokens=50, seed=seed))) for seed in range(50))
    seed, text = next((seed, text) for seed, text in texts if len(text) > 20)
    stop = text[7:9]
    request = asked(language, max_tokens=50, seed=seed, stop=["not there", stop])
    assert written(language, request) == [text[: text.index(stop)]]
    assert request.choices[0].finish_reason == "stop"
    assert request.usage()["completion_tokens"] == text.index(stop) + len(stop)


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b"{", None, "the body is no JSON"),
        (b"[" * 100_000, None, "the body is no JSON"),
        (b'{"prompt": "\xff"}', None, "the body is no JSON"),
        (b"[]", None, "a JSON object is needed"),
        ({"model": "gpt"}, "model", "this server has 'toy'"),
        ({"prompt": 3}, "prompt", "a string or a list of strings is needed"),
        ({"prompt": [3, 4]}, "prompt", "a string or a list of strings is needed"),
        ({"prompt": []}, "prompt", "1 to 4 are needed"),
        ({"prompt": "12"}, "prompt", "no token for '12'"),
        ({"prompt": "\ud800"}, "prompt", "surrogates not allowed"),
        ({"prompt": "T" * 21}, "prompt", "21 tokens: at most 20 are read .--max_prompt_tokens"),
        ({"prompt": ["T", "h", "e"], "n": 2}, "n", "at most 4 texts .--max_choices"),
        ({"n": 5}, "n", "1 to 4 is needed .--max_choices"),
        ({"n": True}, "n", "1 to 4 is needed"),
        ({"max_tokens": 51}, "max_tokens", "0 to 50 is needed .--max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens", "0 to 50 is needed"),
        ({"temperature": -1}, "temperature", "0, or 0.001 and more, is needed"),
        ({"temperature": 10**400}, None, "too large"),
        ({"temperature": "hot"}, "temperature", "a number is needed"),
        ({"top_p": 0}, "top_p", "more than 0"),
        ({"top_k": 1.5}, "top_k", "a whole number is needed"),
        ({"min_p": 2}, "min_p", "0 to 1 is needed"),
        ({"seed": -1}, "seed", "0 to 4294967295 is needed"),
        ({"stop": ""}, "stop", "at least one character"),
        ({"stop": list("abcde")}, "stop", "1 to 4 are needed"),
        ({"stream": 1}, "stream", "true or false is needed"),
        ({"stream_options": {"chunks": 1}}, "stream_options", "only include_usage is known"),
        ({"logprobs": 0}, "logprobs", "not supported"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"messages": []}, "messages", "not supported; there are echo, max_tokens"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(language, body, field, message):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refusal, match=message) as refused:
        parse(body, {"toy": language}, LIMITS)
    assert refused.value.body["error"]["param"] == field
    assert len(str(refused.value)) < 250


def test_fields_that_change_nothing_may_be_given(language):
    fields = {"model": "toy", "suffix": None, "logprobs": None, "best_of": 1, "presence_penalty": 0.0, "logit_bias": {}}
    assert asked(language, **fields, user="me", stop=None, max_tokens=None, stream_options=None).max_tokens == 16


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="--max_active=0: 1 or more is needed"):
        Limits(max_active=0)
