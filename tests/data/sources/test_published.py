"""Splits of published sets among texts that may be called anything."""

import itertools

import pytest

from mixkabrn_jax.data import files, sources
from mixkabrn_jax.data.documents import Skipped
from mixkabrn_jax.data.sources import published
from tests.data.sources.trees import PACKINGS, config, contents, lines, pack, parquet, read, write

SPLITS = ("train", "validation", "test")
PILE = {"train.jsonl": lines({"text": "train"}), "val.jsonl": lines({"text": "validation"}), "test.jsonl": "test"}
PILE |= {"test.jsonl": lines({"text": "test"})}
FOLDERS = {
    "train/chunk1/example_train_0.txt": "train",
    "validation/chunk1/example_holdout_0.txt": "validation",
    "test/chunk1/train.txt": "test",
}


def by_split(path, **changes):
    """What is read of each split."""
    found = sources.read_splits(config("text", path, **changes), Skipped(), test=True)
    texts = sorted((split, document.content.decode()) for split, document in found)
    return {split: [text for _, text in group] for split, group in itertools.groupby(texts, lambda one: one[0])}


def own(*splits):
    return {split: [split] for split in splits}


def test_some_names_tell_their_split_by_themselves(tmp_path):
    hub = {f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet": split for split in SPLITS}
    c4 = {f"en/c4-{split}.00000-of-00008.json.gz": split for split in SPLITS[:2]}
    wiki = {f"wiki.{split}.tokens": split for split in ("train", "valid", "test")}
    raw = {f"wikitext-2-raw/wiki.{split}.raw": split for split in ("train", "valid", "test")}
    for names in (hub, c4, wiki, raw):
        for name, split in names.items():
            assert published.split_of(name) == {"valid": "validation"}.get(split, split)
    for name in ("test.txt", "latest-00000-of-00001.parquet", "test.raw.txt", "train.md", "test/a.txt"):
        assert published.split_of(name) is None
    write(tmp_path, {name: parquet({"text": split}) for name, split in hub.items()})
    for split in SPLITS:
        assert contents(read("text", tmp_path, split)[0]) == [split]
    assert not sources.notes(config("text", tmp_path))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("above", ["", "set/"])
@pytest.mark.parametrize("inside", [PILE, FOLDERS])
def test_names_beside_train_are_the_splits_that_they_say(tmp_path, packing, above, inside):
    path = pack(tmp_path / "any", packing, {above + name: content for name, content in inside.items()})
    assert by_split(path) == own(*SPLITS)
    for split in SPLITS:
        assert contents(read("text", path, split)[0]) == [split]
    first, second, third = (f"{above}{name}" for name in (PILE if inside is PILE else SPLITS))
    [note] = sources.notes(config("text", path))
    assert note.startswith(f"{first}, {second}, {third} stand beside each other and are read as the splits that")


@pytest.mark.parametrize("packing", ["tar.gz", "zip"])
def test_an_archive_in_a_folder_is_a_folder(tmp_path, packing):
    pack(tmp_path / "data" / "pile", packing, {f"pile/{name}": content for name, content in PILE.items()})
    write(tmp_path / "data", {"README.md": "train"})
    assert by_split(tmp_path / "data", exclude="README*") == own(*SPLITS)
    for split in SPLITS:
        pack(tmp_path / "parts" / split, packing, {"a.txt": split})
    assert by_split(tmp_path / "parts") == own(*SPLITS)


def test_numbers_endings_and_what_stands_before_do_not_matter(tmp_path):
    names = {
        "ptb.train.txt": "train",
        "ptb.valid.txt": "validation",
        "Stories-train_00001-of-00002": "train",
        "Stories-DEV_00001-of-00002": "validation",
        "train-3.txt": "train",
        "test": "test",
        # Beside no train of their own.
        "unit-test.md": "train",
        "val.0.md": "validation",
        "latest.txt": "train",
        "contest": "train",
        "my test.txt": "train",
    }
    write(tmp_path, {name: f"{split}: {name}" for name, split in names.items()})
    found = by_split(tmp_path)
    assert {split: sorted(name for name in names if names[name] == split) for split in SPLITS} == {
        split: sorted(text.partition(": ")[2] for text in texts) for split, texts in found.items()
    }


def test_without_a_train_names_that_begin_alike_tell(tmp_path):
    write(tmp_path, {"wikitext2.valid.txt": "validation", "wikitext2.test.txt": "test", "other.test.txt": "train"})
    assert by_split(tmp_path) == own(*SPLITS)


@pytest.mark.parametrize(
    "names",
    [
        ["test/a.txt", "b.txt"],
        ["test.txt", "b/train.txt", "a/dev.txt", "é.txt"],
        ["train.txt", "trainer/test.txt"],
        ["test.txt", "val.txt"],
        ["a/b/train.txt", "a/b/test.txt"],
        ["unit-test.md", "train.md"],
    ],
)
def test_texts_of_ones_own_are_trained_on_whatever_their_names(tmp_path, names):
    write(tmp_path, {name: name for name in names})
    documents, _ = read("text", tmp_path, "train")
    assert [document.id for document in documents] == sorted(names)
    assert not sources.notes(config("text", tmp_path))


def test_several_sets_side_by_side_are_told_of(tmp_path):
    hub = {f"{name}/{split}-00000-of-00001.parquet": split for name in ("w-103", "w-2") for split in SPLITS}
    write(tmp_path / "hub", {name: parquet({"text": split}) for name, split in hub.items()})
    told = "w-103, w-2 have splits of their own and are read as one set: name the folder of one to read it alone"
    assert sources.notes(config("text", tmp_path / "hub")) == [told]
    assert not sources.notes(config("text", tmp_path / "hub" / "w-2"))
    write(tmp_path / "own", {f"{name}/{split}.txt": split for name in "abcde" for split in ("train", "dev")})
    beside, sets = sources.notes(config("text", tmp_path / "own"))
    assert beside.startswith(
        "a/train.txt, a/dev.txt; b/train.txt, b/dev.txt; c/train.txt, c/dev.txt (and 2 more) stand"
    )
    assert sets.startswith("a, b, c (and 2 more) have splits of their own")
    languages = {f"{name}/train-00000-of-00001.parquet": parquet({"text": name}) for name in ("de", "en")}
    assert not sources.notes(config("text", write(tmp_path / "languages", languages)))


def test_names_are_told_anew_when_they_change_and_archives_are_gone_through_once(tmp_path, monkeypatch):
    path = pack(tmp_path / "any", "tar", PILE)
    gone_through = []
    monkeypatch.setattr(files, "names", lambda *given, names=files.names: [gone_through.append(1), names(*given)])
    for _ in range(3):
        assert by_split(path) == own(*SPLITS)
    assert len(gone_through) == 1
    write(tmp_path / "texts", {"train.txt": "train", "a.txt": "train"})
    assert by_split(tmp_path / "texts") == {"train": ["train", "train"]}
    write(tmp_path / "texts", {"dev.txt": "validation"})
    assert by_split(tmp_path / "texts") == {"train": ["train", "train"], "validation": ["validation"]}


def test_what_is_excluded_is_not_gone_through_and_other_names_that_are_count(tmp_path):
    write(tmp_path, {"a.txt": "train", "c/train.txt": "train", "c/test.txt": "test"})
    pack(tmp_path / "b", "zip", PILE)
    assert [note.split(" stand ")[0] for note in sources.notes(config("text", tmp_path, exclude="*.zip"))] == [
        "c/train.txt, c/test.txt"
    ]
    assert by_split(tmp_path, exclude="*.zip,*train.txt") == own("train", "test")


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_name_of_the_path_itself_stands_beside_nothing(tmp_path, packing):
    assert by_split(pack(tmp_path / "train", packing, {"test.txt": "a", "val.txt": "b"})) == {"train": ["a", "b"]}
