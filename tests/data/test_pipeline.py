"""From a config to batches, and back to the same batches after a stop."""

import dataclasses
import itertools
import json
import re
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.data import packing, pipeline, tokenizers
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.documents import Document
from mixkabrn_jax.data.mixture import Mixture

CONFIG = DataConfig(
    source="auto",
    path="",
    tokenizer="bytes",
    sequence_length=8,
    batch_size=4,
    validation_fraction=0.1,
    num_threads=0,
    timeout_seconds=0.0,
)


def _windows(num_windows, sequence_length=8, first=0):
    """Windows of which each first target is its number, from `first` on."""
    content = bytes(first + i // sequence_length for i in range(num_windows * sequence_length - 1))
    return packing.pack([Document(content, "", "numbers")], tokenizers.Bytes(), sequence_length)


def _mixture(*sizes, shares):
    """Windows of which the first targets say which part they are of, by hundreds, and which window."""
    parts = [_windows(size, first=100 * number) for number, size in enumerate(sizes)]
    return Mixture(parts, list(map(str, sizes)), shares)


def _iterator(windows, seed=0, **changes):
    return pipeline.train_batches(windows, dataclasses.replace(CONFIG, **changes), seed)


def _numbers(iterator, num_batches):
    return [batch["targets"][:, 0].tolist() for batch in itertools.islice(iterator, num_batches)]


def _assert_same(batch, other):
    assert batch.keys() == other.keys()
    for key in batch:
        np.testing.assert_array_equal(batch[key], other[key])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "web"}, "config.data.source='web'"),
        ({"source": "sotu", "path": "x.txt"}, "config.data.path='x.txt'"),
        ({"source": "text"}, "config.data.path=''"),
        ({"tokenizer": "bpe", "vocab_size": 200}, "config.data.vocab_size=200"),
        ({"loss_on": "answers"}, "config.data.loss_on='answers'"),
        ({"mixture": "0.5*sotu,text:a"}, "config.data.mixture: 'text:a' is not weight*source:path"),
        ({"mixture": "-1*sotu"}, "config.data.mixture: '-1*sotu' is not weight*source:path with a weight above 0"),
        ({"mixture": "1*web"}, "config.data.mixture: '1*web': config.data.source='web' must be one of"),
        ({"mixture": "1*gsm8k"}, "config.data.mixture: '1*gsm8k': config.data.path=''"),
        ({"mixture": "1*sotu", "path": "a"}, "config.data.mixture='1*sotu' names its sources itself"),
        ({"sequence_length": 0}, "config.data.sequence_length=0"),
        ({"batch_size": 0}, "config.data.batch_size=0"),
        ({"num_threads": -1}, "config.data.num_threads=-1"),
        ({"timeout_seconds": -1.0}, "config.data.timeout_seconds=-1.0"),
        ({"validation_fraction": 1.0}, "config.data.validation_fraction=1.0"),
    ],
)
def test_a_config_field_out_of_range_is_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(CONFIG, **changes)


def test_without_a_path_the_built_in_corpus_is_packed_whole():
    for source in ("auto", "sotu"):
        corpus = pipeline.load(dataclasses.replace(CONFIG, source=source, sequence_length=1024))
        # A separator for each of the 233 documents, all of them whole: no era has a single address.
        assert corpus.train.num_targets + corpus.validation.num_targets == 10_761_202 + 233
        assert 0.08 < corpus.validation.num_targets / corpus.train.num_targets < 0.12


def test_with_a_path_the_text_is_read(tmp_path):
    (tmp_path / "play.txt").write_bytes(b"0123456789" * 10)
    for source in ("auto", "text"):
        corpus = pipeline.load(dataclasses.replace(CONFIG, source=source, path=str(tmp_path / "play.txt")))
        assert corpus.train.num_targets == 91
        assert corpus.validation.num_targets == 11


def test_characters_of_the_held_out_part_are_known(tmp_path):
    (tmp_path / "play.txt").write_bytes(b"a" * 99 + b"z")
    corpus = pipeline.load(dataclasses.replace(CONFIG, tokenizer="characters", path=str(tmp_path / "play.txt")))
    assert corpus.tokenizer.to_json()["characters"] == "az"
    assert [corpus.tokenizer.decode(window["targets"]) for window in corpus.validation] == ["aaaaaaaa", "az"]


