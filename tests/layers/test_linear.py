import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixkabrn_jax.layers.linear import LINEAR_TYPES, IntegerLinear, Linear, LinearConfig, effective_spline, project
from mixkabrn_jax.ops import ternary
from tests import reference

GROUPS = np.array([3, 0, 5], np.int32)
D, F = 12, 7


def make(linear, num_experts=0, **options):
    return Linear(D, F, LinearConfig(linear, **options), num_experts=num_experts, rngs=nnx.Rngs(0))


@jax.jit
def value_and_gradients(layer, x, group_sizes, out_bar):
    y, pull = jax.vjp(lambda layer, x: layer(x, group_sizes), layer, x)
    layer_bar, x_bar = pull(out_bar)
    return y, layer_bar.kernel[...], x_bar


def effective(w, linear):
    """The float64 matrix of one expert."""
    quantize = {"ternary": reference.quantize_weight, "binary": reference.binarize_weight}
    codes, scale = (w, 1.0) if linear == "dense" else quantize[linear](w)
    return codes * scale


def effective_input(x, linear, bits=8):
    codes, scale = (x, 1.0) if linear == "dense" else reference.quantize_activation(x, bits)
    return codes * scale


@pytest.mark.parametrize("linear", LINEAR_TYPES)
def test_a_layer_is_the_product_of_its_quantised_input_and_matrix(linear):
    layer, x, out_bar = make(linear), reference.normal(1, 2, 4, D), reference.normal(2, 2, 4, F)
    y, w_bar, x_bar = value_and_gradients(layer, x, None, out_bar)
    w, x = effective(layer.kernel[...], linear), effective_input(x, linear)
    reference.assert_close(y, x @ w, terms=D)
    # Straight through: the gradient of the product, as if its factors were the parameters.
    reference.assert_close(w_bar, np.einsum("btd,btf->df", x, out_bar), terms=8)
    reference.assert_close(x_bar, out_bar @ w.T, terms=F)


@pytest.mark.parametrize("linear", LINEAR_TYPES)
def test_each_expert_has_a_matrix_and_a_scale_of_its_own(linear):
    layer, x, out_bar = make(linear, 3), reference.normal(1, 8, D), reference.normal(2, 8, F)
    layer.kernel[...] = layer.kernel[...] * np.array([1.0, 1.0, 50.0], np.float32).reshape(3, 1, 1)
    y, w_bar, x_bar = value_and_gradients(layer, x, GROUPS, out_bar)
    w, x = np.stack([effective(w, linear) for w in layer.kernel[...]]), effective_input(x, linear)
    reference.assert_close(y[:3], x[:3] @ w[0], terms=D)
    reference.assert_close(y, reference.grouped_matmul(x, w, GROUPS), terms=D)
    want_x, want_w = reference.grouped_matmul_gradient(x, w, GROUPS, out_bar)
    reference.assert_close(w_bar, want_w, terms=8)
    reference.assert_close(x_bar, want_x, terms=F)


@pytest.mark.parametrize("linear", LINEAR_TYPES)
def test_a_norm_inside_comes_before_the_quantiser(linear):
    layer, x = make(linear, normalize_input=True), 100 * reference.normal(1, 2, 4, D)
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + 1e-6)
    want = effective_input(normed, linear) @ effective(layer.kernel[...], linear)
    reference.assert_close(jax.jit(lambda layer, x: layer(x))(layer, x), want, terms=D)


@pytest.mark.parametrize("normalize_input", [False, True])
@pytest.mark.parametrize("linear", ["ternary", "binary"])
def test_integers_give_what_the_quantised_layer_gives(linear, normalize_input):
    run = jax.jit(lambda layer, x: layer(x))
    layer, x = make(linear, normalize_input=normalize_input), 3 * reference.normal(1, 2, 4, D)
    integers = IntegerLinear(layer)
    reference.assert_close(run(integers, x), run(layer, x), terms=D)
    assert integers.packed[...].nbytes == D // 4 * F
    assert not jax.tree.leaves(nnx.state(integers, nnx.Param))
    assert jax.eval_shape(run, integers, jnp.zeros((2, D), jnp.bfloat16)).dtype == jnp.bfloat16


def test_integers_of_experts_give_what_the_quantised_experts_give():
    group_sizes = np.array([3, 0, 4], np.int32)  # and a row that is nobody's
    run = jax.jit(lambda layer, x, group_sizes: layer(x, group_sizes))
    layer, x = make("ternary", 3), reference.normal(1, 8, D)
    layer.kernel[...] = layer.kernel[...] * np.array([1.0, 0.1, 50.0], np.float32).reshape(3, 1, 1)
    got, want = (np.asarray(run(layer, x, group_sizes)) for layer in (IntegerLinear(layer), layer))
    reference.assert_close(got[:3], want[:3], terms=D)
    reference.assert_close(got, want, terms=D)


@pytest.mark.parametrize("linear", LINEAR_TYPES)
@pytest.mark.parametrize("normalize_input", [False, True])
def test_layers_side_by_side_are_each_of_them(linear, normalize_input):
    config = LinearConfig(linear, normalize_input=normalize_input)
    layers = [Linear(D, width, config, rngs=nnx.Rngs(width)) for width in (3, 7, 4)]
    layers[1].config = dataclasses.replace(config, init_scale=0.5)  # which says how it started, no more
    layers[1].kernel[...] = 100 * layers[1].kernel[...]  # a scale of its own
    x = jnp.array(reference.normal(0, 2, 5, D))
    for got, layer in zip(project(x, layers), layers, strict=True):
        reference.assert_close(got, layer(x), terms=D)


