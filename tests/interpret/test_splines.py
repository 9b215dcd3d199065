import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mixkabrn_jax.interpret import splines
from mixkabrn_jax.layers.kan import KanLayer
from mixkabrn_jax.layers.linear import LinearConfig
from tests import reference, toy


def make():
    return KanLayer(4, 3, toy.kan(-2, 2, 3, 2), LinearConfig(linear="dense"), rngs=nnx.Rngs(0))


def test_curves_of_all_inputs_add_up_to_the_layer_where_all_inputs_are_equal():
    layer, x_R = make(), np.linspace(-2.5, 2.5, 7, dtype=np.float32)
    want_RF = layer(jnp.broadcast_to(x_R[:, None], (7, 4)))
    got_RF = splines.curves(layer, x_R).sum(axis=1)
    np.testing.assert_allclose(got_RF, want_RF, atol=reference.tolerance(want_RF, 4 * 6))


def test_an_edge_is_strong_where_its_inputs_lie_and_not_elsewhere():
    layer = make()
    layer.base = nnx.Param(jnp.zeros((4, 3)).at[1, 2].set(1.0).at[3, 0].set(5.0))
    layer.spline = nnx.Param(jnp.zeros_like(layer.spline[...]))
    x_RD = jax.random.normal(jax.random.key(0), (64, 4)).at[:, 3].set(0.5)  # input 3 never varies
    strength_DF = splines.strengths(layer, x_RD)
    assert splines.strongest(strength_DF, 1) == [(1, 2)]
    want_DF = np.zeros((4, 3))
    want_DF[1, 2] = np.std(np.asarray(jax.nn.silu(x_RD[:, 1]), np.float64))
    np.testing.assert_allclose(strength_DF, want_DF, atol=reference.tolerance(1.0, 64))


def test_each_input_is_shown_by_one_edge():
    assert splines.strongest(np.array([[3.0, 9.0], [1.0, 0.0], [8.0, 7.0]]), 3) == [(0, 1), (2, 0), (1, 0)]