def test_a_saved_tokenizer_is_used_and_must_be_of_the_configs_kind(tmp_path):
    (tmp_path / "play.txt").write_bytes(b"ab" * 50)
    config = dataclasses.replace(CONFIG, tokenizer="characters", path=str(tmp_path / "play.txt"))
    saved = tokenizers.from_json(json.loads(json.dumps(tokenizers.Characters("\nab").to_json())))
    assert pipeline.load(config, saved).tokenizer is saved
    with pytest.raises(ValueError, match=re.escape("config.data.tokenizer='characters'")):
        pipeline.load(config, tokenizers.Bytes())
    with pytest.raises(ValueError, match=re.escape("character 'b' at position 1 of play.txt")):
        pipeline.load(config, tokenizers.Characters("a"))


def test_a_file_of_one_byte_is_refused_by_name(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a")
    with pytest.raises(ValueError, match=r"config\.data\.validation_fraction=0\.1 of 1 documents with 1 bytes"):
        pipeline.load(dataclasses.replace(CONFIG, path=str(tmp_path / "a.txt")))


@pytest.mark.parametrize("tokenizer", tokenizers.NAMES)
def test_a_text_that_does_not_fill_a_window_of_training_is_refused_with_what_is_needed(tmp_path, tokenizer):
    config = dataclasses.replace(CONFIG, tokenizer=tokenizer, path=str(tmp_path / "a.txt"))  # windows of 8
    (tmp_path / "a.txt").write_bytes(b"ab")
    message = r"a\.txt' has 2 tokens for training, which do not fill one window of config\.data\.sequence_length=8"
    with pytest.raises(ValueError, match=message):
        pipeline.load(config)
    (tmp_path / "a.txt").write_bytes(b"ab" * 4)
    (window,) = pipeline.load(config).train
    assert window["loss_mask"].all()


def test_training_batches_have_static_shapes_and_the_keys_of_a_window():
    windows = _windows(10)
    batch = next(_iterator(windows))
    assert {key: (array.shape, array.dtype) for key, array in batch.items()} == {
        key: ((4, 8), array.dtype) for key, array in windows[0].items()
    }


def test_each_epoch_is_a_permutation_of_its_own():
    epochs = _numbers(_iterator(_windows(40), batch_size=40), 3)
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, list(range(40))]}) == 4


def test_the_seed_and_nothing_else_decides_the_order():
    windows = _windows(40)
    assert _numbers(_iterator(windows, seed=3), 30) == _numbers(_iterator(windows, seed=3), 30)
    epochs = [tuple(epoch) for seed in range(3) for epoch in _numbers(_iterator(windows, seed, batch_size=40), 3)]
    assert len(set(epochs)) == 9  # no epoch of one seed is an epoch of its neighbour


def test_an_epoch_smaller_than_a_batch_is_repeated_within_it():
    [[*numbers]] = _numbers(_iterator(_windows(3), batch_size=7), 1)
    assert sorted(numbers[:3]) == sorted(numbers[3:6]) == [0, 1, 2]


def test_one_window_and_batches_of_one_work():
    assert _numbers(_iterator(_windows(1), batch_size=1), 3) == [[0], [0], [0]]
    assert _numbers(_iterator(_windows(1), batch_size=2, num_threads=1), 2) == [[0, 0], [0, 0]]


def test_the_state_is_one_integer_whatever_the_number_of_threads():
    for num_threads in (0, 1, 3):
        iterator = _iterator(_windows(40), num_threads=num_threads)
        _numbers(iterator, 7)
        assert iterator.get_state() == {"next_index": 7}
        iterator.close()


