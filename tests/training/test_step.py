import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax import sharding
from mixkabrn_jax.layers import variables
from mixkabrn_jax.models.quantize import weight_statistics
from mixkabrn_jax.sharding import MeshConfig
from mixkabrn_jax.training import optimizer, step, totals
from mixkabrn_jax.training.evaluate import evaluate
from mixkabrn_jax.training.objectives.language import LanguageObjective
from mixkabrn_jax.training.step import StepConfig
from tests import reference, toy

# A large epsilon: Adam's first steps would turn a rounding of a gradient near 0 into a whole step otherwise.
ADAMW = optimizer.make(optimizer.OptimizerConfig(**toy.section("optimizer", epsilon=1.0, peak_rate=0.5)), 10)
CONFIG = toy.model_config(ffn="mlp", mixer="attention", router__dispatch="dense", router__device_groups=2)
# Losses that are means over tokens or rows, and so add up over microbatches; and all auxiliary losses.
LINEAR = {"balance_loss": 0.0, "sequence_balance_loss": 0.5, "device_balance_loss": 0.0, "router_z_loss": 0.25}
ALL = {"balance_loss": 0.5, "sequence_balance_loss": 0.25, "device_balance_loss": 0.125, "router_z_loss": 0.0625}


@functools.cache
def make(**changes):
    """(a jitted step, the state before it) of a routed model; the state is not donated, so tests can look back.

    Compiling takes longer than all the rest, so tests share a few settings.
    """
    model = toy.make(CONFIG)
    return jax.jit(toy.train_step(model, ADAMW, **changes)), step.init(model, ADAMW)


def objective(**changes):
    return LanguageObjective(**toy.section("objective", **changes))


def even_batch(seed=0):
    return toy.batch(seed, batch_size=8)


def ragged_batch():
    """Rows of different numbers of tokens: a mean of means would not be the mean."""
    batch = even_batch()
    for b in range(8):
        batch["segment_ids"][b, 12 - b :] = 0
    batch["loss_mask"] = (batch["segment_ids"] > 0).astype(np.float32)
    batch["num_bytes"] = batch["num_bytes"] * (batch["segment_ids"] > 0)
    return batch


def assert_alike(got, want, atol=None):
    for (path, leaf), want_leaf in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        bound = toy.rounding(np.asarray(want_leaf, np.float64), CONFIG, 8 * 12) if atol is None else atol
        try:
            reference.assert_close(leaf, want_leaf, atol=bound)
        except AssertionError as error:
            raise AssertionError(f"{jax.tree_util.keystr(path)}: {error}") from error


def test_accumulating_microbatches_is_one_large_batch():
    """Without the two balance losses that are no sums over rows: those are the mean of those of the microbatches."""
    batch = ragged_batch()
    batch["segment_ids"][3] = 0  # a row of padding has no part in the mean over rows
    batch["loss_mask"] = (batch["segment_ids"] > 0).astype(np.float32)
    update, state = make(router_bias_rate=0.0, **LINEAR)
    want = update(state, batch)
    update, state = make(router_bias_rate=0.25, accumulation_steps=4, **LINEAR)
    got = update(state, batch)
    assert_alike(got.params, want.params)
    np.testing.assert_array_equal(got.totals.load_LE, want.totals.load_LE)
    # The balance losses are means over the microbatches, and the bias follows the load of the whole batch.
    model = toy.make(CONFIG)
    _, params, buffers = variables.split(model)
    evaluate_step = jax.jit(toy.evaluate_step(model))
    parts = [jax.tree.map(lambda rows, i=i: rows[i : i + 2], batch) for i in range(0, 8, 2)]
    parts = [evaluate_step(params, buffers, part) for part in parts]
    for field in ("balance_loss", "device_balance_loss"):
        mean = np.mean([float(getattr(part, field)) for part in parts])
        reference.assert_close(getattr(got.totals, field), mean, terms=8 * 12)
    load = np.asarray(want.totals.load_LE)
    np.testing.assert_array_equal(bias(got), 0.25 * np.sign(load.mean(axis=-1, keepdims=True) - load))
    for field in (
        "nats",
        "text_nats",
        "grad_norm",
        "tokens",
        "num_bytes",
        "updates",
        "sequence_balance_loss",
        "router_z_loss",
    ):
        reference.assert_close(getattr(got.totals, field), getattr(want.totals, field), terms=8 * 12 * 29)


