"""What a model with a chat template is asked and answers: in Python, in a terminal, by OpenAI's fields, over HTTP."""

import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax.data.template import TEMPLATES
from mixkabrn_run.chat import Template
from mixkabrn_run.completions import Limits, Refusal, parse_chat
from mixkabrn_run.language import load
from tests.run.test_adapters import random_adapter
from tests.run.test_completions import toy_file, written
from tests.run.test_file import with_header

LIMITS = Limits(max_prompt_tokens=60, max_tokens=50, max_choices=4)
CHAT = Template({role: list(texts) for role, texts in TEMPLATES["chat"]._asdict().items()})
STOP = CHAT.stop
WHO = [{"role": "user", "content": "Who"}]
PROMPT = "Question: Who\nAnswer:"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return toy_file(tmp_path_factory.mktemp("run"), TEMPLATES["chat"])


@pytest.fixture(scope="module")
def language(path):
    return load(path)


@pytest.fixture(scope="module")
def drawn(language):
    """{seed: what is written behind PROMPT}: some end with a stop, others do not."""
    return {seed: "".join(language.complete(PROMPT, max_tokens=40, seed=seed)) for seed in range(12)}


@given(st.text(" a\x03", max_size=5), st.integers(1, 3), st.sampled_from([" ", "", " a "]))
def test_an_answer_is_told_without_what_stands_before_each(text, size, opening):
    template = Template({"system": ["", ""], "user": ["", ""], "assistant": [opening, STOP]})

    def pieces():
        yield from (text[i : i + size] for i in range(0, len(text), size))
        return "ended"

    def told():
        assert (yield from template.answer(pieces())) == "ended"

    assert "".join(told()) == text.removeprefix(opening)


def assert_has_read(session, language, text):
    other = language.session()
    language.read(language.tokenizer.encode(text), other)
    np.testing.assert_array_equal(session.logits, other.logits)


def test_an_answer_ends_before_the_stop_and_the_session_has_read_its_end_whatever_ended_it(language, drawn):
    ends = set()
    for seed, text in drawn.items():
        session, messages = language.session(), [("user", "Who")]
        found = "".join(language.answer(messages, session=session, max_tokens=40, seed=seed))
        assert found == text.partition(STOP)[0].removeprefix(" ")
        assert_has_read(session, language, PROMPT + text.partition(STOP)[0] + STOP)
        ends.add(STOP in text)
        # A stop of the user's own ends it, too, and the model reads that it is over.
        if len(found) > 4 and (own := found[3]) not in found[:3]:
            session = language.session()
            cut = "".join(language.answer(messages, session=session, max_tokens=40, seed=seed, stop=[own]))
            assert cut == found[:3]
            assert_has_read(session, language, PROMPT + text.partition(own)[0] + own + STOP)
    assert ends == {True, False}


def terminal(path, *options, lines):
    command = [sys.executable, "-m", "mixkabrn_run", "chat", path, "--max_tokens=9", *options]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)


def test_a_terminal_asks_by_the_template_and_goes_on_where_it_was(path, language, tmp_path):
    session, want = language.session(), ""
    for line in ("Who", "And then"):
        want += "> " + "".join(language.answer([("user", line)], session=session, max_tokens=9)) + "\n"
    assert terminal(path, lines="Who\nAnd then\n").stdout == want + "> "
    kept = f"--conversation={tmp_path / 'kept'}"
    parts = [terminal(path, kept, lines=f"{line}\n").stdout.removesuffix("> ") for line in ("Who", "And then")]
    assert "".join(parts) == want
    assert terminal(path, lines="\n \nWho\n").stdout == "> > " + want.partition("\n")[0] + "\n> "  # nothing to answer
    refused = terminal(path, lines="a\x03b\n")
    assert refused.returncode == 1
    assert refused.stderr == "error: a message has '\\x03' in it, which ends answers of this model\n"


def asked(language, **fields):
    return of_several({"toy": language}, **fields)


def of_several(languages, **fields):
    return parse_chat(json.dumps({"messages": WHO} | fields).encode(), languages, LIMITS)


def test_what_was_taught_to_talk_is_asked_as_it_has_learnt(path, tmp_path):
    learnt = TEMPLATES["chat"]._replace(user=("Asked: ", "\nAnswer:"))._asdict()
    content = random_adapter(path.read_bytes(), about={"chat_template": json.dumps(learnt)})
    (tmp_path / "taught.safetensors").write_bytes(content)
    base = load(path)
    taught = base.adapted([(base.adapter(tmp_path / "taught.safetensors"), 1.0)])
    for language, prompt in ((taught, "Asked: Who\nAnswer:"), (taught.adapted([]), PROMPT), (base, PROMPT)):
        assert language.template.prompt([("user", "Who")]) == prompt
        assert of_several({"toy": base, "taught": language}, model="taught").choices[0].prompt == prompt
    want = "".join(taught.answer([("user", "Who")], max_tokens=9))
    assert terminal(path, f"--adapter={tmp_path / 'taught.safetensors'}", lines="Who\n").stdout == f"> {want}\n> "


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("[]", "its chat_template is no JSON object"),
        ("{}", "its chat_template is none"),
        ("{", "no JSON"),
        (3, "no JSON"),
    ],
)
def test_what_is_no_template_of_an_adapter_is_told(path, tmp_path, template, message):
    content = random_adapter(path.read_bytes(), about={"chat_template": "CHANGED"})
    (tmp_path / "taught.safetensors").write_bytes(
        with_header(content, lambda header: header["__metadata__"].update(chat_template=template))
    )
    with pytest.raises(ValueError, match=rf"taught\.safetensors: .*{message}"):
        load(path).adapter(tmp_path / "taught.safetensors")


