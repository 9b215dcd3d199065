import errno
import json
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.runs import hashes
from mixkabrn_jax.runs.checkpoint import Checkpoints, DoesNotFitError
from mixkabrn_jax.runs.policy import CheckpointConfig
from mixkabrn_jax.training import optimizer, step
from tests import toy

PLAIN = {"ffn": "mlp", "num_experts": 0}
OPTIMIZER = optimizer.make(optimizer.OptimizerConfig(**toy.section("optimizer")), 10)


def state_at(number, config, vocab_size=toy.VOCAB_SIZE):
    """A state in which no leaf is what `init` makes."""
    model = toy.make(config, seed=number, vocab_size=vocab_size)
    state = step.init(model, OPTIMIZER)
    rng = np.random.default_rng(number)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)
        return leaf + number

    return model, jax.tree.map(draw, state)._replace(step=jnp.asarray(number, jnp.int32))


def save(checkpoints, state, iterator_state):
    checkpoints.save(int(state.step), step.parts(state), iterator_state)


def restore(checkpoints, number, like):
    restored, iterator_state = checkpoints.restore(number, step.parts(like))
    return step.from_parts(restored), iterator_state


def assert_same_bits(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for leaf, want_leaf in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert leaf.dtype == want_leaf.dtype
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(want_leaf))


def test_a_checkpoint_is_the_state_bit_by_bit(tmp_path):
    config = toy.model_config(first_dense_layers=1, tied_embeddings=False)
    _, saved = state_at(7, config)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, saved, {"next_index": 7, "nested": {"a": [1, 2]}})
    checkpoints.close()

    _, other = state_at(3, config)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest_step() == 7
    restored, iterator_state = restore(checkpoints, 7, other)
    assert_same_bits(restored, saved)
    assert iterator_state == {"next_index": 7, "nested": {"a": [1, 2]}}
    part = checkpoints.restore(7, {"model": step.parts(other)["model"]})[0]["model"]
    assert_same_bits(part, {"params": saved.params, "buffers": saved.buffers})
    checkpoints.close()


def test_training_on_with_the_donated_state_changes_nothing_of_what_is_written(tmp_path):
    _, state = state_at(7, toy.model_config(**PLAIN))
    want = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0 - 1, state), donate_argnums=0)
    other = jax.tree.map(jnp.zeros_like, state)
    overwrite(jax.tree.map(jnp.zeros_like, state))  # compiled
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, state, {})
        for _ in range(3):
            state = overwrite(state)
        jax.block_until_ready(state)
        assert checkpoints.latest_step() is None, "it is to be overwritten while it is being written"
    with Checkpoints(tmp_path) as checkpoints:
        assert_same_bits(restore(checkpoints, 7, other)[0], want)


def test_a_checkpoint_says_of_itself_what_it_is(tmp_path):
    about = {"config": toy.experiment("text.txt"), "data": {"train": "abc"}}
    _, state = state_at(2, toy.model_config(**PLAIN))
    with Checkpoints(tmp_path, about=about) as checkpoints:
        save(checkpoints, state, {"next_index": 3})
    run = json.loads((tmp_path / "2" / "run.json").read_text())
    arrays = run.pop("arrays")
    assert run == {"step": 2, "iterator": {"next_index": 3}, "about": about}
    assert len(arrays) == len(jax.tree.leaves(state))
    assert arrays["model.params.embedding_WD.value"] == "float32[29, 16]"
    assert arrays["optimizer.step"] == "int32[]"


def policy(**changes):
    return CheckpointConfig(**toy.section("checkpoint", **changes))


def test_what_the_policy_keeps_is_deleted_neither_too_early_nor_too_late(tmp_path):
    config = toy.model_config(**PLAIN)
    with Checkpoints(tmp_path, policy(every=2, keep=1, keep_every=6, keep_best=1)) as checkpoints:
        assert checkpoints.latest_step() is None
        for number, loss in ((2, 3.0), (4, 1.0), (6, 2.0), (8, 0.5), (10, 2.5)):
            save(checkpoints, state_at(number, config)[1], {})
            checkpoints.note_loss(number, loss)
    # 10 is the newest, 6 is kept for good, and 8 is the best.
    assert {path.name for path in tmp_path.iterdir()} == {"6", "8", "10"}


