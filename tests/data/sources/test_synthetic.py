"""Tasks that are made up: the same for ever, apart between splits, and with answers that can be checked."""

import hashlib
import itertools
import re
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import lm
from mixkabrn_jax.data import sources
from mixkabrn_jax.data.config import SPLITS, DataConfig
from mixkabrn_jax.data.documents import Document, Skipped
from mixkabrn_jax.data.sources import synthetic


def read(path="", split="train"):
    config = DataConfig(**{**lm.get_config().data.to_dict(), "source": "synthetic", "path": path})
    return sources.read(config, split, Skipped())


tasks = st.sampled_from(sorted(synthetic.TASKS))
splits = st.sampled_from(SPLITS)
numbers = st.integers(0, 10**6)


@given(tasks, splits, numbers)
def test_the_answer_of_a_record_is_right_and_others_are_wrong(name, split, number):
    document = synthetic.record(name, split, number)
    assert document.target.decode() == document.answers[0]
    assert document.domain.partition("/")[0] == name
    assert synthetic.verify(document, document.answers[0])
    assert synthetic.verify(document, f" {document.answers[0]}\n")
    for wrong in ("", "x", document.answers[0] + "1", document.answers[0][:-1], "0x11", "\u0661"):
        assert synthetic.verify(document, wrong) == (wrong == document.answers[0]), wrong


@given(splits, numbers)
def test_the_distance_of_a_recall_is_the_number_of_the_pair_from_the_end(split, number):
    document = synthetic.record("recall", split, number)
    listed, _, asked = document.prompt.decode().partition("\n")
    pairs = [pair.split("=") for pair in listed.split()]
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys) <= 36
    distance = len(keys) - keys.index(asked.removesuffix("="))
    assert document.domain == f"recall/{distance}"
    assert distance in synthetic.DISTANCES
    assert document.answers == (pairs[-distance][1],)


@given(splits, numbers)
def test_an_arithmetic_task_is_what_it_says(split, number):
    document = synthetic.record("arithmetic", split, number)
    assert re.fullmatch(rb"\d{1,3}[-+*]\d{1,3}=", document.prompt)
    assert str(eval(document.prompt.decode().removesuffix("="))) == document.answers[0]


@given(splits, numbers)
def test_copies_and_inductions_are_what_they_say(split, number):
    document = synthetic.record("copy", split, number)
    assert document.content == document.target + b"|" + document.target
    assert document.domain == f"copy/{len(document.target)}"
    document = synthetic.record("induction", split, number)
    before, after, end = document.prompt.split(b"#")
    assert (end, after[:1]) == (b"", document.target)
    assert b"#" not in before + after


@given(tasks, st.lists(st.tuples(splits, st.integers(0, 300)), max_size=30))
def test_two_splits_share_no_prompt(name, places):
    found = {(split, synthetic.record(name, split, number).prompt) for split, number in places}
    assert len({prompt for _, prompt in found}) == len(found)


def test_the_smallest_sums_are_split_too():
    """Where records repeat: the hash of a prompt, and not its number, says where it is."""
    seen = {split: {synthetic.record("arithmetic", split, number).prompt for number in range(1000)} for split in SPLITS}
    for first, second in itertools.combinations(SPLITS, 2):
        assert not seen[first] & seen[second]
    assert all(len(found) < 1000 for found in seen.values()), "some come twice, or this shows nothing"


def test_records_are_the_same_for_ever():
    """In any order, process and version: scores of years are compared."""
    hashed = hashlib.sha256()
    for name, split, number in itertools.product(sorted(synthetic.TASKS), SPLITS, (7, 0, 19_999)):
        hashed.update(synthetic.record(name, split, number).content)
    assert hashed.hexdigest() == "01710f596aa0d5b0bb18d91a65b4d802541f635da9867d8bb0b44f9a826fe1ad"
    documents = list(itertools.islice(read("copy", "test"), 20))
    assert documents[7] == synthetic.record("copy", "test", 7)


def test_a_path_names_tasks_which_take_turns():
    ids = [document.id for document in itertools.islice(read(" recall ,arithmetic,recall"), 4)]
    assert ids == ["recall/train/0", "arithmetic/train/0", "recall/train/1", "arithmetic/train/1"]
    first = [document.id for document in itertools.islice(read(), 5)]
    assert first[:4] == [f"{name}/train/0" for name in synthetic.TASKS]


def test_each_split_has_its_number_of_records(monkeypatch):
    assert sum(1 for _ in read("arithmetic", "validation")) == synthetic.NUM_RECORDS["validation"]
    monkeypatch.setattr(synthetic, "NUM_RECORDS", {"train": 3, "validation": 2, "test": 1})
    ids = [document.id for document in read("copy,induction", None)]
    assert len(ids) == len(set(ids)) == 2 * 6


def test_an_unknown_task_is_named_with_those_that_are_there():
    with pytest.raises(ValueError, match=r"config\.data\.path='recall,foo': 'foo' is no synthetic task: give some of"):
        next(read("recall,foo"))
    with pytest.raises(ValueError, match="'x' of domain 'books' is no record of the source synthetic"):
        synthetic.verify(Document(b"x", "books", "x"), "x")


class Chain:
    """A dataset as reasoning-gym has them."""

    def __init__(self, seed, size):
        self.seed, self.size = seed, size

    def __getitem__(self, number):
        value = self.seed + number
        return {"question": f"What is {value} + 1? ", "answer": str(value + 1), "metadata": {"value": value}}

    def score_answer(self, answer, entry):
        return float(answer == str(entry["metadata"]["value"] + 1)) or 0.5


@pytest.fixture
def reasoning_gym(monkeypatch):
    module = types.ModuleType("reasoning_gym")
    module.create_dataset = lambda name, **options: {"chain": Chain}[name](**options)
    factory = types.ModuleType("reasoning_gym.factory")
    factory.DATASETS = {"chain": None}
    monkeypatch.setitem(sys.modules, "reasoning_gym", module)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", factory)


@pytest.mark.usefixtures("reasoning_gym")
def test_a_dataset_of_reasoning_gym_is_tasks_with_its_own_verifier():
    document = next(itertools.islice(read("reasoning_gym:chain,copy", "test"), 2, None))
    assert document.prompt == b"What is 20000001 + 1?\n"
    assert document.answers == ("20000002",)
    assert (document.domain, document.id) == ("reasoning_gym:chain", "reasoning_gym:chain/test/1")
    assert synthetic.verify(document, "20000002 ")
    assert not synthetic.verify(document, "20000003")
    with pytest.raises(ValueError, match="reasoning_gym:knot: reasoning-gym has no such dataset, but chain"):
        next(read("reasoning_gym:knot"))


def test_without_reasoning_gym_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ImportError, match="reasoning_gym:chain is made by reasoning-gym: pip install reasoning-gym"):
        next(read("reasoning_gym:chain"))
