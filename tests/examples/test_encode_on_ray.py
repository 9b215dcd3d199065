"""The example for Ray, which need not be installed: its task alone, and its program with a stand-in for Ray."""

import os
import sys
import types
from pathlib import Path

import pytest

from examples import encode_on_ray
from mixkabrn_jax.data import blocks, cache
from mixkabrn_jax.data.splitting import Split
from tests import toy


@pytest.fixture
def section(tmp_path, monkeypatch):
    """`config.data` of a text of several blocks."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4096)
    (tmp_path / "texts").mkdir()
    for number in range(8):
        (tmp_path / "texts" / f"{number}.txt").write_text("to be or not to be\n" * 150)
    return toy.section("data", path=str(tmp_path / "texts"), cache=str(tmp_path / "tokens"))


def made(folder):
    return {path.name for path in Path(folder).rglob("*.tokens")}


def test_each_task_makes_its_share_of_the_blocks_and_the_last_one_says_where_they_are(section):
    shares = []
    for shard in range(3):
        [folder] = encode_on_ray.encode(section, shard, 3)
        shares.append(made(section["cache"]).difference(*shares))
        assert (folder is None) == (shard < 2)
    assert all(shares)
    assert all(int(Path(name).stem[-5:]) % 3 == shard for shard, share in enumerate(shares) for name in share)
    split = Split(cache.DataConfig(**section))
    assert folder == str(cache.fill(split, cache.tokenizer(split.config, [split])))
    assert encode_on_ray.encode(section, 0, 3) == [folder]


def test_the_program_gives_each_task_its_number_and_prints_what_is_complete(section, monkeypatch, capsys):
    ray = types.ModuleType("ray")
    ray.init = lambda **_: None
    ray.remote = lambda function: types.SimpleNamespace(remote=lambda *given: lambda: function(*given))
    ray.get = lambda tasks: [task() for task in reversed(tasks)]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.chdir(os.path.dirname(section["path"]))
    encode_on_ray.main("texts", "tokens", "3")
    [folder] = Path("tokens").glob("*/manifest.json")
    assert capsys.readouterr().out == f"['{folder.parent.resolve()}']\n"
