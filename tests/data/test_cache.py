"""Tokens on disk: made once, by any number of processes, killed at any time, and never wrong."""

import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from mixkabrn_jax.data import blocks, cache, documents, filling, tokenizers
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.splitting import Split
from mixkabrn_jax.data.stream import TokenStream
from tests import toy

ROOT = pathlib.Path(__file__).parents[2]
BYTES = tokenizers.Bytes()


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A folder of twelve files in two domains, each split in several blocks."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 700)
    for i in range(12):
        (tmp_path / "texts" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / "ab"[i % 2] / f"{i:02}.txt").write_text(f"line {i} of é\n" * (20 + i))
    return tmp_path / "texts"


def config(texts, **changes):
    changes = {"validation_fraction": 0.2, "cache": str(texts.parent / "cache")} | changes
    return DataConfig(**toy.section("data", path=str(texts), **changes))


def load(texts, tokenizer=BYTES, **changes):
    return cache.load(Split(config(texts, **changes)), tokenizer)


def tokens(streams):
    return [stream.read(0, len(stream)).tolist() for stream in streams]


def expected(texts, **changes):
    """Document by document."""
    found = {"train": [], "validation": []}
    for name, document in Split(config(texts, **changes)):
        found[name] += [BYTES.separator, *document.content]
    return [[*found[name], BYTES.separator] for name in ("train", "validation")]


def files(folder):
    """Of the one cache below it."""
    (key,) = (path for path in folder.iterdir() if path.is_dir())
    return {path.name: path.read_bytes() for path in sorted(key.iterdir())}


@pytest.fixture
def no_reading(monkeypatch):
    """From the call on, reading the source fails."""

    def refuse():
        def fail(*_):
            raise RuntimeError("the source is read")
            yield

        monkeypatch.setattr(Split, "__iter__", fail)
        monkeypatch.setattr(Split, "_measure", fail)

    return refuse


def test_a_second_start_reads_what_the_first_one_wrote_and_nothing_else(texts, no_reading):
    first = load(texts)
    assert tokens(first) == expected(texts)
    assert sum(name.endswith(".tokens") for name in files(texts.parent / "cache")) > 4
    assert not [name for name in files(texts.parent / "cache") if name.endswith((".lock", ".partial"))]
    no_reading()
    second = load(texts)
    assert tokens(second) == tokens(first)
    assert [stream.fingerprint() for stream in second] == [stream.fingerprint() for stream in first]
    assert sum(counts[0] for stream in second for counts in stream.domains.values()) >= 12


def test_the_hash_in_the_manifest_is_that_of_the_tokens(texts):
    streams = load(texts)
    for stream in streams:
        in_memory = TokenStream(
            [
                blocks.Block(
                    stream.read(0, len(stream) - 1).astype("<u2"), *[np.zeros((2, 1), np.int32)] * 2, {"": [0] * 3}
                )
            ],
            BYTES,
        )
        assert stream.fingerprint() == in_memory.fingerprint()


@pytest.mark.parametrize("length", [0, 200])
def test_the_fingerprint_of_a_part_is_its_stream_s_whether_it_is_kept_or_read(texts, no_reading, monkeypatch, length):
    """Of documents that come in parts too."""
    if length:
        monkeypatch.setattr(documents, "PART_BYTES", length)
    (texts / "a" / "long.txt").write_text("a long line of words\n" * 60)
    read = {part: cache.fingerprint(Split(config(texts)), part, BYTES) for part in ("train", "validation")}
    assert not (texts.parent / "cache").exists()
    streams = load(texts)
    assert read == {part: stream.fingerprint() for part, stream in streams._asdict().items()}
    no_reading()
    assert read == {part: cache.fingerprint(Split(config(texts)), part, BYTES) for part in ("train", "validation")}


