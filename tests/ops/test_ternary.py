import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops import ternary
from tests import reference

EPS = float(np.finfo(np.float32).eps)


def dequantised(codes, scale):
    return np.asarray(codes, np.float64) * np.asarray(scale, np.float64)


# --- Weights -----------------------------------------------------------------------------------------------------


def test_ternary_codes_are_the_rounded_ratio_to_the_mean_absolute_value():
    w = reference.normal(0, 40, 24)
    codes, scale = ternary.quantize_weight(jnp.array(w))
    want_codes, want_scale = reference.quantize_weight(w)
    assert codes.dtype == jnp.int8
    assert jnp.ndim(scale) == 0
    reference.assert_close(scale, want_scale)
    np.testing.assert_array_equal(codes, want_codes)
    assert set(np.unique(codes)) == {-1, 0, 1}


def test_ternary_rounds_half_to_even():
    # The mean absolute value is exactly 1; 0.5 goes to 0 and 1.5 to 2, then to 1.
    w = jnp.array([[0.5, -0.5, 1.5, -1.5], [1.0, -1.0, 0.75, 1.25]], jnp.float32)
    codes, scale = ternary.quantize_weight(w)
    assert float(scale) == 1.0
    np.testing.assert_array_equal(codes, [[0, 0, 1, -1], [1, -1, 1, 1]])


def test_binary_codes_are_the_sign_of_the_distance_to_the_mean():
    w = 0.3 + reference.normal(1, 40, 24)
    codes, scale = ternary.binarize_weight(jnp.array(w))
    want_codes, want_scale = reference.binarize_weight(w)
    assert codes.dtype == jnp.int8
    reference.assert_close(scale, want_scale)
    np.testing.assert_array_equal(codes, want_codes)
    assert (want_codes != np.sign(w)).any()


def test_a_weight_at_the_mean_is_binarised_to_plus_one():
    codes, scale = ternary.binarize_weight(jnp.array([[1.0, 2.0, 3.0], [0.0, 2.0, 4.0]], jnp.float32))
    np.testing.assert_array_equal(codes, [[-1, 1, 1], [-1, 1, 1]])
    assert float(scale) == 2.0
    np.testing.assert_array_equal(ternary.binarize_weight(jnp.zeros((3, 5)))[0], np.ones((3, 5)))


def test_a_zero_matrix_has_zero_codes_and_a_positive_scale():
    codes, scale = ternary.quantize_weight(jnp.zeros((4, 6)))
    np.testing.assert_array_equal(codes, np.zeros((4, 6)))
    reference.assert_close(scale, 1e-5)
    np.testing.assert_array_equal(ternary.fake_quant_weight(jnp.zeros((4, 6))), np.zeros((4, 6)))


@pytest.mark.parametrize(
    ("fake", "real"),
    [(ternary.fake_quant_weight, ternary.quantize_weight), (ternary.fake_binary_weight, ternary.binarize_weight)],
)
def test_fake_weights_have_the_value_of_codes_times_scale_and_the_gradient_of_the_identity(fake, real):
    w = jnp.array(reference.normal(2, 17, 9))
    value, vjp = jax.vjp(fake, w)
    want = dequantised(*real(w))
    # w + (q - w): two roundings, each of the size of what is added.
    reference.assert_close(value, want, atol=2 * EPS * (np.abs(w).max() + np.abs(want).max()))
    cotangent = jnp.array(reference.normal(3, 17, 9))
    np.testing.assert_array_equal(vjp(cotangent)[0], cotangent)
    assert fake(w.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_experts_are_quantised_one_by_one_under_vmap():
    w = np.stack([reference.normal(s, 8, 6) * 10.0**s for s in range(3)]).astype(np.float32)
    codes, scale = jax.vmap(ternary.quantize_weight)(jnp.array(w))
    for e in range(3):
        want_codes, want_scale = reference.quantize_weight(w[e])
        np.testing.assert_array_equal(codes[e], want_codes)
        reference.assert_close(scale[e], want_scale)


# --- Activations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_activation_codes_are_the_nearest_of_a_scale_per_token(bits):
    x = reference.normal(4, 3, 5, 32) * np.float32(10) ** np.arange(-3, 2, dtype=np.float32)[:, None]
    codes, scale = ternary.quantize_activation(jnp.array(x), bits=bits)
    _, want_scale = reference.quantize_activation(x, bits)
    assert codes.dtype == jnp.int8
    assert scale.shape == (3, 5, 1)
    np.testing.assert_allclose(scale, want_scale, rtol=4 * EPS)
    top = 2 ** (bits - 1) - 1
    # Nearest, up to the rounding of a quotient that is at most `top`.
    assert np.abs(np.asarray(codes, np.float64) - x / want_scale).max() <= 0.5 + 4 * EPS * top
    np.testing.assert_array_equal(np.abs(codes).max(axis=-1), np.full((3, 5), top))
    assert np.unique(codes).size > 2 ** (bits - 1)


def test_eight_bits_are_the_default():
    x = jnp.array(reference.normal(5, 7, 32))
    for default, eight in zip(ternary.quantize_activation(x), ternary.quantize_activation(x, bits=8), strict=True):
        np.testing.assert_array_equal(default, eight)
    np.testing.assert_array_equal(ternary.fake_quant_activation(x), ternary.fake_quant_activation(x, bits=8))


def test_activation_codes_round_half_to_even():
    x = jnp.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]], jnp.float32)
    codes, scale = ternary.quantize_activation(x)
    assert float(scale[0, 0]) == 1.0
    np.testing.assert_array_equal(codes, [[127, 0, 2, 2, 0, -2]])


