"""The folder for the hub: what other libraries open in it, and a card that says what was measured."""

import functools
import json
import sys
import types

import pytest
import tokenizers as library

from mixkabrn_jax.data import instructions, tokenizers
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.template import TEMPLATES
from mixkabrn_jax.data.tokenizers import bpe
from mixkabrn_jax.export import huggingface
from mixkabrn_jax.runs import model_file
from tests import toy

BYTES = tokenizers.Bytes()
COMMAND = "python -m experiments.train --config=configs/lm.py:tiny"
VALIDATION = {"step": 7, "loss": 4.25, "bits_per_byte": 2.125, "tokens": 1234}
ORIGIN = huggingface.Origin(COMMAND, "two lines", {"train": "9 targets"}, VALIDATION)
LOW = {"linear": "ternary", "kan__spline_linear": "ternary", "quantization__embedding": "int8"}


@functools.cache
def made(tokenizer, **changes):
    """A toy model and its file."""
    model = toy.make(toy.model_config(**LOW | changes), vocab_size=tokenizer.vocab_size)
    return model, model_file.to_bytes(model, tokenizer, toy.document())


def folder(tokenizer=BYTES, origin=ORIGIN, **changes):
    model, content = made(tokenizer, **changes)
    return huggingface.files("a-model", model, tokenizer, toy.document(), content, origin), content


def card(**arguments):
    return folder(**arguments)[0]["README.md"].decode()


def test_the_tokenizer_is_opened_by_others_and_gives_the_same_tokens():
    text = "größe, größer, don't\n\n 12 <|endoftext|>"
    tokenizer = bpe.train([Document((text * 9).encode(), "", "a")], 270)
    files, _ = folder(tokenizer)
    theirs = library.Tokenizer.from_str(files["tokenizer.json"].decode())
    assert theirs.encode(text).ids == list(tokenizer.encode(text.encode()))
    assert json.loads(files["config.json"])["eos_token_id"] == tokenizer.separator == theirs.get_vocab_size()
    assert "open `tokenizer.json`" in files["README.md"].decode()


def test_a_conversation_is_the_same_text_by_the_template_in_jinja():
    jinja2 = pytest.importorskip("jinja2")
    tokenizer = bpe.train([Document(b"a text of a few words, " * 9, "", "a")], 270)
    assert "chat_template" not in json.loads(folder(tokenizer)[0]["tokenizer_config.json"])
    tokenizer.template = TEMPLATES["chat"]
    template = json.loads(folder(tokenizer)[0]["tokenizer_config.json"])["chat_template"]
    messages = [("system", "Be\n{{ x }}"), ("user", " 'é'"), ("assistant", "a"), ("user", "b\n"), ("assistant", "c")]
    said = [{"role": role, "content": content} for role, content in messages]
    # As transformers makes its own.
    own = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    text = instructions.conversation(messages, TEMPLATES["chat"], "", "").content
    assert own.render(messages=said, add_generation_prompt=False).encode() == text
    asked = instructions.conversation(messages, TEMPLATES["chat"], "", "").prompt
    assert own.render(messages=said[:-1], add_generation_prompt=True).encode() == asked


def test_a_tokenizer_without_a_file_of_its_own_has_none():
    files, _ = folder()
    assert not {name for name in files if name.startswith("tokenizer")}
    assert "Its tokens are bytes." in files["README.md"].decode()


def test_the_model_is_the_file_and_the_config_that_of_the_run():
    files, content = folder()
    assert files["model.safetensors"] == content
    config = json.loads(files["config.json"])
    assert {name: config[name] for name in toy.document()} == json.loads(json.dumps(toy.document()))
    assert config["vocab_size"] == 257


def test_the_card_tells_the_last_score_the_bytes_and_the_command():
    files, content = folder()
    text = files["README.md"].decode()
    assert "| 7 | 2.1250 | 4.2500 | 1,234 |" in text
    assert COMMAND in text
    described = model_file.describe(content)["ternary"]
    assert f"| ternary | {described['count']} | {described['numbers']:,} | {described['bytes']:,} |" in text
    assert "None came with" in card(origin=huggingface.Origin(COMMAND, "", {}, {}))


def test_no_licence_is_claimed_that_was_not_given():
    assert "license:" not in card()
    assert "No licence" in card()
    given = card(origin=huggingface.Origin(COMMAND, "", {}, {}, "en", "apache-2.0"))
    front = given.split("---")[1]
    assert "license: apache-2.0\n" in front
    assert "language: en\n" in front
    assert "No licence" not in given


def test_tags_are_the_parts_that_the_model_has():
    front = card(ffn="mlp", linear="dense", num_experts=0, mixer="attention").split("---")[1]
    assert front.split("tags:")[1].split() == ["-", "mixkabrn"]
    assert "- kan\n- bitnet\n- ternary\n- mixture-of-experts" in card().split("---")[1]


@pytest.fixture
def hub(monkeypatch):
    """The hub's library, which notes what it is asked for."""
    calls = []

    class HfApi:
        def create_repo(self, name, exist_ok):
            calls.append((name, exist_ok))
            return f"https://hub/{name}"

        def upload_folder(self, repo_id, folder_path):
            if repo_id == "nobody/model":
                raise OSError("not\nallowed")
            calls.append((repo_id, folder_path))

    errors = types.SimpleNamespace(HfHubHTTPError=type("HfHubHTTPError", (OSError,), {}))
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=HfApi, errors=errors))
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return calls


def test_a_folder_is_pushed_as_a_whole(hub, tmp_path):
    assert huggingface.push(tmp_path, "me/model") == "https://hub/me/model"
    assert hub == [("me/model", True), ("me/model", tmp_path)]


def test_what_the_hub_does_not_take_is_said_in_a_sentence(hub, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="did not take it as 'nobody/model': not allowed"):
        huggingface.push(tmp_path, "nobody/model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        huggingface.push(tmp_path, "me/model")
    assert hub == [("nobody/model", True)]