def test_what_the_law_says_is_marked_as_information_and_what_is_left_out_is_not(tmp_path, caplog):
    set_of = config(tmp_path / "m2d2", source="m2d2")
    (tmp_path / "m2d2" / "cs.CL").mkdir(parents=True)
    (tmp_path / "m2d2" / "cs.CL" / "train.txt").write_text("a paper\n" * 40)
    (tmp_path / "m2d2" / "cs.CL" / "valid.txt").write_text("a paper\n")
    (tmp_path / "m2d2" / "cs.CL" / "other.txt").touch()
    for _ in range(2):
        caplog.clear()
        cache.load(Split(set_of), BYTES)
        told = {record.getMessage(): getattr(record, "is_information", False) for record in caplog.records}
        assert [is_information for line, is_information in told.items() if "CC BY-NC" in line] == [True]
        assert [is_information for line, is_information in told.items() if "left out" in line] == [False]


def test_other_data_other_fields_and_another_tokenizer_have_caches_of_their_own(texts):
    whole = load(texts)
    assert tokens(load(texts, validation_fraction=0.4)) == expected(texts, validation_fraction=0.4)
    assert tokens(load(texts, include="a/*")) == expected(texts, include="a/*")
    characters = tokenizers.Characters.from_documents(document for _, document in Split(config(texts)))
    assert tokens(load(texts, characters)) != tokens(whole)
    (texts / "a" / "00.txt").write_text("LINE 0 of é\n" * 20)  # of the same size
    assert tokens(load(texts)) == expected(texts) != tokens(whole)
    assert len([path for path in (texts.parent / "cache").iterdir() if path.is_dir()]) == 5


@pytest.mark.parametrize("damage", ["changed", "short", "gone", "manifest"])
def test_a_damaged_block_is_noticed_and_made_anew(texts, damage, caplog):
    first = tokens(load(texts))
    (folder,) = (texts.parent / "cache").iterdir()
    path = folder / ("manifest.json" if damage == "manifest" else "train-00001.tokens")
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    else:
        path.write_bytes(content[:-2])
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.tokens")}
    assert tokens(load(texts)) == first
    assert ("train-00001): those blocks are made anew" in caplog.text) == (damage != "manifest")
    remade = {path.name for path in folder.glob("*.tokens") if path.stat().st_mtime_ns != times.get(path)}
    assert remade == (set() if damage == "manifest" else {"train-00001.tokens"})


def test_a_damaged_block_of_an_unfinished_cache_is_made_anew(texts):
    first = tokens(load(texts))
    (folder,) = (texts.parent / "cache").iterdir()
    (folder / "manifest.json").unlink()
    path = folder / "train-00001.tokens"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert tokens(load(texts)) == first


def test_shards_make_the_very_files_that_one_process_makes(texts):
    load(texts)
    one = files(texts.parent / "cache")
    other = config(texts, cache=str(texts.parent / "other"))
    for shard in (2, 0):
        assert cache.fill(Split(other), BYTES, shard, 3) is None
        made = {int(name[-12:-7]) % 3 for name in files(texts.parent / "other") if name.endswith(".tokens")}
        assert made == ({2} if shard == 2 else {0, 2})
    assert cache.fill(Split(other), BYTES, 1, 3) is not None
    several = files(texts.parent / "other")
    assert one.keys() == several.keys()
    for name in one.keys() - {"manifest.json"}:
        assert several[name] == one[name]


PROGRAM = """
import json, os, sys, time
from mixkabrn_jax.data import blocks, cache, documents, filling, tokenizers
from mixkabrn_jax.data.config import DataConfig
from mixkabrn_jax.data.splitting import Split
from mixkabrn_jax.data.stream import TokenStream
blocks.BLOCK_BYTES = 700
write = filling.Filling._write
def slow(self, name, documents, **changes):
    write(self, name, documents, **changes)
    print(name, flush=True)
    time.sleep(float(sys.argv[2]))
filling.Filling._write = slow
cache.load(Split(DataConfig(**json.loads(sys.argv[1]))), tokenizers.Bytes())
"""


