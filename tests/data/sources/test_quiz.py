"""Questions made by rule: the same for ever, apart between splits, and with answers that are right."""

import hashlib
import itertools
import re

import pytest

from configs import lm
from mixkabrn_jax.data import sources
from mixkabrn_jax.data.config import SPLITS, DataConfig
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.data.sources import quiz, sotu, synthetic

FACTS = [(address["year"], address["name"].replace("Mc ", "Mc")) for address in sotu.addresses()]
TEXTS = [(address["year"], address["text"]) for address in sotu.addresses()]


def read(path="", split="train", template=""):
    fields = lm.get_config().data.to_dict() | {"source": "quiz", "path": path, "template": template}
    return sources.read(DataConfig(**fields), split, Skipped())


def records(name, number=40):
    """(question, target, answers) of each."""
    for split, i in itertools.product(SPLITS, range(number)):
        found = quiz.record(name, split, i)
        assert found.prompt.startswith(b"Question: ")
        assert found.prompt.endswith(b"\nAnswer:")
        assert found.target.decode() == f" {found.answers[0]}"
        yield found.prompt.decode().removeprefix("Question: ").removesuffix("\nAnswer:"), found.answers


def test_a_speaker_is_one_of_those_who_spoke_in_the_year():
    for asked, answers in records("speaker"):
        year = int(re.search(r"\d{4}", asked)[0])
        assert list(answers) == [name for when, name in FACTS if when == year]


def test_a_year_is_the_first_of_the_one_who_is_named():
    for asked, (answer,) in records("year"):
        # Of George Bush and George W Bush no name is part of the other.
        name = max((name for _, name in FACTS if name in asked), key=len)
        assert int(answer) == min(year for year, own in FACTS if own == name)


def test_a_sentence_is_of_its_century_alone():
    for asked, (answer,) in records("century", 10):
        sentence = asked.partition(": ")[2]
        centuries = {(year - 1) // 100 + 1 for year, text in TEXTS if f" {sentence} " in text}
        assert {f"{century}{'st' if century == 21 else 'th'}" for century in centuries} == {answer}


def test_a_word_follows_somewhere_in_the_addresses():
    whole = "\n".join(text for _, text in TEXTS)
    for asked, (answer,) in records("word", 10):
        assert f"{asked.partition(': ')[2]} {answer}" in whole


def test_a_sum_is_right():
    for asked, (answer,) in records("arithmetic"):
        assert answer == str(eval(re.fullmatch(r"What is (\d+[-+*]\d+)\?", asked)[1]))


@pytest.mark.parametrize("name", quiz.TASKS)
def test_two_splits_share_no_question_and_none_is_asked_twice(name, monkeypatch):
    monkeypatch.setattr(synthetic, "NUM_RECORDS", {"train": 300, "validation": 100, "test": 100})
    prompts = {split: [document.prompt for document in read(name, split)] for split in SPLITS}
    for first, second in itertools.combinations(SPLITS, 2):
        assert not {*prompts[first]} & {*prompts[second]}
    assert len(prompts["train"]) == 300
    for split in SPLITS[1:]:
        assert len({*prompts[split]}) == len(prompts[split]) > 20


def test_records_are_the_same_for_ever():
    hashed = hashlib.sha256()
    for name, split, number in itertools.product(quiz.TASKS, SPLITS, (7, 0, 19_999)):
        hashed.update(quiz.record(name, split, number).content)
    assert hashed.hexdigest() == "4ef85856c45cc276332d662fb01324cf2f2da8000ea7504e297536747bacf9e7"


def test_by_the_template_the_prompt_is_the_same_and_the_answer_has_an_end():
    for plain, told in zip(read(), itertools.islice(read(template="chat"), 7), strict=False):
        assert told.prompt == plain.prompt
        assert told.target == plain.target + b"\x03"
        assert told.answers == plain.answers


def test_kinds_take_turns_and_an_unknown_one_is_named():
    ids = [document.id for document in itertools.islice(read("speaker, word,speaker"), 4)]
    assert ids == ["speaker/train/0", "word/train/0", "speaker/train/1", "word/train/1"]
    with pytest.raises(
        ValueError, match=r"config\.data\.path='speaker,foo': 'foo' is no kind of question: give some of"
    ):
        next(read("speaker,foo"))
