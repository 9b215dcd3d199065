"""python -m experiments.cache: the tokens of a config on disk, by shards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import toy
from tests.test_documents import blocks

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def parsed(entry, tmp_path, *arguments):
    """The program with its flags read, and the text that it is to encode."""
    text = toy.write_text(tmp_path / "text.txt")
    program = entry("cache")
    given = (f"--config.data.path={text}", f"--config.data.cache={tmp_path}/cache")
    program.parse("--config=configs/lm.py:tiny", *given, *arguments)
    return program._module.main, text


def test_a_shard_says_that_others_are_still_to_be_made(entry, tmp_path, capsys):
    main, text = parsed(entry, tmp_path, "--shard=1", "--num_shards=2")
    assert main() == 0
    told = capsys.readouterr()
    assert "the blocks of shard 1 are made, others are not yet" in told.err
    assert json.loads(told.out.splitlines()[-1])["sources"] == [{"source": str(text), "complete": False}]


def test_what_is_in_the_cache_is_said_and_a_block_that_a_disk_changed_is_made_anew(entry, tmp_path, capsys, caplog):
    main, text = parsed(entry, tmp_path)
    assert main() == 0
    (about,) = json.loads(capsys.readouterr().out.splitlines()[-1])["sources"]
    assert about["complete"]
    assert about["train"]["bytes"] + about["validation"]["bytes"] == text.stat().st_size
    (block,) = (tmp_path / "cache").glob("*/train-00000.tokens")
    before, times = block.read_bytes(), (block.stat().st_atime_ns, block.stat().st_mtime_ns)
    block.write_bytes(before[:-1] + b"x")
    os.utime(block, ns=times)  # not even the time of its last change tells
    assert main() == 0
    assert "train-00000): those blocks are made anew" in caplog.text
    assert block.read_bytes() == before


def test_the_script_for_an_array_of_slurm_makes_all_blocks_between_its_tasks(tmp_path):
    [script] = [code for code in blocks(ROOT / "docs" / "batches.md", "bash") if "#SBATCH --array" in code]
    toy.write_text(tmp_path / "text.txt")
    script = script.replace("my_texts/", str(tmp_path / "text.txt")).replace("python -m", f"{sys.executable} -m")
    complete = []
    for task in (1, 0):  # the text has blocks of number 0 alone
        environment = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2", "XDG_CACHE_HOME": str(tmp_path)}
        run = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        [source] = json.loads(run.stdout.splitlines()[-1])["sources"]
        complete.append(source["complete"])
    assert complete == [False, True]
