import json
import math
import re

import numpy as np
import pytest

from mixkabrn_jax.data import hub, packing, sources, tokenizers
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import DamagedError, Document, Skipped, task
from mixkabrn_jax.evaluation.score import Likelihood, Piece, Scorer
from mixkabrn_jax.evaluation.tasks import bits_per_byte, choice
from mixkabrn_jax.evaluation.tasks.options import Options
from mixkabrn_jax.training.objectives.language import LanguageObjective
from tests import toy

LN2 = math.log(2)


class OneBitPerByte:
    """A scorer that needs no model: a byte costs a bit, in windows two, a question mark nine, and a separator three."""

    tokenizer = tokenizers.Bytes()
    carries = True

    def pieces(self, documents, *, windowed=False):
        first_token = 0
        for document in documents:
            tokens_T = self.tokenizer.encode(document.content)
            nats_T = (np.where(tokens_T == ord("?"), 9, 1 + windowed) * LN2).astype(np.float32)
            yield Piece(document, first_token, tokens_T, nats_T, nats_T > 0, None if document.continues else 3 * LN2)
            first_token = first_token + len(tokens_T) if document.continues else 0


TEXTS = ["a b", "  white\u00a0space \n\n", "", "gr\u00f6\u00dfe", "word " * 20]


def documents(domain=lambda i: f"d{i % 2}"):
    return [Document(text.encode(), domain(i), f"{i}") for i, text in enumerate(TEXTS)]


def test_bits_per_byte_are_sums_over_all_documents_and_over_each_domain():
    found = bits_per_byte.run(OneBitPerByte(), documents())
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert found["bits_per_byte"] == pytest.approx(1, rel=1e-6)
    assert found["windowed_bits_per_byte"] == pytest.approx(2, rel=1e-6)
    assert found["bits_per_byte_with_end"] == pytest.approx(1 + 3 * 5 / num_bytes, rel=1e-6)
    assert (found["bytes"], found["tokens"], found["n"]) == (num_bytes, num_bytes, 5)
    assert found["nats"] == pytest.approx(num_bytes * LN2, rel=1e-6)
    assert found["byte_perplexity"] == found["token_perplexity"] == pytest.approx(2, rel=1e-6)
    assert {name: one["n"] for name, one in found["domains"].items()} == {"d0": 3, "d1": 2}
    assert sum(one["nats"] for one in found["domains"].values()) == pytest.approx(found["nats"])