@pytest.mark.parametrize(
    ("changes", "losses", "want"),
    [
        ({"keep": 2}, {4: 0.1}, {16, 20}),
        ({"keep": 9}, {}, {4, 8, 12, 16, 20}),
        ({"keep": 1, "keep_every": 8}, {}, {8, 16, 20}),
        ({"keep": 1, "keep_best": 2}, {4: 0.5, 8: 0.25, 12: 0.5, 16: 2.0, 20: 0.1}, {4, 8, 20}),
        ({"keep": 1, "keep_best": 3}, {8: 1.0}, {8, 20}),
        ({"keep": 1, "keep_every": 16, "keep_best": 1}, {4: 1.0, 16: 2.0}, {4, 16, 20}),
    ],
)
def test_the_newest_every_so_many_and_the_best_are_kept(changes, losses, want):
    steps = [4, 8, 12, 16, 20]
    assert policy(**changes).kept(steps, losses) == want
    # Whether the newest is validated by then makes no difference.
    assert policy(**changes).kept(steps, {20: 0.0} | losses) == want


def test_what_is_half_written_is_no_checkpoint_and_goes(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, state_at(2, toy.model_config(**PLAIN))[1], {})
    # What a step is called until everything in it is on disk: by orbax, and before its hashes are.
    for name in ("4.partial.orbax-checkpoint-tmp", "6.partial"):
        shutil.copytree(tmp_path / "2", tmp_path / name)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == checkpoints.latest_intact_step() == 2
    assert len(list(tmp_path.iterdir())) == 3
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_intact_step() == 2
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def train_on(checkpoints):
    """Steps of a run, for ten seconds."""
    for _ in range(1000):
        checkpoints.check_for_errors()
        time.sleep(0.01)


def test_a_write_that_fails_does_not_hide_what_else_ended_the_run(tmp_path, monkeypatch, caplog):
    def fail(_directory):
        raise OSError(errno.ENOSPC, "No space left on device")

    _, state = state_at(2, toy.model_config(**PLAIN))
    monkeypatch.setattr(hashes, "write", fail)

    def diverge():
        with Checkpoints(tmp_path) as checkpoints:
            save(checkpoints, state, {})
            raise FloatingPointError("diverged")

    with pytest.raises(FloatingPointError, match="diverged"):
        diverge()
    assert "the checkpoint of step 2 could not be written" in caplog.text


