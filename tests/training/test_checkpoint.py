import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.data import tokenizers
from mixkabrn_jax.training import optimizer, step
from mixkabrn_jax.training.checkpoint import CheckpointConfig, Checkpoints
from mixkabrn_jax.training.experiment import load_model
from mixkabrn_jax.training.workdir import claim
from tests import reference, toy

RULE = optimizer.make(optimizer.OptimizerConfig(**toy.section("optimizer")), 10)


def state_at(number, config):
    """A state in which no leaf is what `init` makes."""
    model = toy.make(config, seed=number)
    state = step.init(model, RULE)
    rng = np.random.default_rng(number)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)
        return leaf + number

    return model, jax.tree.map(draw, state)._replace(step=jnp.asarray(number, jnp.int32))


def assert_same_bits(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for leaf, want_leaf in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert leaf.dtype == want_leaf.dtype
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(want_leaf))


def test_a_checkpoint_is_the_state_bit_by_bit(tmp_path):
    config = toy.model_config(first_dense_layers=1, tied_embeddings=False)
    _, saved = state_at(7, config)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(saved, {"next_index": 7, "nested": {"a": [1, 2]}})
    checkpoints.close()

    _, other = state_at(3, config)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest_step() == 7
    restored, iterator_state = checkpoints.restore(7, other)
    assert_same_bits(restored, saved)
    assert iterator_state == {"next_index": 7, "nested": {"a": [1, 2]}}
    params, buffers = checkpoints.restore_model(7, other.params, other.buffers)
    assert_same_bits((params, buffers), (saved.params, saved.buffers))
    checkpoints.close()


def test_the_newest_checkpoints_are_kept(tmp_path):
    config = toy.model_config(ffn="mlp", num_experts=0)
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(**toy.section("checkpoint", keep=2)))
    assert checkpoints.latest_step() is None
    for number in (2, 4, 6):
        checkpoints.save(state_at(number, config)[1], {})
    checkpoints.close()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"4", "6"}


def test_what_is_half_written_is_no_checkpoint(tmp_path):
    config = toy.model_config(ffn="mlp", num_experts=0)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state_at(2, config)[1], {})
    checkpoints.close()
    whole = tmp_path / "checkpoints" / "2"
    # What orbax calls a step until everything in it is on disk.
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp-1").mkdir()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest_step() == 2
    checkpoints.close()
    assert whole.is_dir()


def test_a_run_s_model_is_loaded_with_its_tokenizer(tmp_path):
    experiment = toy.experiment("text.txt", model__ffn="mlp", model__first_dense_layers=1)
    config = toy.model_config(ffn="mlp", first_dense_layers=1, vocab_size=4)
    model, state = state_at(5, config)
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_model(tmp_path)
    claim(tmp_path, experiment, tokenizers.Characters("abc"), {})
    with pytest.raises(FileNotFoundError, match="holds no checkpoint yet"):
        load_model(tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint yet"):
        load_model(tmp_path)
    checkpoints.save(state, {})
    checkpoints.close()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    loaded, tokenizer = load_model(tmp_path)
    assert tokenizer.decode([0, 1, 2]) == "abc"
    assert_same_bits(nnx.state(loaded), nnx.state(nnx.merge(nnx.graphdef(model), state.params, state.buffers)))
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    # The model works: it is not only a bag of arrays.
    forward = jax.jit(lambda model, tokens: model(tokens).logits_BTW)
    want = forward(nnx.merge(nnx.graphdef(model), state.params, state.buffers), toy.tokens(0, 1, 4, vocab_size=4))
    reference.assert_close(forward(loaded, toy.tokens(0, 1, 4, vocab_size=4)), want)


@pytest.mark.parametrize("field", ["every", "keep"])
def test_a_field_that_cannot_be_is_named(field):
    with pytest.raises(ValueError, match=f"{field}=0"):
        CheckpointConfig(**toy.section("checkpoint", **{field: 0}))
