"""Parallel text in its three forms, both directions of it, and what is wrong with it."""

import itertools
import re

import pytest

from mixkabrn_jax.data import sources, splitting
from mixkabrn_jax.data.documents import DamagedError, Skipped
from mixkabrn_jax.data.sources import english_german, parallel
from mixkabrn_jax.data.splitting import Split
from tests.data.sources import trees

TSV = "id\tde\ten\n1\tHallo.\tHello.\n2\tGute Nacht.\tGood night.\n"
ALIGNED = {"news.en": "Hello.\nGood night.\n", "news.de": "Hallo.\r\nGute Nacht.\r\n"}
RECORDS = trees.lines({"en": "Hello.", "de": "Hallo.", "id": 1}, {"en": "Good night.", "de": "Gute Nacht.\n"})
NESTED = trees.lines(
    {"translation": {"en": "Hello.", "de": "Hallo."}}, {"translation": {"en": "Good night.", "de": "Gute Nacht."}}
)
FORMS = {"table": {"x.tsv": TSV}, "aligned": ALIGNED, "records": {"x.jsonl": RECORDS}, "nested": {"x.jsonl": NESTED}}


def read(path, split=None, **changes):
    """(documents, what was left out) of a path."""
    config = trees.config("parallel", path, **changes)
    skipped = Skipped(config.on_damage)
    return list(sources.read(config, split, skipped)), dict(skipped.counts)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_a_task_for_each_direction(tmp_path, form):
    documents, left_out = read(trees.write(tmp_path, FORMS[form]))
    assert [(document.prompt.decode(), document.target.decode(), document.domain) for document in documents] == [
        ("en>de Hello.\n", "Hallo.", "en-de"),
        ("de>en Hallo.\n", "Hello.", "de-en"),
        ("en>de Good night.\n", "Gute Nacht.", "en-de"),
        ("de>en Gute Nacht.\n", "Good night.", "de-en"),
    ]
    assert not left_out
    assert len({document.id for document in documents}) == 4
    assert documents[2].id.startswith("en-de/")


@pytest.mark.parametrize("form", FORMS)
def test_one_direction_alone_is_read_where_one_is_named(tmp_path, form):
    documents, _ = read(trees.write(tmp_path, FORMS[form]), directions="de-en")
    assert [document.content for document in documents] == [b"de>en Hallo.\nHello.", b"de>en Gute Nacht.\nGood night."]


def test_several_pairs_of_languages_stand_in_one_row(tmp_path):
    documents, _ = read(trees.write(tmp_path, {"x.tsv": "en\tde\tfr\nyes\tja\toui\n"}), directions="fr-de,en-fr")
    assert [document.content for document in documents] == [b"fr>de oui\nja", b"en>fr yes\noui"]


def test_the_tag_says_the_direction_and_the_source_text_comes_back():
    prompt = parallel.prompt("en-de", " Two\nlines. ")
    assert prompt == "en>de Two lines.\n"
    document = parallel.task(prompt, "Zwei Zeilen.", "", "x")
    assert parallel.source_text(document, "en-de") == "Two lines."
    assert parallel.source_text(document, "de-en") is None


@pytest.mark.parametrize(
    ("files", "reason", "place"),
    [
        ({"x.tsv": TSV + "3\tnur\t \n"}, "no text in 'en'", "x.tsv:4"),
        ({"x.tsv": TSV + "3\t\t\n"}, "no text in 'en' and 'de'", "x.tsv:4"),
        ({"x.tsv": TSV + "a\tb\n"}, "2 columns, not the 3 of the first line", "x.tsv:4"),
        (
            {"x.tsv": TSV, "y.tsv": "a\tde\nb\tc\n"},
            "its first line names no column 'en' (config.data.directions)",
            "y.tsv",
        ),
        ({"news.en": "a\n\nb\n", "news.de": "a\n\n \n"}, "no text in 'de'", "news.en:3"),
        ({"x.tsv": TSV, "news.en": "a\n"}, "no news.de beside it", "news.en"),
        ({"x.tsv": TSV, "news.de": "a\n"}, "no news.en beside it", "news.de"),
        ({"x.jsonl": RECORDS + trees.lines({"en": "a"})}, "no text in 'de'", "x.jsonl:3"),
        ({"x.jsonl": RECORDS + trees.lines({"en": "a", "de": ["b"]})}, "no text in 'de'", "x.jsonl:3"),
        ({"x.tsv": TSV, "y.tsv": "en\tde\n".encode("utf-16")}, "not text (UTF-16)", "y.tsv"),
        (
            {**ALIGNED, "old.en": "a\n", "old.de": b"\xff\xfe" + "ä\n".encode("utf-16-le")},
            "not text (UTF-16)",
            "old.de",
        ),
    ],
)
def test_what_has_no_translation_is_damage_with_its_place(tmp_path, files, reason, place):
    trees.write(tmp_path, files)
    documents, left_out = read(tmp_path)
    assert documents
    assert left_out == {reason: 1}
    with pytest.raises(DamagedError, match=f"^{re.escape(f'{place}: {reason}')}$"):
        read(tmp_path, on_damage="error")