def test_a_write_that_fails_is_told_of_at_the_next_step_and_harms_nothing(tmp_path, monkeypatch):
    config = toy.model_config(**PLAIN)
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state_at(2, config)[1], {})
    while checkpoints.latest_step() is None:
        time.sleep(0.01)
    write, full = hashes.write, OSError(errno.ENOSPC, "No space left on device")

    def fail(_):
        raise full

    monkeypatch.setattr(hashes, "write", fail)
    save(checkpoints, state_at(4, config)[1], {})
    with pytest.raises(OSError, match=r"step 4 could not be written to .*: the disk is full; .* is that of step 2"):
        train_on(checkpoints)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]
    checkpoints.check_for_errors()  # once is enough
    full = OSError(errno.EIO, "Input/output error")
    save(checkpoints, state_at(4, config)[1], {})
    with pytest.raises(OSError, match=r"could not be written .*: \[Errno 5\] Input/output error; the last good one"):
        save(checkpoints, state_at(6, config)[1], {})
    monkeypatch.setattr(hashes, "write", write)
    save(checkpoints, state_at(8, config)[1], {})
    checkpoints.close()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 8]
        assert checkpoints.latest_intact_step() == 8


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """Of steps 2 and 4."""
    directory = tmp_path_factory.mktemp("two")
    with Checkpoints(directory) as checkpoints:
        for number in (2, 4):
            save(checkpoints, state_at(number, toy.model_config(**PLAIN))[1], {})
    return directory


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damage_to_any_file_sends_a_run_back_to_the_checkpoint_before(two_checkpoints, tmp_path, caplog):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints, directory)
    paths = [path for path in (directory / "4").rglob("*") if path.is_file()]
    assert len(paths) > 15
    names = []
    for path in paths:
        for damage in (flip, lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.unlink()):
            shutil.copytree(two_checkpoints / "4", directory / "4", dirs_exist_ok=True)
            damage(path)
            with Checkpoints(directory) as checkpoints:
                assert checkpoints.latest_intact_step() == 2, path
                assert checkpoints.steps() == [2]
            name = path.relative_to(directory / "4").as_posix()
            names.append(f"4.damaged{'' if not names else f'-{len(names) + 1}'}")
            message = f"{directory}/4 is damaged (kept as {names[-1]}): "
            # Of the list itself, what it says of a file may be told.
            message += "" if name == "hashes.json" else f"{name} "
            assert message in caplog.messages[-1]
            assert caplog.messages[-1].endswith("; going on from step 2")
    assert {path.name for path in directory.iterdir()} == {"2", *names}


def test_with_no_intact_checkpoint_a_run_neither_starts_anew_nor_touches_anything(two_checkpoints, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints, directory)
    flip(directory / "4" / "run.json")
    (directory / "2" / "stray").write_text("")
    for _ in range(2):
        with Checkpoints(directory) as checkpoints, pytest.raises(OSError, match="put back a copy") as raised:
            checkpoints.latest_intact_step()
        assert "4: run.json has changed" in str(raised.value)
        assert "2: stray does not belong there" in str(raised.value)
        assert {path.name for path in directory.iterdir()} == {"2", "4"}


def without(tree, *path):
    """A copy of nested states without one of their entries."""
    if len(path) == 1:
        return type(tree)({key: value for key, value in tree.items() if key != path[0]})
    return type(tree)({key: without(tree[key], *path[1:]) if key == path[0] else tree[key] for key in tree})


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(two_checkpoints):
    _, state = state_at(4, toy.model_config(**PLAIN))
    adam = state.optimizer[1]
    wrong = {
        "model.params.embedding_WD.value is float32[29, 16], not float32[31, 16]": state_at(
            4, toy.model_config(**PLAIN), vocab_size=31
        )[1],
        "model.params.embedding_WD.value is float32[29, 16], not bfloat16[29, 16]": state._replace(
            params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.params)
        ),
        "optimizer.optimizer.1.count is int32[], not float32[]": state._replace(
            optimizer=(state.optimizer[0], adam._replace(count=jnp.zeros(())), *state.optimizer[2:])
        ),
        "model.params.embedding_WD.value is there, but nothing here has that name": state._replace(
            params=without(state.params, "embedding_WD")
        ),
        "model.buffers.extra is missing": state._replace(buffers=nnx.State({"extra": jnp.zeros(3)})),
        "optimizer.sums.load_LE is missing": state._replace(totals=state.totals._replace(load_LE=jnp.zeros((2, 4)))),
    }
    with Checkpoints(two_checkpoints, read_only=True) as checkpoints:
        for message, abstract in wrong.items():
            with pytest.raises(DoesNotFitError) as raised:
                restore(checkpoints, 4, abstract)
            assert message in str(raised.value)
            if message.startswith("model"):
                with pytest.raises(DoesNotFitError) as raised:
                    checkpoints.restore(4, {"model": step.parts(abstract)["model"]})
                assert message in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value"), [("every", 0), ("keep", 0), ("keep_every", -4), ("keep_every", 6), ("keep_best", -1)]
)
def test_a_field_that_cannot_be_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        policy(**{field: value})
