"""What is held out: by bytes, whole documents where it can be, and nothing lost or repeated."""

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.data import documents, splitting
from mixkabrn_jax.data.documents import Document, Skipped
from mixkabrn_jax.data.sources import sotu
from tests import toy

sizes = st.lists(st.integers(0, 400), min_size=1, max_size=30)
fractions = st.floats(0.01, 0.6)


def hold_out(given_documents, fraction):
    """(training, validation) documents."""
    lengths = splitting.Lengths()
    for document in given_documents:
        lengths.add(document)
    found = {"train": [], "validation": []}
    for name, document in splitting.split(given_documents, lengths.cuts(fraction)):
        found[name].append(document)
    return found["train"], found["validation"]


def of_sizes(numbers, domain="", prompt_bytes=0):
    """Documents of so many bytes each, no two of the same content."""
    return [
        Document(f"{i} ".encode() + b"x" * number, domain, f"{domain}{i}", prompt_bytes)
        for i, number in enumerate(numbers)
    ]


def size(some):
    return sum(len(document.content) for document in some)


def joined(some):
    return b"".join(document.content for document in some)


def config(**changes):
    return splitting.DataConfig(**toy.section("data", **changes))


def test_a_lone_file_is_split_where_nanogpt_splits_tiny_shakespeare():
    content = (b"First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 18000)[:1_115_394]
    [train], [validation] = hold_out([Document(content, "", "input.txt")], 0.1)
    assert (len(train.content), len(validation.content)) == (1_003_854, 111_540)
    assert train.content + validation.content == content
    assert train.id == validation.id == "input.txt"


@pytest.mark.parametrize("numbers", [(20_000, 1_260_000), (1_260_000, 20_000)])
def test_two_files_of_unequal_sizes_are_held_out_by_bytes(numbers):
    whole = of_sizes(numbers)
    train, validation = hold_out(whole, 0.05)
    assert size(validation) == pytest.approx(0.05 * size(whole), abs=1)
    assert joined(train) + joined(validation) == joined(whole)


def test_equal_documents_are_held_out_whole_and_in_order_of_each_domain_the_last():
    whole = of_sizes([100] * 20, "a") + of_sizes([30] * 40, "b")
    whole = [document for pair in zip(whole[:20], whole[20:40], strict=True) for document in pair] + whole[40:]
    train, validation = hold_out(whole, 0.1)
    for domain, count in (("a", 2), ("b", 4)):
        every = [document for document in whole if document.domain == domain]
        assert [document for document in train if document.domain == domain] == every[:-count]
        assert [document for document in validation if document.domain == domain] == every[-count:]


def test_no_address_of_the_built_in_corpus_is_cut():
    whole = list(sotu.documents())
    for fraction in (0.05, 0.1):
        train, validation = hold_out(whole, fraction)
        assert sorted(train + validation, key=lambda document: document.id) == whole
        assert fraction / 1.5 < size(validation) / size(whole) < fraction * 1.5


@given(st.dictionaries(st.sampled_from("abc"), sizes, min_size=1), fractions, st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_no_byte_is_lost_or_repeated_and_shares_are_near(by_domain, fraction, random):
    whole = [document for domain, numbers in by_domain.items() for document in of_sizes(numbers, domain)]
    random.shuffle(whole)
    try:
        train, validation = hold_out(whole, fraction)
    except ValueError:
        assert all(len(numbers) == 1 for numbers in by_domain.values())
        return
    for domain in by_domain:
        every, head, tail = ([d for d in part if d.domain == domain] for part in (whole, train, validation))
        assert joined(head) + joined(tail) == joined(every)
        assert head
        cut = len(head) + len(tail) - len(every)
        assert cut in (0, 1)
        assert [document.id for document in head + tail[cut:]] == [document.id for document in every]
        wanted = size(every) - int(size(every) * (1 - fraction))
        assert wanted / 2 <= size(tail) <= wanted * 2 or not tail
        if cut:
            assert size(tail) == wanted
            assert all(
                not wanted / 2 <= size(every[i:]) <= wanted * 2 for i in range(1, len(every))
            )  # else it had been whole


@given(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=5), st.floats(0.05, 0.95))
@settings(max_examples=300)
def test_a_text_in_parts_is_cut_between_characters_and_its_halves_end_for_themselves(texts, fraction):
    whole = [Document(text.encode(), "", "t", continues=True) for text in texts]
    whole[-1] = dataclasses.replace(whole[-1], continues=False)
    try:
        train, validation = hold_out(whole, fraction)
    except ValueError:
        assert int(size(whole) * (1 - fraction)) == 0
        return
    assert joined(train).decode() + joined(validation).decode() == "".join(texts)
    for half in (train, validation):
        assert [document.continues for document in half] == [True] * (len(half) - 1) + [False] * bool(half)
    assert abs(size(train) - int(size(whole) * (1 - fraction))) < 4


def test_a_lone_character_is_trained_on():
    lengths = splitting.Lengths()
    document = Document("你".encode(), "", "one")
    lengths.add(document)
    assert list(splitting.split([document], lengths.cuts(0.5))) == [("train", document)]


def test_tasks_are_never_cut_inside():
    tasks = [documents.task("How many? " * 9, "7", "", str(i)) for i in range(3)]
    train, validation = hold_out(tasks, 0.05)
    assert (train, validation) == (tasks[:2], tasks[2:])
    with pytest.raises(ValueError, match="holds nothing out"):
        hold_out(tasks[:1], 0.5)


def test_a_share_far_from_the_one_asked_for_is_logged(caplog):
    hold_out([documents.task("ask" * 30, "answer", "few", str(i)) for i in range(2)], 0.05)
    assert "of domain 'few' 0.5 of the bytes are held out" in caplog.text
    caplog.clear()
    hold_out([Document(b"x", "tiny", "x"), *of_sizes([99] * 10, "a")], 0.1)
    assert "of domain 'tiny' 0 of the bytes" in caplog.text
    caplog.clear()
    hold_out(of_sizes([99] * 10, "a"), 0.1)
    assert not caplog.text


def test_nothing_held_out_is_an_error_that_names_the_field():
    for some in ([Document(b"x", "", "x")], []):
        with pytest.raises(ValueError, match=r"config\.data\.validation_fraction=0\.1 of \d documents"):
            hold_out(some, 0.1)


def _write(root, **files):
    for name, text in files.items():
        (root / f"{name}.txt").write_text(text)
    return str(root)


def test_a_stream_is_the_same_each_time_and_its_size_known(tmp_path):
    split = splitting.Split(config(path=_write(tmp_path, a="one " * 50, b="two " * 50, c="six " * 9)))
    first = list(split)
    assert list(split) == first
    assert split.num_bytes == 436
    assert [document for name, document in first if name == "train"] == list(split.training())


def test_validation_is_read_from_a_path_of_its_own_and_nothing_is_held_out(tmp_path):
    (tmp_path / "other").mkdir()
    path = _write(tmp_path, a="one " * 50)
    other = _write(tmp_path / "other", b="two", c="three")
    split = splitting.Split(config(path=f"{path}/a.txt", validation_path=other))
    assert [(name, document.content) for name, document in split] == [
        ("train", b"one " * 50),
        ("validation", b"two"),
        ("validation", b"three"),
    ]
    assert split.num_bytes == 208
    absent = str(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=re.escape(f"config.data.validation_path={absent!r}")):
        list(splitting.Split(config(path=path, validation_path=absent)))
    with pytest.raises(FileNotFoundError, match=re.escape(f"config.data.validation_path={absent!r} does not exist")):
        splitting.Split(config(path=path, validation_path=absent)).identity()


def test_a_published_validation_split_is_used_before_anything_is_held_out(monkeypatch):
    family = dataclasses.replace(sotu.FAMILY, built_in=lambda _, split: of_sizes([50] * 3, split))
    monkeypatch.setitem(splitting.sources.FAMILIES, "sotu", family)
    split = splitting.Split(config(source="sotu"))
    assert [(name, document.domain) for name, document in split] == [("train", "train")] * 3 + [
        ("validation", "validation")
    ] * 3


def parts(**changes):
    return [splitting.Split(component) for _, component in config(**changes).components]


def test_of_texts_beside_each_other_what_is_named_after_a_test_is_left_alone(tmp_path):
    path = _write(tmp_path, train="learn", val="validate", test="test")
    found = [(name, document.content) for name, document in splitting.Split(config(path=path))]
    assert found == [("train", b"learn"), ("validation", b"validate")]
    assert [document.content for document in splitting.read(parts(path=path), "test", Skipped())] == [b"test"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_parts_of_a_mixture_are_told_apart_by_domain(tmp_path, split):
    for name in ("a", "b"):
        (tmp_path / name / "c").mkdir(parents=True)
        _write(tmp_path / name, train=name, val=name, test=name)
        _write(tmp_path / name / "c", **{f"{name}-00000-of-00001": "c" for name in ("train", "validation", "test")})

    def domains(**changes):
        return [document.domain for document in splitting.read(parts(**changes), split, Skipped())]

    a, b = f"text:{tmp_path}/a", f"text:{tmp_path}/b"
    found = domains(mixture=f"0.5*text:{tmp_path}/a/, 0.5*text:{tmp_path}/b")
    assert [sorted(found[:2]), sorted(found[2:])] == [[a, f"{a}/c"], [b, f"{b}/c"]]
    assert sorted(domains(path=f"{tmp_path}/a")) == ["", "c"]
    if split == "train":
        assert domains(mixture="1*sotu,1*sotu")[0] == "sotu/early_republic"


def test_a_path_without_anything_to_train_on_is_named_with_the_reason(tmp_path):
    path = _write(tmp_path)
    (tmp_path / "picture").write_bytes(b"\x89PNG" * 9)
    with pytest.raises(ValueError, match=re.escape(f"config.data.path={path!r}: no documents")) as error:
        list(splitting.Split(config(path=path)))
    assert "1 not text (a PNG image) (first: picture)" in str(error.value)
    folder = tmp_path / "questions"
    folder.mkdir()
    (folder / "test.jsonl").write_text('{"question": "a?", "answer": "b #### 1"}\n')
    with pytest.raises(ValueError, match="no files of the split 'train', only of test"):
        list(splitting.Split(config(source="gsm8k", path=str(folder))))


def test_a_file_named_by_itself_is_trained_on_and_held_out_of_whatever_its_name(tmp_path):
    records = "".join(f'{{"question": "{i}?", "answer": "b #### {i}"}}\n' for i in range(40))
    (tmp_path / "test.jsonl").write_text(records)
    found = list(splitting.Split(config(source="gsm8k", path=f"{tmp_path}/test.jsonl")))
    assert len(found) == 40
    assert {name for name, _ in found} == {"train", "validation"}


def test_the_identity_of_the_data_changes_with_files_and_fields(tmp_path):
    path = _write(tmp_path, a="one", b="two")

    def identity(**changes):
        return str(splitting.Split(config(path=path, **changes)).identity())

    found = [identity(), identity(include="a*"), identity(validation_fraction=0.2), identity(validation_path=path)]
    (tmp_path / "a.txt").write_text("four")
    found.append(identity())
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    found.append(identity())
    assert len(set(found)) == 6
    assert identity() == identity(num_threads=3, batch_size=2, sequence_length=4)
