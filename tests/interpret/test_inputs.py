"""What layers read, held to what the model does with it: routing's load, and what a retention's state keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkabrn_jax.interpret import horizons, inputs, routing
from tests import reference, toy

TOKENS_BT = toy.tokens(0, 2, 10)
CONSTANT = {"ffn": "mlp", "num_experts": 0}
GATED = {**CONSTANT, "retention__decay": "gated", "retention__normalization": "none"}


def test_choices_are_those_that_the_model_counts_in_its_balance():
    model = toy.make(toy.model_config(num_layers=3, first_dense_layers=1, ffn="mlp"))
    choice_LBTN = routing.choices(model, inputs.of_layers(model, TOKENS_BT))
    load_LE = jax.jit(lambda model: model(TOKENS_BT).balance.load_E)(model)
    assert choice_LBTN.shape == (2, 2, 10, model.config.experts_per_token)
    count_LE = [np.bincount(np.ravel(choice_BTN), minlength=load_LE.shape[1]) for choice_BTN in choice_LBTN]
    np.testing.assert_array_equal(count_LE, load_LE)


@pytest.mark.parametrize("changes", [CONSTANT, GATED], ids=["constant", "gated"])
def test_a_state_keeps_of_what_it_held_what_the_horizons_of_the_tokens_say(changes):
    model = toy.make(toy.model_config(num_layers=1, **changes))
    empty = model.init_state(2, None)
    full = empty._replace(mixers=jax.tree.map(jnp.ones_like, empty.mixers))
    run = jax.jit(lambda model, state: model(TOKENS_BT, state).state.mixers[0][0])
    kept_BHKV = np.asarray(run(model, full)) - np.asarray(run(model, empty))
    horizon_BTH = np.asarray(horizons.horizons(model, inputs.of_layers(model, TOKENS_BT))[0], np.float64)
    want_BH = np.exp(-np.sum(1 / horizon_BTH, axis=1))
    assert horizon_BTH.std() > 0
    np.testing.assert_allclose(kept_BHKV, want_BH[..., None, None] + 0 * kept_BHKV, atol=reference.tolerance(2.0, 10))


def test_a_constant_horizon_is_one_for_all_tokens():
    model = toy.make(toy.model_config(**CONSTANT, retention__first_decay_exponent=5.0))
    horizon_LBTH = horizons.horizons(model, inputs.of_layers(model, TOKENS_BT))
    assert horizon_LBTH.shape == (2, 2, 10, 2)
    np.testing.assert_allclose(horizon_LBTH[1, 1, 7], -1 / np.log1p([-(2.0**-5), -(2.0**-6)]), rtol=1e-6)


def test_what_a_model_does_not_have_is_said():
    model = toy.make(toy.model_config(mixer="attention", **CONSTANT))
    read = inputs.of_layers(model, TOKENS_BT)
    with pytest.raises(ValueError, match="mixer='attention' has no decay: 'retention' is needed"):
        horizons.horizons(model, read)
    with pytest.raises(ValueError, match="num_experts=0"):
        routing.choices(model, read)


def test_counts_add_up_the_choices_of_each_group():
    choices_BTN = np.array([[[0, 1], [2, 1]], [[2, 0], [2, 1]]])
    groups_BT = np.array([[0, 1], [1, 1]])
    assert routing.counts(choices_BTN, groups_BT, 3, 3).tolist() == [[1, 1, 0], [1, 2, 3], [0, 0, 0]]


def test_information_is_none_where_groups_choose_alike_and_all_where_each_has_its_own():
    assert routing.information([[1, 2, 3], [10, 20, 30]]) == pytest.approx(0, abs=1e-15)
    assert routing.information(5 * np.eye(8)) == pytest.approx(3)
    # H(expert) - H(expert | group) = 1 - (3/4) log2(4/3) - (1/4) log2 4
    assert routing.information([[3, 1], [1, 3]]) == pytest.approx(1 - 0.75 * np.log2(4 / 3) - 0.5)