@pytest.mark.parametrize(("num_threads", "timeout", "readers"), [(0, 0, 0), (0, 9, 1), (2, 0, 2), (2, 9, 2)])
def test_windows_are_read_by_the_threads_asked_for(num_threads, timeout, readers):
    """The caller's own for 0, unless it is not to wait for ever: then one that reads no further than it is asked to."""

    class Recorded(list):
        def __getitem__(self, index):
            seen.add(threading.current_thread().name)
            time.sleep(0.001)  # the others have their turn
            return super().__getitem__(index)

    seen = set()
    iterator = _iterator(Recorded(_windows(40)), num_threads=num_threads, timeout_seconds=timeout)
    _numbers(iterator, 20)
    iterator.close()
    assert seen == ({f"batches-{i}" for i in range(readers)} or {"MainThread"})


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 3), (3, 0), (1, 4)])
def test_a_resumed_run_sees_exactly_the_batches_it_would_have_seen(before, after):
    windows = _windows(10)
    straight = list(itertools.islice(_iterator(windows, seed=5), 12))  # 48 windows: five epochs
    first = _iterator(windows, seed=5, num_threads=before)
    for expected in straight[:5]:
        _assert_same(next(first), expected)
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    second = _iterator(windows, seed=5, num_threads=after)
    next(second)  # as after a look at the first batch for its shapes
    second.set_state(state)
    for expected in straight[5:]:
        _assert_same(next(second), expected)
    second.close()


@pytest.mark.parametrize("rows", [[0, 1], [2, 3], [1], [0, 1, 2, 3]])
def test_a_process_reads_its_rows_of_the_very_batches(rows):
    """Of the endless ones, and of the last one of validation, which is filled up."""
    windows = _windows(11)
    whole, part = (pipeline.train_batches(windows, CONFIG, 3, chosen) for chosen in (None, rows))
    for _ in range(7):
        _assert_same(next(part), {key: value[rows] for key, value in next(whole).items()})
    assert part.get_state() == whole.get_state()
    whole, part = (pipeline.validation_batches(windows, 4, None, chosen) for chosen in (None, rows))
    for batch, some in zip(whole, part, strict=True):
        _assert_same(some, {key: value[rows] for key, value in batch.items()})


def test_a_seed_that_does_not_fit_is_named():
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=re.escape(f"config.seed={seed}")):
            pipeline.train_batches(_windows(2), CONFIG, seed)


@pytest.mark.parametrize(("num_windows", "batch_size"), [(10, 4), (8, 4), (1, 4), (5, 1)])
def test_validation_sees_every_window_once_in_order_and_pads_the_last_batch(num_windows, batch_size):
    windows = _windows(num_windows)
    batches = list(pipeline.validation_batches(windows, batch_size))
    assert len(batches) == -(-num_windows // batch_size)
    for key, array in windows[0].items():
        rows = np.concatenate([batch[key] for batch in batches])
        assert all(batch[key].shape == (batch_size, 8) for batch in batches)
        assert rows.dtype == array.dtype
        np.testing.assert_array_equal(rows[:num_windows], np.stack([window[key] for window in windows]))
        if key in ("segment_ids", "loss_mask", "num_bytes"):
            assert not rows[num_windows:].any()
    assert sum(batch["loss_mask"].sum() for batch in batches) == windows.num_targets


def test_a_short_validation_is_spread_over_the_whole():
    numbers = [
        number
        for batch in pipeline.validation_batches(_windows(10), 2, max_windows=4)
        for number in batch["targets"][:, 0].tolist()
    ]
    assert numbers == [0, 2, 5, 7]
    assert len(list(pipeline.validation_batches(_windows(10), 2, max_windows=99))) == 5


def test_a_validation_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="max_windows=0"):
        pipeline.validation_batches(_windows(2), 2, max_windows=0)
    with pytest.raises(ValueError, match="batch_size=0"):
        pipeline.validation_batches(_windows(2), 0)


