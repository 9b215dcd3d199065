"""Templates: the text of a conversation, what of it is learnt, and how they travel with a tokenizer."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import lm
from mixkabrn_jax.data import instructions, packing, pipeline, tokenizers
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.template import TEMPLATES, Template
from mixkabrn_jax.data.tokenizers import bpe
from mixkabrn_jax.runs import model_file, workdir
from mixkabrn_run import chat, tokenizer
from tests import toy

CHAT = TEMPLATES["chat"]
BYTES = tokenizers.Bytes()
TEXT = "Question: Who gave it?\nAnswer: It's 12 and the people of the United States.\n\n  don't\t" * 9
PAIRS = bpe.train([Document(TEXT.encode(), "", "a")], 300)

contents = st.text(max_size=12).filter(lambda text: text.strip() and CHAT.stop not in text)
conversations = st.builds(
    lambda system, turns: (
        [("system", text) for text in system]
        + [message for asked, told in turns for message in (("user", asked), ("assistant", told))]
    ),
    st.lists(contents, max_size=1),
    st.lists(st.tuples(contents, contents), min_size=1, max_size=3),
)


def document(messages, template=CHAT):
    return instructions.conversation(messages, template, "d", "x")


def runtime():
    """The template as the runtime reads it from a file."""
    return chat.Template(json.loads(json.dumps(CHAT._asdict())))


@settings(max_examples=50)
@given(conversations)
def test_whoever_asks_writes_the_text_that_was_learnt_and_in_the_same_tokens(messages):
    learnt = document(messages)
    *asked, (_, answer) = messages
    prompt = runtime().prompt(asked)
    assert prompt.encode() == learnt.prompt
    assert learnt.target.decode() == f" {answer}{runtime().stop}"
    for own in (BYTES, PAIRS):
        ours = np.concatenate([own.encode(text) for text in learnt.texts[:-1]])
        theirs = tokenizer.from_record(json.loads(json.dumps(own.to_json())))
        assert theirs.encode(prompt) == ours.tolist()
        assert own.encode(learnt.prompt).tolist() == ours.tolist()  # as evaluation does


@settings(max_examples=50)
@given(conversations, st.sampled_from([CHAT, None]), st.integers(1, 9))
def test_all_answers_are_learnt_with_what_ends_them_and_nothing_else(messages, template, sequence_length):
    learnt = document(messages, template)
    windows = packing.pack([learnt, Document(b"plain", "", "y"), learnt], BYTES, sequence_length, "targets")
    targets = [token for window in windows for token in window["targets"][window["loss_mask"] == 1].tolist()]
    ends = (" {}\x03" if template else "{}").format
    answers = [byte for role, content in messages if role == "assistant" for byte in ends(content).encode()]
    assert targets == [*answers, BYTES.separator, *b"plain", BYTES.separator, *answers, BYTES.separator]


def test_a_template_travels_with_the_tokenizer_to_the_workdir_and_into_the_file(tmp_path):
    own = tokenizers.from_json(PAIRS.to_json())
    own.template = CHAT
    workdir.create(tmp_path / "run", toy.document(), own, {})
    kept = workdir.load_tokenizer(tmp_path / "run")
    assert kept.template == CHAT
    assert kept.to_json() == own.to_json()
    assert kept.fingerprint() == PAIRS.fingerprint()  # it encodes alike: tokens in a cache are its own
    model = toy.make(toy.model_config(), vocab_size=own.vocab_size)
    _, again, _ = model_file.from_bytes(model_file.to_bytes(model, kept, toy.document()))
    assert again.template == CHAT
    assert "chat_template" not in PAIRS.to_json()


def test_a_run_keeps_the_template_of_its_config(tmp_path):
    (tmp_path / "told.jsonl").write_text(2 * (json.dumps({"prompt": "Ask", "completion": "told"}) + "\n"))
    fields = lm.get_config().data.to_dict() | {"path": str(tmp_path / "told.jsonl"), "tokenizer": "bytes"}
    for template in ("chat", ""):
        config = DataConfig(**fields | {"cache": str(tmp_path / "cache"), "template": template, "sequence_length": 4})
        corpus = pipeline.load(config, pipeline.load(config).tokenizer)
        assert corpus.tokenizer.template == TEMPLATES.get(template)
        found = corpus.train.stream.read(0, 99)
        assert corpus.tokenizer.decode(found) == ("Question: Ask\nAnswer: told\x03" if template else "Ask\ntold")


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"system": ["", ""], "user": ["", ""]},
        {"system": ["", ""], "user": ["", ""], "assistant": [""]},
        {"system": ["", ""], "user": ["", ""], "assistant": ["", ""]},
        {"system": ["", ""], "user": ["", 1], "assistant": ["", "."]},
        {"system": ["", ""], "user": "ab", "assistant": ["", "."]},
    ],
)
def test_what_is_no_template_is_refused_by_both_readers(record):
    with pytest.raises(ValueError, match="is no chat_template: system, user, assistant are needed"):
        Template.from_json(record)
    with pytest.raises(ValueError, match="is no chat_template: system, user, assistant are needed"):
        tokenizers.from_json({"name": "bytes", "chat_template": record})
    with pytest.raises(ValueError, match="its chat_template is none: system, user, assistant are needed"):
        chat.Template(record)
