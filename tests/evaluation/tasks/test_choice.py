import json
import math
import statistics
import zipfile

import pytest

from mixkabrn_jax.data import hub, sources
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import DamagedError, Skipped
from mixkabrn_jax.evaluation.score import Likelihood
from mixkabrn_jax.evaluation.tasks import choice
from mixkabrn_jax.evaluation.tasks.options import Options


class Table:
    """A scorer that knows what each continuation costs, wherever it stands or behind one context."""

    def __init__(self, nats, greedy=()):
        self._nats, self._greedy = nats, greedy
        self.pairs = []

    def loglikelihood(self, pairs):
        self.pairs += pairs
        nats = [self._nats[pair if pair in self._nats else pair[1]] for pair in pairs]
        return [Likelihood(cost, 1, pair[1] in self._greedy) for cost, pair in zip(nats, pairs, strict=True)]


def item(context, choices, answer, domain="", ending=""):
    return choice.Item(context, tuple(choices), answer, domain, "", ending)


def overall(found):
    return {name: value for name, value in found.items() if name != "domains"}


def test_the_likeliest_choice_is_chosen_and_its_length_counts_in_acc_norm():
    # Of the first item the short choice is likelier as a whole, and the long one by the byte; a space in front of a
    # choice is none of its bytes.
    table = Table({b" no": 3.0, b" yes sir": 4.0, b" b": 1.0, b" c": 2.0, b"A": 5.0, b"B": 4.0})
    items = [item("q", ["no", "yes sir"], 1), item("q", ["b", "c"], 0), item("", ["A", "B"], 0)]
    found = choice.run(table, items, Options(batch_size=2))
    stderr = pytest.approx(math.sqrt(1 / 3 * 2 / 3 / 2))
    assert overall(found) == {"acc": 1 / 3, "acc_stderr": stderr, "acc_norm": 2 / 3, "chance": 0.5, "n": 3}
    assert table.pairs[0] == (b"q", b" no")
    assert table.pairs[-1] == (b"", b"B")


def test_who_cannot_tell_two_choices_apart_has_not_chosen_the_right_one():
    table = Table({b"same": 2.0, b"other": 2.0, b" far": 9.0})
    items = [item("", ["same", "same"], 0), item("", ["same", "other"], 0), item("", ["other", "same"], 0)]
    found = choice.run(table, items, Options())
    assert (found["acc"], found["acc_norm"], found["n"]) == (0, 1 / 3, 3)


def test_a_last_word_is_right_where_greedy_decoding_would_write_it():
    table = Table({b" one": 1.0, b" two": 3.0}, greedy=[b" two"])
    items = [item("a b", ["one"], 0), item("a b", ["two"], 0)]
    found = overall(choice.run(table, items, Options()))
    assert found == {"acc": 0.5, "acc_stderr": 0.5, "perplexity": pytest.approx(math.exp(2)), "n": 2}


def test_the_standard_error_is_that_of_the_mean_of_ones_and_zeros():
    table = Table({b"right": 1.0, b"wrong": 2.0})
    items = [item("", ["right", "wrong"], number % 4 == 0) for number in range(40)]
    found = choice.run(table, items, Options())
    ones = [1] * 30 + [0] * 10
    assert found["acc"] == 0.75
    assert found["acc_stderr"] == pytest.approx(statistics.stdev(ones) / math.sqrt(40), rel=1e-12)
    assert math.isnan(choice.run(table, items[:1], Options())["acc_stderr"])


def test_chance_is_the_mean_of_what_guessing_gets_right():
    table = Table({b"a": 1.0, b"b": 2.0, b"c": 3.0, b"d": 4.0})
    items = [item("", "ab", 0), item("", "abcd", 0)]
    assert choice.run(table, items, Options())["chance"] == (1 / 2 + 1 / 4) / 2


def test_each_domain_has_the_figures_of_its_own_items():
    table = Table({b"a": 1.0, b"b": 2.0, b"c": 3.0})
    items = [item("", "ab", 0, "y"), item("", "abc", 2, "x"), item("", "ab", 1, "y"), item("", "abc", 0, "x")]
    found = choice.run(table, [*items, item("", "ab", 0, "x")], Options(batch_size=2))
    assert list(found["domains"]) == ["x", "y"]
    for name, of in (("x", [items[1], items[3], item("", "ab", 0)]), ("y", [items[0], items[2]])):
        assert found["domains"][name] == overall(choice.run(table, of, Options()))
    assert found["acc"] == 3 / 5
    assert found["domains"]["x"]["acc"] == 2 / 3


def test_what_stands_behind_every_choice_alone_is_scored_behind_it():
    # The choice itself may be rare: only whether the rest follows from it counts.
    table = Table({(b"The old cup fits not in the box as the box", b" is small."): 2.9, b" is small.": 3.0})
    for right, acc in ((0, 0.0), (1, 1.0)):
        one = item("The old cup fits not in the box as ", ["the old cup", "the box"], right, ending=" is small.")
        found = choice.run(table, [one], Options())
        assert (found["acc"], found["acc_norm"]) == (acc, acc)


