import errno
import json
import subprocess
import sys

import pytest

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.runs import workdir
from mixkabrn_jax.runs.config import flatten
from tests import toy

DATA = {"train": "3 targets, SHA-256 0", "validation": "1 targets, SHA-256 1"}


def created(tmp_path, **changes):
    directory = tmp_path / "runs" / "toy"
    workdir.create(directory, toy.experiment("text.txt", **changes), tokenizers.Characters("abc"), DATA)
    return directory


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_run_s_config_and_tokenizer_are_read_as_they_were(tmp_path):
    directory = created(tmp_path, seed=3)
    workdir.check(directory, toy.experiment("text.txt", seed=3))
    assert workdir.load_config(directory) == toy.experiment("text.txt", seed=3)
    assert workdir.load_tokenizer(directory).to_json() == {"name": "characters", "characters": "abc"}
    assert set(contents(directory)) == {"config.json", "tokenizer.json", "data.json"}


def test_another_config_is_named_field_by_field_and_nothing_is_changed(tmp_path):
    directory = created(tmp_path)
    before = contents(directory)
    with pytest.raises(ValueError, match=r"holds a run of another config") as error:
        workdir.check(directory, toy.experiment("text.txt", seed=1, model__ffn="mlp", optimizer__b1=0.5))
    message = str(error.value)
    for part in (
        "config.seed=1 (there: 0)",
        "config.model.ffn='mlp' (there: 'kan')",
        "config.optimizer.b1=0.5 (there: 0.9)",
    ):
        assert part in message
    assert message.count("there:") == 3
    assert contents(directory) == before


def test_a_field_that_only_one_side_has_is_named(tmp_path):
    directory = created(tmp_path)
    config = toy.experiment("text.txt")
    del config["model"]["remat"]
    with pytest.raises(ValueError, match=r"config\.model\.remat=None \(there: False\)"):
        workdir.check(directory, config)


BOOKKEEPING = {
    "log_every": 7,
    "evaluate_every": 7,
    "evaluate_windows": 7,
    "checkpoint__every": 7,
    "checkpoint__keep": 7,
    "checkpoint__keep_every": 7,
    "checkpoint__keep_best": 7,
    "profile__start": 7,
    "profile__steps": 7,
    "mesh__data": 7,
    "data__cache": "elsewhere",
    "data__num_threads": 7,
    "data__timeout_seconds": 7.0,
}


def test_bookkeeping_may_change_and_what_changed_is_written_and_told(tmp_path):
    directory = created(tmp_path)
    before = contents(directory)
    config = toy.experiment("text.txt", **BOOKKEEPING)
    workdir.check(directory, config)
    assert contents(directory) == before
    changes = workdir.create(directory, config, tokenizers.Characters("abc"), DATA)
    assert len(changes) == len(BOOKKEEPING)
    assert {"log_every 2 -> 7", "checkpoint.keep_best 0 -> 7", "data.timeout_seconds 60.0 -> 7.0"} <= set(changes)
    assert workdir.load_config(directory) == config
    assert contents(directory) == before | {"config.json": contents(directory)["config.json"]}
    assert workdir.create(directory, config, tokenizers.Characters("abc"), DATA) == []


def test_nothing_else_may_change(tmp_path):
    """No field is bookkeeping by mistake."""
    config = toy.experiment("text.txt")
    free = {name.replace("__", ".") for name in BOOKKEEPING} | {"mesh.expert", "mesh.model", "mesh.context"}
    assert {field for field in flatten(config) if workdir.is_bookkeeping(field)} == free
    directory = created(tmp_path)
    for field, value in flatten(config).items():
        if field not in free:
            changed = toy.experiment("text.txt", **{field.replace(".", "__"): f"not {value}"})
            with pytest.raises(ValueError, match=rf"config\.{field}='not "):
                workdir.create(directory, changed, tokenizers.Characters("abc"), DATA)


def test_more_steps_are_an_explicit_wish(tmp_path):
    directory = created(tmp_path)
    before, more = contents(directory), toy.experiment("text.txt", num_steps=24)
    with pytest.raises(ValueError, match=r"config\.num_steps=24 \(there: 12\); choose .* or give --extend"):
        workdir.check(directory, more)
    workdir.check(directory, more, extend=True)
    for steps, seed in ((6, 0), (24, 1)):
        with pytest.raises(ValueError, match="holds a run of another config") as error:
            workdir.check(directory, toy.experiment("text.txt", num_steps=steps, seed=seed), extend=True)
        assert "--extend" not in str(error.value)
        assert ("num_steps" in str(error.value)) == (steps == 6)
    assert contents(directory) == before
    assert workdir.create(directory, more, tokenizers.Bytes(), DATA, extend=True) == ["num_steps 12 -> 24"]
    assert workdir.load_config(directory)["num_steps"] == 24
    workdir.check(directory, more)


def test_creating_twice_overwrites_nothing(tmp_path):
    directory = created(tmp_path)
    before = contents(directory)
    assert workdir.create(directory, toy.experiment("text.txt"), tokenizers.Bytes(), DATA) == []
    assert contents(directory) == before


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_run_does_not_go_on_with_other_data(tmp_path, part):
    directory = created(tmp_path)
    before = contents(directory)
    config = toy.experiment("text.txt")
    with pytest.raises(ValueError, match=rf"^{directory} holds a run on other data: the {part} part") as error:
        workdir.create(directory, config, tokenizers.Characters("abc"), DATA | {part: "7 targets, SHA-256 0"})
    assert f"has 7 tokens and had {DATA[part][0]}; restore the data, or the version" in str(error.value)
    assert str(error.value).endswith(", or choose another workdir")
    assert contents(directory) == before