def test_blank_lines_and_other_files_are_no_damage(tmp_path):
    trees.write(tmp_path, {"x.tsv": TSV + "\n", "news.en": "a\n\n", "news.de": "b\n\n", "readme.txt": "hello"})
    documents, left_out = read(tmp_path, on_damage="error")
    assert len(documents) == 6
    assert left_out == {"neither records, nor .tsv, nor of a language by its ending": 1}


def test_aligned_files_of_unequal_length_end_the_reading(tmp_path):
    trees.write(tmp_path, {**ALIGNED, "news.de": "Hallo.\n"})
    with pytest.raises(ValueError, match=r"news\.en has 2 lines and news\.de has 1 lines: aligned files have"):
        read(tmp_path)


def test_aligned_files_are_read_in_their_folder(tmp_path):
    """A name alone would not tell that the other file has changed."""
    with pytest.raises(ValueError, match="several aligned files: name the folder"):
        read(trees.write(tmp_path, ALIGNED) / "news.en")
    packed = trees.pack(tmp_path / "packed", "zip", {**ALIGNED, "x.tsv": TSV})
    documents, left_out = read(packed)
    assert (len(documents), left_out) == (4, {"aligned files have to be unpacked": 2})


def test_a_byte_order_mark_is_no_letter(tmp_path):
    trees.write(tmp_path, {name: "\ufeff" + text for name, text in {**ALIGNED, "x.tsv": TSV}.items()})
    documents, _ = read(tmp_path)
    assert len(documents) == 8
    assert not any("\ufeff".encode() in document.content for document in documents)


def test_published_splits_are_told_by_names(tmp_path):
    trees.write(
        tmp_path, {f"{name}.{language}": "a\n" for name in ("train", "dev", "test") for language in ("en", "de")}
    )
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        documents, _ = read(tmp_path, split)
        assert [document.id for document in documents] == [f"en-de/{name}.en:1", f"de-en/{name}.en:1"]


def test_both_directions_hold_out_the_same_pairs(tmp_path):
    """Or the translation of what is held out one way would be learnt the other way."""
    rows = [f"{'x' * (i % 7)} {i}\t{'y' * (i % 5)} {i}\n" for i in range(200)]
    trees.write(tmp_path, {"x.tsv": "en\tde\n" + "".join(rows)})
    part = Split(trees.config("parallel", tmp_path, validation_fraction=0.1))
    held_out = [document.id.partition("/") for document in splitting.read([part], "validation", Skipped())]
    by_direction = {
        direction: [place for own, _, place in held_out if own == direction] for direction in ("en-de", "de-en")
    }
    assert by_direction["en-de"] == by_direction["de-en"]
    assert 10 < len(by_direction["en-de"]) < 30


@pytest.mark.parametrize("directions", ["", "en", "en-en", "en-de,", "en-de, de-en", "en-de-fr"])
def test_directions_that_are_none_are_named(directions):
    with pytest.raises(ValueError, match=rf"config\.data\.directions='{directions}' must name two languages, such as"):
        trees.config("parallel", "x", directions=directions)


def test_without_a_path_sentences_are_made_by_rule():
    config = trees.config("parallel", "", directions="de-en")
    first = next(sources.read(config, "test", Skipped()))
    domain, english, german = english_german.pair("test", 0)
    assert first.content.decode() == f"de>en {german}\n{english}"
    assert (first.domain, first.id) == (f"de-en/{domain}", "de-en/test/0")
    both = itertools.islice(sources.read(trees.config("parallel", ""), "test", Skipped()), 4)
    assert [document.id for document in both] == ["en-de/test/0", "de-en/test/0", "en-de/test/1", "de-en/test/1"]


def test_each_split_has_its_number_of_pairs(monkeypatch):
    monkeypatch.setattr(english_german, "NUM_PAIRS", {"train": 3, "validation": 2, "test": 1})
    documents, _ = read("")
    assert len(documents) == len({document.id for document in documents}) == 2 * 6


def test_other_languages_are_not_built_in():
    with pytest.raises(ValueError, match=r"config\.data\.directions='en-fr': sentences of 'fr' are not built in"):
        read("", directions="en-fr")