def bias(state):
    return np.asarray(state.buffers["routed_blocks"]["ffn"]["bias_E"][...])


def test_padding_has_no_influence():
    update, state = make(router_bias_rate=0.25, **ALL)
    batch = ragged_batch()
    want = update(state, batch)
    other = {key: value.copy() for key, value in batch.items()}
    padding = batch["segment_ids"] == 0
    other["tokens"][padding] = (other["tokens"][padding] + 1) % toy.VOCAB_SIZE
    other["targets"][padding] = 0
    got = update(state, other)
    assert_alike(got.params, want.params)
    assert_alike(got.totals, want.totals)
    np.testing.assert_array_equal(bias(got), bias(want))
    assert (np.asarray(got.totals.load_LE).sum(axis=-1) == batch["loss_mask"].sum() * CONFIG.experts_per_token).all()


def test_totals_add_up_and_their_means_are_the_figures():
    update, state = make(router_bias_rate=0.25, **ALL)
    batches = [even_batch(), ragged_batch() | {"num_bytes": 3 * ragged_batch()["num_bytes"]}]
    evaluate_step = jax.jit(toy.evaluate_step(toy.make(CONFIG)))
    seen = [evaluate_step(state.params, state.buffers, batches[0])]
    state = update(state, batches[0])
    seen.append(evaluate_step(state.params, state.buffers, batches[1]))
    norm = float(state.totals.grad_norm)
    state = update(state, batches[1])
    assert state.step == 2
    values = totals.means(state.totals, objective(**ALL))
    nats, tokens = (sum(float(getattr(part, field)) for part in seen) for field in ("nats", "tokens"))
    assert tokens == sum(batch["loss_mask"].sum() for batch in batches)
    num_bytes = sum(batch["num_bytes"].sum() for batch in batches)
    load = sum(np.asarray(part.load_LE) for part in seen)
    share = load / load.sum(axis=-1, keepdims=True)
    auxiliary = {name: sum(float(getattr(part, name)) for part in seen) / 2 for name in totals.AUXILIARY_LOSSES}
    want = {
        "loss": nats / tokens,
        "bits_per_byte": sum(float(part.text_nats) for part in seen) / np.log(2) / num_bytes,
        "grad_norm": float(state.totals.grad_norm) / 2,
        **auxiliary,
        "total_loss": nats / tokens + sum(ALL[name] * auxiliary[name] for name in ALL),
        "max_load": (load.max(axis=-1) / load.mean(axis=-1)).max(),
        "load_entropy": -(share * np.log(share)).sum(axis=-1).mean() / np.log(4),
        "dropped": 0.0,
    }
    assert values.keys() == want.keys()
    for name, value in want.items():
        reference.assert_close(values[name], value, terms=8 * 12 * 29)
    assert 0 < norm < float(state.totals.grad_norm)
    # The same totals without updates tell of the loss alone.
    total = evaluate(evaluate_step, state.params, state.buffers, batches, place=lambda batch: batch)
    assert totals.means(total, objective(**ALL)).keys() == {"loss", "bits_per_byte"}
    reference.assert_close(total.nats, sum(float(evaluate_step(state.params, state.buffers, b).nats) for b in batches))


def test_ends_of_documents_are_learnt_and_cost_no_bits_per_byte():
    batch = even_batch()
    batch["num_bytes"] = np.where(np.arange(12) % 3, 2, 0) * np.ones_like(batch["targets"])
    model = toy.make(CONFIG)
    _, params, buffers = variables.split(model)
    evaluate_step = jax.jit(toy.evaluate_step(model))
    found = evaluate_step(params, buffers, batch)
    text = evaluate_step(params, buffers, batch | {"loss_mask": batch["loss_mask"] * (batch["num_bytes"] > 0)})
    reference.assert_close(found.text_nats, text.nats, terms=8 * 12)
    assert found.nats > 1.2 * found.text_nats
    assert text.nats == text.text_nats