def test_what_differs_in_the_data_is_said_in_words_and_without_hashes(tmp_path):
    directory = created(tmp_path)
    there = {"train": "1000 targets, SHA-256 0; 50 targets, SHA-256 1", "validation": "9 targets, SHA-256 2"}
    (directory / "data.json").write_text(json.dumps(there))
    workdir.require_data(directory, workdir.load_data(directory), {"validation": there["validation"]}, "give up")
    here = {"train": "1000 targets, SHA-256 0; 40 targets, SHA-256 3", "validation": "9 targets, SHA-256 4"}
    with pytest.raises(ValueError, match="the train part has") as error:
        workdir.require_data(directory, workdir.load_data(directory), here, "give up")
    told = str(error.value)
    assert "the train part has 1,000 + 40 tokens and had 1,000 + 50, the validation part has as many tokens as" in told
    assert "it had (9), but other ones; restore the data" in told
    assert told.endswith("or give up")
    assert "SHA" not in told
    (directory / "data.json").unlink()
    assert workdir.load_data(directory) == {}
    with pytest.raises(ValueError, match="the train part, of which the run has no record, the validation part, of"):
        workdir.require_data(directory, workdir.load_data(directory), here, "give up")


def test_a_directory_that_another_process_trains_in_is_named_and_is_free_when_it_ends(tmp_path):
    holder = "import sys, fcntl; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    directory = created(tmp_path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holder, directory / "config.json"], **pipes) as process:
        process.stdout.readline()
        message = f"another process trains in {directory}"
        with pytest.raises(BlockingIOError, match=message), workdir.lock(directory):
            pass
        process.kill()
    with workdir.lock(directory):
        pass


def test_a_new_or_empty_directory_is_free(tmp_path):
    workdir.check(tmp_path, toy.experiment("text.txt"))
    workdir.check(tmp_path / "new", toy.experiment("text.txt"))
    assert not (tmp_path / "new").exists()
    assert workdir.load_tokenizer(tmp_path) is None


def test_a_file_in_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=rf"^{tmp_path / 'file'} is a file"):
        workdir.check(tmp_path / "file", toy.experiment("text.txt"))


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path} holds no config\.json: "):
        workdir.load_config(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path / 'none'} does not exist: "):
        workdir.load_config(tmp_path / "none")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_that_is_not_json_is_named(tmp_path, name):
    directory = created(tmp_path)
    (directory / name).write_text("{")
    load = {"config.json": workdir.load_config, "tokenizer.json": workdir.load_tokenizer}[name]
    with pytest.raises(ValueError, match=rf"{name} is not JSON"):
        load(directory)


def test_a_directory_of_foreign_files_is_not_written_into(tmp_path):
    for name in (".DS_Store", "lost+found", "log.txt", "slurm-12.out", "config.json.partial"):
        (tmp_path / name).touch()
    workdir.check(tmp_path, toy.experiment("text.txt"))
    for number in range(5):
        (tmp_path / f"photo {number}.jpg").touch()
    before = contents(tmp_path)
    message = r"has no config\.json but holds photo 0\.jpg, photo 1\.jpg, photo 2\.jpg and 2 more: choose"
    with pytest.raises(ValueError, match=message):
        workdir.create(tmp_path, toy.experiment("text.txt"), tokenizers.Bytes(), DATA)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints"])
def test_a_run_that_lost_its_config_is_not_written_into(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"has no config\.json but holds {name}: choose"):
        workdir.check(tmp_path, toy.experiment("text.txt"))


def test_a_process_killed_while_it_creates_a_workdir_can_be_run_again(tmp_path, monkeypatch):
    write = workdir.write_atomically
    config = toy.experiment("text.txt")
    for calls in (0, 1, 2, 3):
        left = [calls]

        def killed(path, text, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            write(path, text)

        directory = tmp_path / str(calls)
        monkeypatch.setattr(workdir, "write_atomically", killed)
        try:
            workdir.create(directory, config, tokenizers.Bytes(), DATA)
        except KeyboardInterrupt:
            assert calls < 3
        monkeypatch.setattr(workdir, "write_atomically", write)
        workdir.check(directory, config)
        workdir.create(directory, config, tokenizers.Bytes(), DATA)
        assert workdir.load_config(directory) == config


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("old")

    def full_disk(self, text):
        with self.open("w") as file:
            file.write(text[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*config\.json'"):
        workdir.write_atomically(path, json.dumps({"a": 1}))
    assert path.read_text() == "old"


def test_nested_fields_have_dotted_names():
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}


def test_a_directory_of_another_process_is_known_by_its_token(tmp_path):
    """Another machine's copy of the run looks the same."""
    token = workdir.leave_token(tmp_path)
    workdir.await_token(tmp_path, token)
    copy = tmp_path / "copy"
    for old in (None, "an older start"):
        if old is not None:
            copy.mkdir()
            (copy / "started.txt").write_text(old)
        with pytest.raises(
            FileNotFoundError, match=r"copy is not the directory of process 0, .* is not seen here after"
        ):
            workdir.await_token(copy, token, seconds=0.0)
    assert workdir.leave_token(tmp_path) != token