def test_activations_of_half_precision_are_quantised_in_single():
    # In bfloat16 a quotient near 100 is known to 0.5 only: codes would be off by one, and some of them -128.
    x = jnp.asarray(reference.normal(10, 50, 256), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    codes, scale = ternary.quantize_activation(x)
    _, want_scale = reference.quantize_activation(exact)
    assert np.abs(np.asarray(codes, np.float64) - exact / want_scale).max() <= 0.5 + 4 * EPS * 127
    np.testing.assert_allclose(np.asarray(scale, np.float64), want_scale, rtol=float(jnp.finfo(jnp.bfloat16).eps))


def test_zero_and_tiny_tokens_are_finite():
    x = jnp.array([[0.0, 0.0, 0.0], [1e-6, -1e-6, 0.0], [1e-38, 0.0, 0.0]], jnp.float32)
    codes, scale = ternary.quantize_activation(x)
    np.testing.assert_allclose(scale, np.full((3, 1), 1e-5 / 127), rtol=4 * EPS)
    np.testing.assert_array_equal(codes, [[0, 0, 0], [13, -13, 0], [0, 0, 0]])
    assert np.isfinite(ternary.fake_quant_activation(x)).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_fake_activations_have_the_value_of_codes_times_scale_and_the_gradient_of_the_identity(bits):
    x = jnp.array(reference.normal(6, 2, 11, 16))
    value, vjp = jax.vjp(lambda x: ternary.fake_quant_activation(x, bits=bits), x)
    want = dequantised(*ternary.quantize_activation(x, bits=bits))
    reference.assert_close(value, want, atol=2 * EPS * (np.abs(x).max() + np.abs(want).max()))
    assert np.abs(value - x).max() > 1e-3
    cotangent = jnp.array(reference.normal(7, 2, 11, 16))
    np.testing.assert_array_equal(vjp(cotangent)[0], cotangent)
    assert ternary.fake_quant_activation(x.astype(jnp.bfloat16), bits=bits).dtype == jnp.bfloat16


def test_the_integer_product_scaled_once_is_the_fake_quantised_product():
    x, w = jnp.array(reference.normal(8, 3, 9, 64)), jnp.array(reference.normal(9, 64, 12))
    x_codes, x_scale = ternary.quantize_activation(x)
    w_codes, w_scale = ternary.quantize_weight(w)
    whole = np.asarray(x_codes, np.int32) @ np.asarray(w_codes, np.int32)
    assert np.abs(whole).max() > 127  # int8 would overflow
    want = whole * np.asarray(x_scale, np.float64) * float(w_scale)
    reference.assert_close(ternary.fake_quant_activation(x) @ ternary.fake_quant_weight(w), want, terms=64)
    got = jax.jit(ternary.integer_matmul)(x_codes, x_scale, w_codes, w_scale)
    # The sum is exact; the two scales and their product with it are rounded, of each token to its own size.
    np.testing.assert_allclose(got, want, rtol=2 * EPS)
    products = [
        str(e.outvars[0].aval.dtype)
        for e in jax.make_jaxpr(ternary.integer_matmul)(x_codes, x_scale, w_codes, w_scale).eqns
        if e.primitive.name == "dot_general"
    ]
    assert products == ["int32"]


def test_codes_are_counted_before_and_after_an_update():
    w = reference.normal(10, 30, 20)
    codes, scale = reference.quantize_weight(w)
    zeros, got_scale = ternary.statistics(jnp.array(w))
    reference.assert_close(zeros, (codes == 0).mean())
    reference.assert_close(got_scale, scale)
    other = w + 0.3 * reference.normal(11, 30, 20)
    want = (reference.quantize_weight(other)[0] != codes).mean()
    assert 0.1 < want < 0.9
    reference.assert_close(ternary.flip_rate(jnp.array(w), jnp.array(other)), want)
    assert ternary.flip_rate(jnp.array(w), jnp.array(4 * w)) == 0
    binary = [reference.binarize_weight(a)[0] for a in (w, other)]
    got = ternary.flip_rate(jnp.array(w), jnp.array(other), ternary.binarize_weight)
    reference.assert_close(got, (binary[0] != binary[1]).mean())
    assert ternary.statistics(jnp.array(w), ternary.binarize_weight)[0] == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_degenerate_factors_give_finite_products_and_gradients(dtype):
    """Constant tokens and matrices, large and vanishing, of a single row."""

    @jax.jit
    def run(x, w):
        def product(x, w):
            return jnp.sum(ternary.fake_quant_activation(x) @ ternary.fake_quant_weight(w)).astype(jnp.float32)

        codes = (*ternary.quantize_activation(x), *ternary.quantize_weight(w))
        return *jax.value_and_grad(product, argnums=(0, 1))(x, w), ternary.integer_matmul(*codes), codes[1::2]

    for x, w in itertools.product([0.0, 3.0, 1e4, -1e4, 1e-30], [0.0, -2.0, 1e4]):
        x, w = jnp.full((1, 8), x, dtype), jnp.full((8, 3), w, dtype)
        value, gradients, integers, scales = run(x, w)
        assert all((scale > 0).all() for scale in scales)
        # Constants are represented exactly, but for the rounding of scales; 1e-30 becomes 0.
        want = 24 * float(x[0, 0]) * float(w[0, 0])
        reference.assert_close(value, want, atol=reference.tolerance(want, 24, dtype) + 1e-20)
        assert all(np.isfinite(leaf.astype(jnp.float32)).all() for leaf in (*gradients, integers))


def test_weights_of_half_precision_are_quantised_in_single():
    w = jnp.asarray(reference.normal(12, 64, 48), jnp.bfloat16)
    codes, scale = ternary.quantize_weight(w)
    want_codes, want_scale = reference.quantize_weight(np.asarray(w, np.float64))
    np.testing.assert_array_equal(codes, want_codes)
    reference.assert_close(scale, want_scale)


# --- Packing -----------------------------------------------------------------------------------------------------


def test_packed_bytes_have_the_interchange_layout():
    codes = np.random.default_rng(0).integers(-1, 2, (16, 5)).astype(np.int8)
    packed = ternary.pack(jnp.array(codes))
    assert packed.dtype == jnp.uint8
    np.testing.assert_array_equal(packed, reference.pack(codes))
    np.testing.assert_array_equal(ternary.unpack(jnp.array(reference.pack(codes)), codes.shape), codes)


@given(rows=st.integers(1, 13), columns=st.integers(1, 5))
@settings(max_examples=8)
def test_packing_round_trips_for_any_size(rows, columns):
    codes = np.random.default_rng(rows).integers(-1, 2, (rows, columns)).astype(np.int8)
    packed = jax.jit(ternary.pack)(codes)
    assert packed.dtype == jnp.uint8
    assert packed.size <= -(-rows // 4) * columns
    unpacked = jax.jit(ternary.unpack, static_argnums=1)(packed, codes.shape)
    assert unpacked.dtype == jnp.int8
    np.testing.assert_array_equal(unpacked, codes)


def test_bytes_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"packed codes of shape \(3, 2\) do not hold an array of shape \(99, 2\)"):
        ternary.unpack(jnp.zeros((3, 2), jnp.uint8), (99, 2))


# --- The BitNet of transformers ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_codes_scales_and_bytes_are_bitnets():
    z = reference.golden("bitlinear")
    codes, scale = ternary.quantize_weight(jnp.array(z["w"]))
    np.testing.assert_array_equal(codes, z["w_ternary"])
    reference.assert_close(scale, z["w_scale"], atol=1e-12)
    np.testing.assert_array_equal(ternary.pack(codes), z["packed_2bit"])
    x_codes, x_scale = ternary.quantize_activation(jnp.array(z["x"]))
    np.testing.assert_array_equal(x_codes, np.round(z["x_quant"] / np.asarray(x_scale)))
    # The peer's activations carry float32 rounding.
    reference.assert_close(dequantised(x_codes, x_scale), z["x_quant"])


@pytest.mark.usefixtures("x64")
def test_layer_and_its_gradients_are_bitnets():
    z = reference.golden("bitlinear")

    def layer(x, w):
        return jnp.einsum("rd,fd->rf", ternary.fake_quant_activation(x), ternary.fake_quant_weight(w))

    y, vjp = jax.vjp(layer, jnp.array(z["x"]), jnp.array(z["w"]))
    x_bar, w_bar = vjp(jnp.array(z["cotangent"]))
    reference.assert_close(y, z["y"], terms=z["x"].shape[1])
    reference.assert_close(x_bar, z["grad_x"], terms=z["w"].shape[0])
    reference.assert_close(w_bar, z["grad_w"], terms=z["x"].shape[0])