def test_what_stands_behind_prompts_has_a_figure_of_its_own():
    text = Document(b"xxxxx", "text", "0")
    assert bits_per_byte.run(OneBitPerByte(), [text])["target_bits_per_byte"] == pytest.approx(1, rel=1e-6)
    found = bits_per_byte.run(OneBitPerByte(), [task("????", "xxxx", "tasks", "1"), text, task("?", "", "tasks", "2")])
    assert (found["bytes"], found["target_bytes"]) == (14, 9)
    assert found["target_bits_per_byte"] == pytest.approx(1, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx((5 * 9 + 9) / 14, rel=1e-6)
    assert found["domains"]["tasks"]["target_bytes"] == 4


def test_they_are_the_bits_per_byte_that_a_run_logs_which_learns_them_alone():
    model = toy.make(toy.model_config(ffn="mlp", num_experts=0), vocab_size=257)
    documents = [task(f"{i}+{i}?", f" {2 * i}", "", f"{i}") for i in range(4)]
    length = sum(len(document.content) + 1 for document in documents)
    [window] = packing.pack(documents, tokenizers.Bytes(), length, loss_on="targets")
    objective = LanguageObjective(**toy.section("objective"))
    logged = objective.totals(model, {name: array[None] for name, array in window.items()})
    found = bits_per_byte.run(Scorer(model, tokenizers.Bytes(), 16), documents)
    assert found["target_bytes"] == logged.num_bytes
    assert found["target_bits_per_byte"] == pytest.approx(float(logged.text_nats / LN2 / logged.num_bytes), rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_words_are_what_white_space_parts_wherever_a_text_is_cut(size):
    """As lm-evaluation-harness counts them: `len(re.split(r"\\s+", text))`."""
    parts = []
    for i, text in enumerate(TEXTS):
        cuts = [text[start : start + size] for start in range(0, len(text), size)] or [""]
        parts += [Document(cut.encode(), "", f"{i}", continues=True) for cut in cuts[:-1]]
        parts.append(Document(cuts[-1].encode(), "", f"{i}"))
    found = bits_per_byte.run(OneBitPerByte(), parts)
    words = sum(len(re.split(r"\s+", text)) for text in TEXTS)
    assert found["word_perplexity"] == pytest.approx(math.exp(found["nats"] / words), rel=1e-12)
    assert found["n"] == len(TEXTS)


def test_a_position_is_counted_in_bytes_from_the_start_of_its_document():
    whole = [Document(b"x" * 100, "", "a"), Document(b"y" * 20, "", "b")]
    parts = [Document(b"x" * 33, "", "a", continues=True), Document(b"x" * 67, "", "a"), whole[1]]
    for given in (whole, parts):
        positions = bits_per_byte.run(OneBitPerByte(), given)["positions"]
        assert [(one["from"], one["to"], one["bytes"]) for one in positions] == [
            (0, 16, 32),
            (16, 32, 20),
            (32, 64, 32),
            (64, 128, 36),
        ]
        assert all(one["bits_per_byte"] == pytest.approx(1, rel=1e-6) for one in positions)


def test_documents_that_can_be_read_once_only_are_refused():
    with pytest.raises(ValueError, match="read twice"):
        bits_per_byte.run(OneBitPerByte(), iter(documents()))
    with pytest.raises(ValueError, match="no documents"):
        bits_per_byte.run(OneBitPerByte(), [])


class Table:
    """A scorer that knows what each continuation costs."""

    def __init__(self, nats, greedy=()):
        self._nats, self._greedy = nats, greedy
        self.pairs = []

    def loglikelihood(self, pairs):
        self.pairs += pairs
        return [Likelihood(self._nats[pair[1]], 1, pair[1] in self._greedy) for pair in pairs]


def item(context, choices, answer):
    return choice.Item(context, tuple(choices), answer, "", "")


def test_the_likeliest_choice_is_chosen_and_its_length_counts_in_acc_norm():
    # Of the first item the short choice is likelier as a whole, and the long one by the byte; a space in front of a
    # choice is none of its bytes.
    table = Table({b" no": 3.0, b" yes sir": 4.0, b" b": 1.0, b" c": 2.0, b"A": 5.0, b"B": 4.0})
    items = [item("q", ["no", "yes sir"], 1), item("q", ["b", "c"], 0), item("", ["A", "B"], 0)]
    found = choice.run(table, items, Options(batch_size=2))
    assert found == {"acc": 1 / 3, "acc_norm": 2 / 3, "n": 3}
    assert table.pairs[0] == (b"q", b" no")
    assert table.pairs[-1] == (b"", b"B")


def test_who_cannot_tell_two_choices_apart_has_not_chosen_the_right_one():
    table = Table({b"same": 2.0, b"other": 2.0, b" far": 9.0})
    items = [item("", ["same", "same"], 0), item("", ["same", "other"], 0), item("", ["other", "same"], 0)]
    assert choice.run(table, items, Options()) == {"acc": 0, "acc_norm": 1 / 3, "n": 3}


def test_a_last_word_is_right_where_greedy_decoding_would_write_it():
    table = Table({b" one": 1.0, b" two": 3.0}, greedy=[b" two"])
    items = [item("a b", ["one"], 0), item("a b", ["two"], 0)]
    assert choice.run(table, items, Options()) == {"acc": 0.5, "perplexity": pytest.approx(math.exp(2)), "n": 2}


def test_last_words_and_choices_are_not_averaged():
    with pytest.raises(ValueError, match="in one set"):
        choice.run(Table({b" a": 1, b" b": 2}), [item("x", ["a"], 0), item("x", ["a", "b"], 0)], Options())
    with pytest.raises(ValueError, match="no items"):
        choice.run(Table({}), [], Options())


@pytest.mark.parametrize(
    ("record", "want"),
    [
        ({"context": "c", "choices": ["x", "y"], "answer": 1}, ("c", ("x", "y"), 1)),
        ({"ctx": "c", "endings": ["x", "y", "z"], "label": "2"}, ("c", ("x", "y", "z"), 2)),
        (
            {"question": "c", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
            ("c", ("x", "y"), 1),
        ),
        ({"question": "c", "choices": ["x", "y"], "gold": "b"}, ("c", ("x", "y"), 1)),
        ({"sentence_good": "g", "sentence_bad": "b", "linguistics_term": "t"}, ("", ("g", "b"), 0)),
        ({"text": "one two  three\n"}, ("one two", ("three",), 0)),
    ],
)
def test_the_usual_records_are_items(record, want):
    found = choice.of_record(record, "f:1", "")
    assert (found.context, found.choices, found.answer) == want


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"context": "c", "choices": ["x", "y"], "answer": 2}, "no answer among the choices"),
        ({"context": "c", "choices": ["x", "y"], "answer": True}, "no answer among the choices"),
        ({"context": "c", "choices": ["x", "y"]}, "no answer among the choices"),
        ({"context": "c", "choices": ["x"], "answer": 0}, "no list of two choices or more"),
        ({"choices": ["x", "y"], "answer": 0}, "no context"),
        ({"text": "word"}, "neither choices, nor a minimal pair"),
        ({}, "neither choices, nor a minimal pair"),
    ],
)
def test_a_record_that_is_no_item_says_why(record, reason):
    assert reason in choice.of_record(record, "f:1", "")


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