def test_a_mixture_draws_each_source_by_its_weight_at_every_position():
    mixture = _mixture(50, 40, 30, shares=[0.5, 0.3, 0.2])
    order = mixture.order(0)
    counts = [0, 0, 0]
    for position in range(200):
        assert counts == mixture.drawn(position)
        assert all(abs(count - share * position) < 1.5 for count, share in zip(counts, (0.5, 0.3, 0.2), strict=True))
        counts[order[position]["targets"][0] // 100] += 1


def test_each_source_of_a_mixture_has_epochs_of_its_own():
    mixture = _mixture(30, 50, shares=[0.25, 0.75])
    drawn = [order["targets"][0] for order in itertools.islice(mixture.order(3), 300)]
    for part, size in ((0, 30), (1, 50)):
        numbers = [number - 100 * part for number in drawn if number // 100 == part]
        epochs = [tuple(numbers[i : i + size]) for i in range(0, len(numbers) - size, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(set(epochs)) == len(epochs) > 1


@given(st.integers(50, 90), st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(0, 20))
@settings(max_examples=10)
def test_every_window_comes_once_an_epoch_wherever_a_run_goes_on(num_windows, batch_size, seed, stop):
    windows = _windows(num_windows)
    num_batches = -(-2 * num_windows // batch_size)
    stop = min(stop, num_batches)
    first = _iterator(windows, seed, batch_size=batch_size)
    numbers = _numbers(first, stop)
    second = _iterator(windows, seed, batch_size=batch_size)
    second.set_state(first.get_state())
    numbers += _numbers(second, num_batches - stop)
    flat = [number for batch in numbers for number in batch]
    for start in (0, num_windows):
        assert sorted(flat[start : start + num_windows]) == list(range(num_windows))


@pytest.mark.parametrize("is_mixture", [False, True])
def test_batches_are_the_same_for_any_threads_and_any_processes_that_share_their_rows(is_mixture):
    windows = _mixture(60, 40, shares=[0.7, 0.3]) if is_mixture else _windows(60)
    whole = list(itertools.islice(_iterator(windows, seed=7), 18))  # more than an epoch of a source
    for num_threads, num_processes in ((0, 1), (1, 1), (2, 1), (4, 1), (1, 2), (2, 4)):
        size = CONFIG.batch_size // num_processes
        for rows in (range(i, i + size) for i in range(0, CONFIG.batch_size, size)):
            config = dataclasses.replace(CONFIG, num_threads=num_threads)
            before, after = (pipeline.train_batches(windows, config, 7, rows) for _ in range(2))
            found = list(itertools.islice(before, 7))
            after.set_state(json.loads(json.dumps(before.get_state())))
            found += itertools.islice(after, 11)
            for part, batch in zip(found, whole, strict=True):
                _assert_same(part, {key: value[list(rows)] for key, value in batch.items()})
            before.close()
            after.close()


def test_a_mixture_is_read_from_its_sources_with_one_tokenizer_for_all(tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 300)
    (tmp_path / "b.txt").write_text("cd" * 500)
    mixture = f"3*text:{tmp_path}/a.txt, 1*text:{tmp_path}/b.txt"
    config = dataclasses.replace(CONFIG, mixture=mixture, tokenizer="characters")
    corpus = pipeline.load(config)
    assert corpus.tokenizer.to_json()["characters"] == "abcd"
    assert corpus.train.names == (f"{tmp_path}/a.txt", f"{tmp_path}/b.txt")
    assert corpus.train.num_targets == 540 + 900 + 2
    assert corpus.train.drawn(400) == [300, 100]
    # All windows of all sources, each once.
    targets = [w["targets"][w["loss_mask"] == 1] for w in corpus.validation]
    assert corpus.tokenizer.decode(np.concatenate(targets)) == "ab" * 30 + "cd" * 50
    assert corpus.fingerprints() == pipeline.load(config, corpus.tokenizer).fingerprints()
    with pytest.raises(IndexError, match="window 181 is not among the 181 windows"):
        corpus.train[len(corpus.train)]


def test_a_vocabulary_is_known_without_encoding_anything(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("ab" * 300)
    monkeypatch.setattr(pipeline.cache, "load", None)
    for tokenizer, size in (("bytes", 257), ("characters", 3), ("bpe", 700)):
        config = dataclasses.replace(CONFIG, tokenizer=tokenizer, path=str(tmp_path), vocab_size=700)
        assert pipeline.vocab_size(config) == size


def test_prompts_are_left_out_of_the_loss_where_that_is_asked_for(tmp_path):
    record = {"question": "How many?", "answer": "One.\n#### 1"}
    (tmp_path / "train.jsonl").write_text(f"{json.dumps(record)}\n" * 20)
    prompt, target = len("Question: How many?\nAnswer:"), len(" One.\n#### 1")
    for loss_on, counted in (("all", prompt + target + 1), ("targets", target + 1)):
        config = dataclasses.replace(CONFIG, source="gsm8k", path=str(tmp_path), loss_on=loss_on)
        windows = pipeline.load(config).train
        assert sum(window["loss_mask"].sum() for window in windows) == 18 * counted
        assert sum(window["num_bytes"].sum() for window in windows) == 18 * (counted - 1)