def test_layers_of_different_kinds_stay_apart():
    x, layer = jnp.array(reference.normal(0, 5, D)), Linear(D, 3, LinearConfig("ternary"), rngs=nnx.Rngs(0))
    layers = [layer, Linear(D, 4, LinearConfig("dense"), rngs=nnx.Rngs(1)), IntegerLinear(layer)]
    for got, layer in zip(project(x, layers), layers, strict=True):
        np.testing.assert_array_equal(got, layer(x))


def test_a_dense_layer_has_no_integers():
    with pytest.raises(ValueError, match="a dense layer has no codes"):
        IntegerLinear(make("dense"))


def test_ternary_splines_have_a_scale_for_each_basis_function():
    spline_EGDF = reference.normal(3, 2, 4, 5, 3) * np.geomspace(0.01, 1, 4, dtype=np.float32).reshape(4, 1, 1)
    spline = jnp.array(spline_EGDF.reshape(2, 20, 3))
    got, pull = jax.vjp(lambda spline: effective_spline(spline, 4, "ternary"), spline)
    want = np.stack([[effective(w, "ternary") for w in expert] for expert in spline_EGDF])
    reference.assert_close(np.asarray(got).reshape(want.shape)[:, 0], want[:, 0])  # small, and not rounded away
    reference.assert_close(got, want.reshape(2, 20, 3))
    out_bar = jnp.array(reference.normal(4, 2, 20, 3))
    np.testing.assert_array_equal(pull(out_bar)[0], out_bar)
    np.testing.assert_array_equal(effective_spline(spline, 4, "dense"), spline)


@pytest.mark.parametrize(("kind", "largest"), [("int8", 127), ("int4", 7)])
def test_splines_of_integers_round_to_steps_of_each_basis_functions_largest_coefficient(kind, largest):
    spline_EGDF = reference.normal(3, 2, 4, 5, 3) * np.geomspace(0.01, 1, 4, dtype=np.float32).reshape(4, 1, 1)
    spline = jnp.array(spline_EGDF.reshape(2, 20, 3))
    got, pull = jax.vjp(lambda spline: effective_spline(spline, 4, kind), spline)
    step_EG11 = np.abs(spline_EGDF).max(axis=(-2, -1), keepdims=True).astype(np.float64) / largest
    want = np.round(spline_EGDF / step_EG11) * step_EG11
    reference.assert_close(np.asarray(got).reshape(want.shape)[:, 0], want[:, 0])
    reference.assert_close(got, want.reshape(2, 20, 3))
    out_bar = jnp.array(reference.normal(4, 2, 20, 3))
    np.testing.assert_array_equal(pull(out_bar)[0], out_bar)


@pytest.mark.usefixtures("x64")
def test_a_ternary_layer_and_its_gradients_are_bitnets():
    z = reference.golden("bitlinear")
    layer = Linear(24, 16, LinearConfig("ternary"), rngs=nnx.Rngs(0))
    layer.kernel = nnx.Param(jnp.array(z["w"].T))
    y, w_bar, x_bar = value_and_gradients(layer, jnp.array(z["x"]), None, jnp.array(z["cotangent"]))
    for got, name in ((y, "y"), (w_bar.T, "grad_w"), (x_bar, "grad_x")):
        reference.assert_close(got, z[name], atol=1e-6 * np.abs(z[name]).max())
    integers = jax.jit(lambda layer, x: layer(x))(IntegerLinear(layer), jnp.array(z["x"]))
    reference.assert_close(integers, z["y"], atol=1e-6 * np.abs(z["y"]).max())
    np.testing.assert_array_equal(IntegerLinear(layer).packed[...], ternary.pack(jnp.array(z["w_ternary"].T, jnp.int8)))


def test_activation_bits_reach_the_quantiser():
    layer = make("ternary", activation_bits=3)
    x = reference.normal(1, 4, D)
    want = effective_input(x, "ternary", bits=3) @ effective(layer.kernel[...], "ternary")
    reference.assert_close(jax.jit(lambda layer, x: layer(x))(layer, x), want, terms=D)


def test_the_product_is_in_the_input_s_dtype_and_parameters_are_float32():
    layer = make("ternary")
    assert layer.kernel[...].dtype == jnp.float32
    assert jax.eval_shape(lambda layer, x: layer(x), layer, jnp.zeros((2, D), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("init_scale", [1.0, 0.25])
def test_outputs_start_with_the_variance_of_the_scale_squared(init_scale):
    width, rows = 2048, 256
    layer = Linear(64, width, LinearConfig("dense", init_scale=init_scale), rngs=nnx.Rngs(0))
    y = np.asarray(jax.jit(lambda layer, x: layer(x))(layer, reference.normal(1, rows, 64)), np.float64)
    per_output = (y**2).mean(axis=0)  # independent draws, but for the inputs that they share
    shared = init_scale**2 * np.sqrt(2 / (64 * rows))
    error = np.hypot(per_output.std() / np.sqrt(width), shared)
    assert abs(per_output.mean() - init_scale**2) < 5 * error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear": "quaternary"}, r"linear='quaternary': one of \('dense', 'ternary', 'binary'\) is needed"),
        ({"linear": "ternary", "activation_bits": 9}, "activation_bits=9: 2 to 8 is needed"),
        ({"linear": "ternary", "backend": "abacus"}, "backend='abacus': one of"),
    ],
)
def test_an_impossible_layer_is_refused_where_it_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