def test_an_answer_by_openais_fields_is_that_of_the_same_seed(language, drawn):
    for seed, text in drawn.items():
        request = asked(language, seed=seed, temperature=0.7, max_completion_tokens=40)
        want = text.partition(STOP)[0].removeprefix(" ")
        assert written(language, request) == [want]
        assert request.choices[0].finish_reason == ("stop" if STOP in text or len(text) < 40 else "length")
        assert request.choices[0].prompt == PROMPT
    assert asked(language).max_tokens == LIMITS.max_tokens


def test_what_was_said_before_is_read_as_it_was_written(language):
    said = [("system", "Be"), ("user", "Who"), ("assistant", "Ada"), ("user", "And")]
    request = asked(language, messages=[{"role": role, "content": content} for role, content in said])
    assert request.choices[0].prompt == f"Be\nQuestion: Who\nAnswer: Ada{STOP}Question: And\nAnswer:"


def says(*roles):
    return [{"role": role, "content": "a"} for role in roles]


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"messages": "Who"}, "messages", "a list is needed"),
        ({"messages": ["Who"]}, "messages", "role and content are needed, both texts"),
        ({"messages": [{"role": "user"}]}, "messages", "role and content are needed, both texts"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages", "both texts"),
        ({"messages": []}, "messages", "the last message is not of the role user"),
        ({"messages": None}, "messages", "the last message is not of the role user"),
        ({"messages": says("user", "assistant")}, "messages", "the last message is not of the role user"),
        ({"messages": says("assistant")}, "messages", "the role 'assistant' first: system or user is needed"),
        ({"messages": says("user", "user")}, "messages", "the role 'user' behind user: assistant is needed"),
        ({"messages": says("user", "system", "user")}, "messages", "'system' behind user: assistant is needed"),
        ({"messages": says("tool" * 99)}, "messages", "'tooltool.* first: system or user is needed"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "messages", "a message of the role user is empty"),
        ({"messages": [{"role": "user", "content": "a\x03b"}]}, "messages", r"has '\\x03' in it"),
        ({"messages": [{"role": "user", "content": "12"}]}, "messages", "no token for '12'"),
        ({"messages": [{"role": "user", "content": "a" * 60}]}, "messages", "78 tokens: at most 60 are read"),
        ({"max_completion_tokens": 51}, "max_completion_tokens", "0 to 50 is needed .--max_tokens"),
        ({"prompt": "a"}, "prompt", "not supported; there are max_completion_tokens"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"tools": [{}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"model": "gpt"}, "model", "this server has 'toy'"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(language, fields, field, message):
    with pytest.raises(Refusal, match=message) as refused:
        asked(language, **fields)
    assert refused.value.body["error"]["param"] == field
    assert len(str(refused.value)) < 250


def test_a_model_without_a_template_says_what_it_lacks(tmp_path):
    language = load(toy_file(tmp_path), "numpy")
    with pytest.raises(
        Refusal, match=re.escape("no chat template, as training with config.data.template=chat gives it")
    ) as refused:
        asked(language)
    assert refused.value.body["error"]["param"] == "messages"
    with pytest.raises(ValueError, match="no chat template"):
        language.answer([("user", "Who")])


@pytest.fixture(scope="module")
def port(path):
    for package in ("starlette", "uvicorn"):
        pytest.importorskip(package)
    from tests.run.test_serve import serving

    with serving(path) as (_, port):
        yield port


def test_over_http_an_answer_comes_whole_or_as_events(port, drawn):
    from tests.run.test_serve import ask, events

    for seed, fields in itertools.product((0, 1), ({"n": 2}, {})):
        fields |= {"messages": WHO, "temperature": 0.7, "max_tokens": 40, "seed": seed}
        status, whole = ask(port, "/v1/chat/completions", **fields)
        assert (status, whole["object"]) == (200, "chat.completion")
        texts = [drawn[seed + i].partition(STOP)[0].removeprefix(" ") for i in range(fields.get("n", 1))]
        assert [one["message"] for one in whole["choices"]] == [
            {"role": "assistant", "content": text, "refusal": None} for text in texts
        ]
        _, text = ask(port, "/v1/chat/completions", **fields, stream=True)
        parts = [part for event in events(text) for part in event["choices"]]
        for index, want in enumerate(texts):
            first, *others, last = [part["delta"] for part in parts if part["index"] == index]
            assert first["role"] == "assistant"
            assert last == {}
            assert "".join(delta["content"] for delta in (first, *others)) == want
            assert not any("role" in delta for delta in others)
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == [
            one["finish_reason"] for one in whole["choices"]
        ]


def test_openais_own_client_chats(port, drawn):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    options = {"model": "toy", "temperature": 0.7, "max_tokens": 40, "seed": 3}
    want = drawn[3].partition(STOP)[0].removeprefix(" ")
    answer = client.chat.completions.create(messages=WHO, **options)
    assert (answer.choices[0].message.role, answer.choices[0].message.content) == ("assistant", want)
    assert answer.usage.prompt_tokens == len(PROMPT)
    chunks = client.chat.completions.create(messages=WHO, stream=True, **options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == want
    with pytest.raises(openai.BadRequestError, match="the role 'user' behind user"):
        client.chat.completions.create(messages=WHO * 2, **options)


def test_openais_own_client_is_told_that_a_model_does_not_chat(tmp_path):
    openai = pytest.importorskip("openai")
    pytest.importorskip("uvicorn")
    from tests.run.test_serve import serving

    with serving(toy_file(tmp_path)) as (_, port):
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match=re.escape("config.data.template=chat")):
            client.chat.completions.create(model="toy", messages=WHO)
        assert client.completions.create(model="toy", prompt="The", max_tokens=3).choices[0].text