def test_examples_stand_before_each_context_with_the_right_choice():
    table = Table({b" a": 1.0, b" b": 2.0, b"g": 1.0, b"w": 2.0, b" end": 1.0})
    shots = [item("q?", ["a", "b"], 1), item("", ["g", "w"], 0), item("x ", ["1", "2"], 1, ending=" end")]
    choice.run(table, [item("r?", ["a", "b"], 0)], Options(shots=shots))
    before = b"q? b\n\ng\n\nx 2 end\n\n"
    assert table.pairs == [(before + b"r?", b" a"), (before + b"r?", b" b")]


def test_last_words_and_choices_are_not_averaged():
    with pytest.raises(ValueError, match="in one set"):
        choice.run(Table({b" a": 1, b" b": 2}), [item("x", ["a"], 0), item("x", ["a", "b"], 0)], Options())
    with pytest.raises(ValueError, match="no items"):
        choice.run(Table({}), [], Options())


def test_items_are_read_from_the_hub(tmp_path, monkeypatch):
    (tmp_path / "blimp.jsonl").write_text('{"sentence_good": "a", "sentence_bad": "b"}\n')
    monkeypatch.setattr(hub, "download", lambda _: tmp_path)
    config = DataConfig(**_FIELDS, path="hub:nyu-mll/blimp")
    assert [item.id for item in choice.read(config, None, Skipped())] == ["blimp.jsonl:1"]


def test_files_of_items_are_read_and_damage_is_counted_or_an_error(tmp_path):
    good = json.dumps({"sentence_good": "g", "sentence_bad": "b"})
    (tmp_path / "pairs.jsonl").write_text(f"{good}\n{{}}\n{good}\n")
    (tmp_path / "readme.txt").write_text("x")
    config = DataConfig(**_FIELDS, path=str(tmp_path))
    skipped = Skipped()
    assert [one.id for one in choice.read(config, None, skipped)] == ["pairs.jsonl:1", "pairs.jsonl:3"]
    assert sum(skipped.counts.values()) == 2
    with pytest.raises(DamagedError, match=r"pairs\.jsonl:2: neither"):
        list(choice.read(config, None, Skipped("error")))
    with pytest.raises(ValueError, match="needs --path=FILE"):
        list(choice.read(DataConfig(**_FIELDS, path=""), None, skipped))


def test_items_of_a_split_are_those_of_its_files(tmp_path):
    pair = '{"sentence_good": "a", "sentence_bad": "b"}\n'
    for name in ("blimp/train.jsonl", "blimp/dev.jsonl", "mine.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(pair)

    def ids(path, split):
        return [item.id for item in choice.read(DataConfig(**_FIELDS, path=str(tmp_path / path)), split, Skipped())]

    assert ids("blimp", None) == ["dev.jsonl:1", "train.jsonl:1"]
    assert ids("blimp", "validation") == ["dev.jsonl:1"]
    assert ids("mine.jsonl", "test") == ["mine.jsonl:1"]  # what is named by itself is what is asked for
    for path, only in (("blimp", "train, validation"), ("blimp/train.jsonl", "train")):
        with pytest.raises(sources.AbsentSplitError, match=f"{path}': no files of the split 'test', only of {only}"):
            ids(path, "test")


@pytest.mark.parametrize("name", ["train.jsonl", "train/pairs.jsonl", "mine/pairs.jsonl", "train.zip"])
@pytest.mark.parametrize("split", ["train", "test", None])
def test_files_are_of_the_splits_that_they_are_of_for_other_tasks(tmp_path, name, split):
    """Of a folder called by a split, or of a file whose name tells nothing in a folder, too."""
    text = json.dumps({"question": "q", "answer": "#### 1", "sentence_good": "a", "sentence_bad": "b"}) + "\n"
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("pairs.jsonl", text)
    else:
        path.write_text(text)
    path = path.parent if "/" in name else path

    def ids(read, source):
        try:
            found = read(DataConfig(**_FIELDS | {"source": source}, path=str(path)), split, Skipped())
            return [one.id for one in found]
        except sources.AbsentSplitError as error:
            return str(error)

    assert ids(choice.read, "auto") == ids(sources.read, "gsm8k")


def test_plain_text_is_refused_and_said_what_would_be_read(tmp_path):
    for name in ("a.txt", "b/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("A text of some words.")
    config = DataConfig(**_FIELDS, path=str(tmp_path))
    with pytest.raises(sources.NoDocumentsError, match=r"no plain text.*2 no file of records"):
        list(choice.read(config, None, Skipped()))
    rows = [{"text": "A text of some words.", "label": 1}, {"text": "Another text.", "url": "http://a"}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(sources.NoDocumentsError, match="2 a text among other fields"):
        list(choice.read(config, None, Skipped()))


def test_the_domain_of_an_item_is_its_folder(tmp_path):
    for folder in ("agreement", "islands"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pairs.jsonl").write_text('{"sentence_good": "a", "sentence_bad": "b"}\n')
    found = choice.read(DataConfig(**_FIELDS, path=str(tmp_path)), None, Skipped())
    assert [one.domain for one in found] == ["agreement", "islands"]


_FIELDS = {
    "source": "auto",
    "validation_path": "",
    "validation_fraction": 0.1,
    "include": "",
    "exclude": "",
    "text_column": "",
    "licenses": "",
    "on_damage": "skip",
    "loss_on": "all",
    "tokenizer": "bytes",
    "vocab_size": 258,
    "sequence_length": 16,
    "batch_size": 1,
    "cache": "",
    "num_threads": 0,
    "timeout_seconds": 0.0,
}
