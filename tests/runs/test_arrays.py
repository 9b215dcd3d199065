import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mixkabrn_jax.runs import arrays

ROOT = Path(__file__).parents[2]


class Moments(NamedTuple):
    count: jax.Array
    mean: dict
    nothing: None = None


def parts(number):
    """Trees of no model: of all kinds of nodes, dtypes and ranks."""
    rng = np.random.default_rng(number)
    matrix = jnp.asarray(rng.standard_normal((3, 4)), jnp.bfloat16)
    moments = Moments(jnp.int32(number), {"a": [jnp.ones(5, bool), matrix], "b": (jnp.uint8(number),)})
    return {"words": {"x": jnp.asarray(rng.standard_normal(7), jnp.float32)}, "optimizer": moments}


def assert_same_bits(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for leaf, want_leaf in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert leaf.dtype == want_leaf.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(want_leaf).tobytes()


def test_any_tree_is_written_and_read_bit_by_bit_whole_or_in_part(tmp_path):
    files, want = arrays.ArrayFiles(), parts(1)
    for name in ("a", "b"):
        files.save(tmp_path / name, want)
        files.wait()
    assert_same_bits(files.restore(tmp_path / "b", parts(2)), want)
    assert_same_bits(files.restore(tmp_path / "a", {"words": parts(2)["words"]}), {"words": want["words"]})
    assert {path.name for path in (tmp_path / "a").iterdir() if path.is_dir()} == set(want)
    files.close()


def test_checkpoints_as_orbax_writes_them_by_default_are_read_and_ours_by_orbax(tmp_path):
    """As those of runs from before `ArrayFiles`."""
    files, want = arrays.ArrayFiles(), parts(1)
    default = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    standard = {name: ocp.args.StandardSave(part) for name, part in want.items()}
    default.save(tmp_path / "orbax", args=ocp.args.Composite(**standard))
    assert list((tmp_path / "orbax").rglob("array_metadatas"))
    assert_same_bits(files.restore(tmp_path / "orbax", parts(2)), want)
    files.save(tmp_path / "ours", want)
    files.wait()
    standard = {name: ocp.args.StandardRestore(part) for name, part in parts(2).items()}
    restored = default.restore(tmp_path / "ours", args=ocp.args.Composite(**standard))
    assert_same_bits({name: restored[name] for name in want}, want)
    files.close()


FAILS = """
import resource, sys
from pathlib import Path
import jax.numpy as jnp, numpy as np
from mixkabrn_jax.runs import arrays
from absl import logging
logging.set_verbosity(logging.FATAL)  # as command_line.keep_to_our_sentences
folder, files = Path(sys.argv[1]), arrays.ArrayFiles()
random = np.random.default_rng(0).standard_normal
parts = {name: [jnp.asarray(random(size)) for size in range(1, 60)] for name in ("model", "optimizer")}
parts["optimizer"] += [jnp.asarray(random(100_000))] * 10  # no file may be as large as that
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for name in "ab":
    try:
        files.save(folder / name, parts)
        files.wait()
    except (OSError, ValueError) as error:
        print("File too large" in str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
files.save(folder / "c", parts)
files.wait()
print(len(files.restore(folder / "c", parts)["optimizer"]))
files.close()
"""


def test_a_write_that_fails_says_so_once_and_nothing_of_it_is_left_at_work(tmp_path):
    run = subprocess.run([sys.executable, "-c", FAILS, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["True", "True", "69"]


def test_differences_are_told_by_name():
    there = arrays.describe({"a": {"b": jnp.zeros((2, 3)), "c": jnp.int32(0)}, "d": [jnp.zeros(1)]})
    assert there == {"a.b": "float32[2, 3]", "a.c": "int32[]", "d.0": "float32[1]"}
    here = arrays.describe({"a": {"b": jnp.zeros((3, 2)), "e": jnp.int32(0)}, "d": [jnp.zeros(1)]})
    assert arrays.differences(there, here) == [
        "a.e is missing",
        "a.c is there, but nothing here has that name",
        "a.b is float32[2, 3], not float32[3, 2]",
    ]
    assert arrays.differences(there, there) == []