def start(texts, seconds_a_block):
    fields = json.dumps(
        toy.section("data", path=str(texts), cache=str(texts.parent / "cache"), validation_fraction=0.2)
    )
    command = [sys.executable, "-c", PROGRAM, fields, str(seconds_a_block)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_process_that_is_killed_leaves_whole_blocks_and_the_next_one_goes_on(texts):
    killed = start(texts, 60)
    made = [killed.stdout.readline().strip()]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (folder,) = (texts.parent / "cache").iterdir()
    assert not (folder / "manifest.json").exists()
    (folder / "train-00004.tokens.1-ab.partial").write_bytes(b"half")
    times = {name: (folder / f"{name}.tokens").stat().st_mtime_ns for name in made}
    assert tokens(load(texts)) == expected(texts)
    assert {name: (folder / f"{name}.tokens").stat().st_mtime_ns for name in made} == times
    assert not list(folder.glob("*.partial"))


def test_processes_that_start_together_share_the_blocks(texts):
    both = [start(texts, 0.05), start(texts, 0.05)]
    names = []
    for process in both:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        names += out.split()
    blocks_there = {name.removesuffix(".tokens") for name in files(texts.parent / "cache") if name.endswith(".tokens")}
    assert sorted(names) == sorted(blocks_there)  # each by one of them
    assert tokens(load(texts)) == expected(texts)


def test_a_block_whose_maker_was_killed_is_taken_over(texts):
    """Another process holds a block's lock for a while and ends without making it."""
    split = Split(config(texts))
    folder = pathlib.Path(split.config.cache, cache._tokens_key(split, BYTES))
    folder.mkdir(parents=True)
    program = "import sys, time; from mixkabrn_jax.locks import try_lock; f = open(sys.argv[1], 'ab'); "
    program += "try_lock(f); print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, str(folder / "train-00001.lock")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        threading.Timer(0.5, holder.kill).start()
        assert tokens(cache.load(split, BYTES)) == expected(texts)


def test_what_was_left_out_and_what_the_law_says_is_logged_at_every_start(texts, caplog):
    (texts / "a" / "empty.txt").touch()
    (texts / "a" / "broken.txt").write_bytes(b"text \xff and text\n" * 1)
    for _ in range(2):
        caplog.clear()
        load(texts)
        assert f"config.data.path={str(texts)!r}: left out 1 empty (first: a/empty.txt)" in caplog.text
        assert "1 places were no characters and are U+FFFD now (1 of them in a/broken.txt)" in caplog.text


def test_a_folder_that_cannot_be_written_is_named(texts):
    (texts.parent / "file").touch()
    place = str(texts.parent / "file" / "cache")
    with pytest.raises(
        cache.CacheError, match=re.escape(f"config.data.cache: tokens cannot be kept in {place!r} (Not")
    ):
        load(texts, cache=place)


def test_a_users_folder_that_cannot_be_written_is_done_without_and_said_so(texts, monkeypatch, caplog):
    (texts.parent / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(texts.parent / "file"))
    for _ in range(2):
        assert tokens(load(texts, cache="")) == expected(texts)
    assert caplog.text.count("cannot be written (Not a directory): tokens are kept for this process alone") == 1
    with pytest.raises(cache.CacheError, match=r"name a folder by config\.data\.cache that all processes share"):
        cache.fill(Split(config(texts, cache="")), BYTES, 0, 2)


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half(texts, monkeypatch):
    def fail(_, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(blocks, "write", fail)
        with pytest.raises(cache.CacheError, match=r"config\.data\.cache: .*No space left on device\): free some room"):
            load(texts)
    assert not list((texts.parent / "cache").glob("*/*.partial"))
    assert tokens(load(texts)) == expected(texts)


def test_a_file_that_changes_while_it_is_read_is_an_error(texts, monkeypatch):
    write = filling.Filling._write

    def touch(self, name, documents, **changes):
        os.utime(texts / "a" / "00.txt", (1, 1))
        write(self, name, documents, **changes)

    monkeypatch.setattr(filling.Filling, "_write", touch)
    with pytest.raises(ValueError, match=re.escape(f"config.data.path={str(texts)!r} changed while it was read")):
        load(texts)


def test_a_tokenizer_is_made_once_and_kept(texts, no_reading):
    chosen = config(texts, tokenizer="characters")
    made = cache.tokenizer(chosen, [Split(chosen)])
    assert "é" in made.to_json()["characters"]
    no_reading()
    again = cache.tokenizer(chosen, [Split(chosen)])
    assert again.fingerprint() == made.fingerprint()


def test_a_bpe_learns_from_training_documents_alone(texts, monkeypatch):
    chosen = config(texts, tokenizer="bpe", vocab_size=300)
    seen = []

    def make(_, documents):
        seen.extend(documents())
        return BYTES

    monkeypatch.setattr(tokenizers, "make", make)
    cache.tokenizer(chosen, [Split(chosen)])
    assert seen == [document for name, document in Split(chosen) if name == "train"]


def test_a_cache_in_a_folder_of_others_needs_no_right_to_write(texts, monkeypatch):
    first = tokens(load(texts))

    def fail(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(cache._Home, "to_write", fail)
    monkeypatch.setattr(filling, "atomic", fail)
    assert tokens(load(texts)) == first


def test_a_lock_file_that_a_killed_process_left_is_no_lock(texts):
    split = Split(config(texts))
    folder = pathlib.Path(split.config.cache, cache._tokens_key(split, BYTES))
    folder.mkdir(parents=True)
    (folder / "train-00000.lock").touch()
    (folder / "manifest.lock").touch()
    assert tokens(cache.load(split, BYTES)) == expected(texts)


def test_a_block_that_is_cut_short_while_it_is_read_is_an_error(texts):
    streams = load(texts)
    (folder,) = (texts.parent / "cache").iterdir()
    os.truncate(folder / "train-00001.tokens", 100)
    with pytest.raises(OSError, match="the token cache is cut short: start again"):
        tokens(streams)


def test_prompts_are_found_on_disk_as_in_memory(tmp_path):
    def said(i):
        """A conversation of one to three answers."""
        turns = [("user", "q" * (1 + i % 5)), ("assistant", "a" * (1 + i % 3))] * (1 + i % 3)
        return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})

    (tmp_path / "train.jsonl").write_text("".join(f"{said(i)}\n" for i in range(40)))
    split = Split(config(tmp_path, source="text", template="chat", cache=str(tmp_path.parent / "cache")))
    on_disk = cache.load(split, BYTES).train
    in_memory = TokenStream([blocks.encode(list(split.training()), BYTES)], BYTES)
    assert on_disk.is_prompt(0, len(on_disk)).tolist() == in_memory.is_prompt(0, len(in_memory)).tolist()
    for start in range(0, len(on_disk), 7):
        assert on_disk.is_prompt(start, start + 9).tolist() == in_memory.is_prompt(0, start + 9)[start:].tolist()
        assert on_disk.document(start) == in_memory.document(start)


def test_helpers_make_the_very_files_that_one_process_makes(texts, monkeypatch):
    chosen = config(texts, tokenizer="bpe", vocab_size=280)
    bpe = cache.tokenizer(chosen, [Split(chosen)])
    monkeypatch.setattr(filling, "_FEW_BLOCKS", 1000)
    cache.load(Split(chosen), bpe)
    monkeypatch.setattr(filling, "_FEW_BLOCKS", 3)
    monkeypatch.setattr(filling.workers, "num_cores", lambda: 3)
    # This process waits until one of them has made a block.
    make_blocks = filling.Filling._make_blocks

    def wait(self):
        deadline = time.monotonic() + 60
        while not list(self._folder.glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        helped.append(len(list(self._folder.glob("*.json"))))
        return make_blocks(self)

    helped, wait.__name__ = [], "_make_blocks"  # by which it is found in another process
    monkeypatch.setattr(filling.Filling, "_make_blocks", wait)
    cache.load(Split(config(texts, tokenizer="bpe", vocab_size=280, cache=str(texts.parent / "other"))), bpe)
    assert helped[0] > 0
    one, other = files(texts.parent / "cache"), files(texts.parent / "other")
    assert one.keys() == other.keys()
    for name in one.keys() - {"manifest.json"}:
        assert other[name] == one[name]