def test_a_batch_of_padding_alone_moves_nothing():
    update, state = make(router_bias_rate=0.25, **ALL)
    batch = even_batch()
    for key in ("segment_ids", "loss_mask", "num_bytes"):
        batch[key] = np.zeros_like(batch[key])
    after = update(state, batch)
    assert after.totals.nats == 0
    assert after.totals.grad_norm == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
    values = totals.means(after.totals, objective())
    assert all(np.isfinite(value) for value in values.values())
    assert values["max_load"] == values["load_entropy"] == values["dropped"] == 0


def test_the_router_bias_follows_the_load_only_when_it_is_asked_to():
    batch = even_batch()
    update, state = make(router_bias_rate=0.0, **LINEAR)
    after = update(state, batch)
    assert not bias(after).any()
    load = np.asarray(after.totals.load_LE)
    update, state = make(router_bias_rate=0.25, **ALL)
    once = update(state, batch)
    np.testing.assert_array_equal(bias(once), 0.25 * np.sign(load.mean(axis=-1, keepdims=True) - load))
    assert np.isin(bias(update(once, batch)), [-0.5, -0.25, 0.0, 0.25, 0.5]).all()


def test_the_auxiliary_losses_of_all_layers_have_their_coefficients():
    batch = even_batch()
    gradients = []
    for coefficients, rate in ((LINEAR, 0.0), (ALL, 0.25)):  # the bias moves after the gradient
        update, state = make(router_bias_rate=rate, **coefficients)
        after = update(state, batch)
        # Adam's first moment is a tenth of the gradient after the clip, which is at a norm of 1.
        clip = max(float(after.totals.grad_norm), 1.0)
        gradients.append(jax.tree.map(lambda m, clip=clip: 10 * np.asarray(m) * clip, after.optimizer[1].mu))
    graph, params, buffers = variables.split(toy.make(CONFIG))

    def auxiliary(params):
        balance = nnx.merge(graph, params, buffers)(batch["tokens"], segment_ids_BT=batch["segment_ids"]).balance
        terms = (balance.loss, balance.sequence_loss, balance.device_loss, balance.z_loss)
        terms = dict(zip(totals.AUXILIARY_LOSSES, map(jnp.sum, terms), strict=True))
        return sum((ALL[name] - LINEAR[name]) * term for name, term in terms.items()), terms

    want, terms = jax.jit(jax.grad(auxiliary, has_aux=True))(params)
    got = jax.tree.map(lambda a, b: b - a, *gradients)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    assert_alike(got, want, atol=toy.rounding(largest, CONFIG, 8 * 12))
    assert np.abs(want["routed_blocks"]["ffn"]["router"][...]).max() > 1e-2
    # What was minimised is what is reported.
    values = totals.means(after.totals, objective(**ALL))
    total = values["loss"]
    for name, coefficient in ALL.items():
        reference.assert_close(values[name], terms[name], terms=8 * 12)
        total += coefficient * values[name]
    reference.assert_close(values["total_loss"], total)
    assert values["total_loss"] > values["loss"] + 0.5


def test_dropped_choices_are_counted():
    model = toy.make(toy.model_config(ffn="mlp", mixer="attention", router__capacity_factor=0.5))
    _, params, buffers = variables.split(model)
    batch = ragged_batch()
    found = jax.jit(toy.evaluate_step(model))(params, buffers, batch)
    values = totals.means(found._replace(updates=1.0), objective())
    # The capacity of each of 4 experts is an eighth of two choices a position, in each of two layers.
    capacity = 2 * 4 * (2 * batch["loss_mask"].size // 8)
    assert 1 - capacity / float(np.sum(found.load_LE)) - 1e-6 <= values["dropped"] < 1
    assert round(float(found.dropped)) > 0
    reference.assert_close(found.dropped, round(float(found.dropped)), terms=2)


def test_codes_are_counted_over_the_updates_of_a_record():
    model = toy.make(toy.model_config(ffn="mlp", mixer="attention", num_experts=0, num_layers=1, linear="ternary"))
    graph, _, _ = variables.split(model)
    update = jax.jit(toy.train_step(model, ADAMW))
    states = [step.init(model, ADAMW)]
    for seed in range(2):
        states.append(update(states[-1], even_batch(seed)))
    models = [nnx.merge(graph, state.params, state.buffers) for state in states]
    statistics = jax.jit(weight_statistics)
    seen = [statistics(*pair) for pair in itertools.pairwise(models)]
    values = totals.means(states[-1].totals, objective())
    for name in ("zeros", "flips", "scale"):
        reference.assert_close(values[f"weight_{name}"], np.mean([getattr(part, name) for part in seen]), terms=2)
    assert 0 < values["weight_flips"] < 1
    assert 0 < values["weight_zeros"] < 1


@pytest.mark.slow
def test_the_share_of_inputs_outside_the_grid_is_a_mean_over_microbatches_and_updates_and_knots_stay():
    grid = {"kan__grid__low": -1.0, "kan__grid__high": 1.0, "kan__grid__degree": 1, "kan__knots": "adaptive"}
    model = toy.make(toy.model_config(mixer="attention", num_experts=0, num_layers=1, **grid))
    update = jax.jit(toy.train_step(model, ADAMW, accumulation_steps=4))
    before, batch = step.init(model, ADAMW), even_batch()
    state = update(before, batch)
    first = totals.means(state.totals, 0.0)["outside_grid"]
    output = jax.jit(lambda model, batch: model(batch["tokens"], segment_ids_BT=batch["segment_ids"]))(model, batch)
    assert output.outside_L.shape == (1,)
    # A normal number is beyond 1 for 32%; features of a trained model's size are not far from that.
    assert 0.2 < first < 0.5
    reference.assert_close(first, np.mean(output.outside_L), terms=4)
    state = update(state, batch)
    assert abs(totals.means(state.totals, 0.0)["outside_grid"] - first) < 0.1
    jax.tree.map(np.testing.assert_array_equal, state.buffers, before.buffers)


@pytest.mark.slow
def test_eight_devices_train_as_one():
    """The loads of routing and the bias that follows them are those of the whole batch, not of one device's part."""
    figures = {}
    for devices in (1, 8):
        mesh = sharding.make_mesh(MeshConfig(data=devices, expert=1, model=1, context=1))
        update, state = make(router_bias_rate=0.25, **ALL)
        if devices > 1:
            state = sharding.place(state, "", mesh)
        figures[devices] = []
        for seed in range(3):
            batch = even_batch(seed)
            if devices > 1:
                batch = sharding.place(batch, "BT", mesh)
                assert len(batch["tokens"].sharding.device_set) == devices
            state = update(state, batch)
            figures[devices].append(jax.device_get(state.totals))
        figures[devices].append(jax.device_get((state.params, state.buffers)))
    for got, want in zip(figures[8][:3], figures[1][:3], strict=True):
        np.testing.assert_array_equal(got.load_LE, want.load_LE)
    assert_alike(figures[8], figures[1])


@pytest.mark.parametrize(
    ("field", "value"),
    [("accumulation_steps", 0), ("router_bias_rate", -1.0)],
)
def test_a_field_that_cannot_be_is_named(field, value):
    with pytest.raises(ValueError, match=rf"config\.training\.{field}={value}"):
        StepConfig(**toy.section("training", **{field: value}))


@pytest.mark.parametrize("field", totals.AUXILIARY_LOSSES)
def test_a_coefficient_that_cannot_be_is_named(field):
    with pytest.raises(ValueError, match=rf"config\.objective\.{field}=-0\.1"):
        objective(**{field: -0.1})


def test_the_parts_of_a_state_put_together_are_the_state():
    _, state = make(router_bias_rate=0.25, **ALL)
    stored = step.parts(state)
    assert stored["model"].keys() == {"params", "buffers"}
    assert stored["optimizer"].keys() == {"step", "optimizer", "sums", "guard"}  # as checkpoints have them
    again = step.from_parts(stored)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert all(got is want for got, want in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True))
