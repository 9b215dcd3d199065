import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkabrn_jax.ops import rotary
from tests import reference

EPS = float(np.finfo(np.float32).eps)


def frequencies_of(radians):
    return rotary.Frequencies(jnp.array(radians, jnp.float32), *rotary.turns(radians))


def positions(B, T, start=0):
    return np.tile(np.arange(start, start + T, dtype=np.int32), (B, 1))


def angle_tolerance(x, largest_position):
    """float32 angles are off by an eps of themselves, and turn the pair by as much."""
    return 8 * EPS * max(1.0, largest_position) * float(np.abs(np.asarray(x, np.float64)).max())


@pytest.mark.parametrize("key_width", [2, 8, 64])
@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_frequencies_are_torchscales_or_ropes(key_width, base):
    linspace = np.asarray(rotary.frequencies(key_width, base, "linspace").radian_P)
    rope = np.asarray(rotary.frequencies(key_width, base, "rope").radian_P)
    # log(base) times an exponent of at most 1, exponentiated.
    rtol = 4 * EPS * np.log(base)
    np.testing.assert_allclose(linspace, reference.linspace_frequencies(key_width, base), rtol=rtol)
    np.testing.assert_allclose(rope, reference.rope_frequencies(key_width, base), rtol=rtol)
    assert linspace.shape == rope.shape == (key_width // 2,)


def test_the_default_frequencies_end_at_one_ten_thousandth():
    got = np.asarray(rotary.frequencies(16).radian_P)
    assert got[0] == 1.0
    np.testing.assert_allclose(got[-1], 1e-4, rtol=4 * EPS * np.log(1e4))


@pytest.mark.parametrize("kind", ["linspace", "rope"])
def test_rotation_turns_neighbouring_pairs(kind):
    x = reference.normal(0, 2, 9, 3, 8)
    position = np.random.default_rng(0).integers(0, 50, (2, 9)).astype(np.int32)
    frequency = reference.linspace_frequencies(8) if kind == "linspace" else reference.rope_frequencies(8)
    got = rotary.rotate(jnp.array(x), jnp.array(position), frequencies_of(frequency))
    reference.assert_close(got, reference.rotate(x, position, frequency), atol=angle_tolerance(x, 50))


def test_the_half_layout_is_the_interleaved_one_in_another_order():
    x = reference.normal(8, 2, 9, 3, 8)
    position, frequency = positions(2, 9, 5), rotary.frequencies(8)
    got = rotary.rotate(jnp.array(x), jnp.array(position), frequency, layout="half")
    order = [0, 4, 1, 5, 2, 6, 3, 7]  # feature i and feature i + K/2 side by side
    want = reference.rotate(x[..., order], position, np.asarray(frequency.radian_P))
    reference.assert_close(got[..., jnp.array(order)], want, atol=angle_tolerance(x, 14))


def test_position_zero_is_not_turned():
    x = jnp.array(reference.normal(1, 1, 1, 3, 8))
    np.testing.assert_array_equal(rotary.rotate(x, jnp.zeros((1, 1), jnp.int32), rotary.frequencies(8)), x)


def test_a_quarter_turn_sends_the_first_of_a_pair_to_the_second():
    x = jnp.array([1.0, 0.0, 0.0, 1.0], jnp.float32).reshape(1, 1, 1, 4)
    got = rotary.rotate(x, jnp.ones((1, 1), jnp.int32), frequencies_of(np.array([np.pi / 2, np.pi / 2])))
    reference.assert_close(got.reshape(4), np.array([0.0, 1.0, -1.0, 0.0]), atol=8 * EPS)


def test_rotation_keeps_norms():
    x = reference.normal(2, 2, 6, 3, 8)
    got = np.asarray(rotary.rotate(jnp.array(x), jnp.array(positions(2, 6, 1000)), rotary.frequencies(8)), np.float64)
    want = np.linalg.norm(x.astype(np.float64).reshape(2, 6, 3, 4, 2), axis=-1)
    reference.assert_close(np.linalg.norm(got.reshape(2, 6, 3, 4, 2), axis=-1), want)
    assert np.abs(got - x).max() > 0.1


def test_dot_products_depend_on_the_distance_only():
    q, k = reference.normal(3, 1, 7, 2, 8), reference.normal(4, 1, 7, 2, 8)
    frequency = rotary.frequencies(8)

    def scores(start):
        position = jnp.array(positions(1, 7, start))
        turned = (np.asarray(rotary.rotate(jnp.array(a), position, frequency), np.float64) for a in (q, k))
        return np.einsum("bthk,bshk->bhts", *turned)

    # Both sides of a product of eight terms are turned by angles of up to 320.
    atol = 2 * angle_tolerance(q, 320) * np.abs(k).max() * np.sqrt(8)
    reference.assert_close(scores(313), scores(0), atol=atol)
    plain = np.einsum("bthk,bshk->bhts", q.astype(np.float64), k)
    assert np.abs(scores(0) - plain).max() > 0.1


def test_angles_are_single_precision_when_the_inputs_are_not():
    x = jnp.array(reference.normal(5, 1, 4, 2, 8), jnp.bfloat16)
    position = jnp.array(positions(1, 4, 1001))
    got = rotary.rotate(x, position, rotary.frequencies(8))
    assert got.dtype == jnp.bfloat16
    want = reference.rotate(x, position, reference.linspace_frequencies(8))
    reference.assert_close(got, want, dtype=jnp.bfloat16)


def test_the_gradient_is_the_turn_back():
    x, bar = jnp.array(reference.normal(6, 2, 5, 3, 8)), reference.normal(7, 2, 5, 3, 8)
    position, frequency = positions(2, 5, 11), reference.linspace_frequencies(8)
    _, vjp = jax.vjp(lambda x: rotary.rotate(x, jnp.array(position), frequencies_of(frequency)), x)
    want = reference.rotate(bar, -position, frequency)
    reference.assert_close(vjp(jnp.array(bar))[0], want, atol=angle_tolerance(bar, 16))


# --- A stream without an end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", rotary.LAYOUTS)
@pytest.mark.parametrize("kind", rotary.KINDS)
@pytest.mark.parametrize("base", [10000.0, 500.0, 0.5])  # the last one turns faster than a radian a position
def test_angles_do_not_drift_however_far_a_stream_goes(layout, kind, base):
    spots = [rotary.EXACT_FROM, 10_000, 999_983, 10**6, 10**7 + 1, 123_456_789, 10**9, 2**31 - 1]
    more = np.random.default_rng(0).integers(rotary.EXACT_FROM, 2**31, 56)
    position = np.concatenate([spots, more]).astype(np.int32).reshape(2, 32)
    x = reference.normal(9, 2, 32, 1, 16)
    frequency = {"linspace": reference.linspace_frequencies, "rope": reference.rope_frequencies}[kind](16, base)
    rotate = jax.jit(lambda x, p: rotary.rotate(x, p, rotary.frequencies(16, base, kind), layout))
    order = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15] if layout == "half" else list(range(16))
    got = np.asarray(rotate(x, position))[..., order]
    reference.assert_close(got, reference.rotate(x[..., order], position, frequency), atol=2e-6 * np.abs(x).max())


@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_a_step_is_as_wide_where_angles_begin_to_be_exact_as_anywhere(base):
    frequency = rotary.frequencies(16, base)
    position = jnp.array([[rotary.EXACT_FROM - 1, rotary.EXACT_FROM]], jnp.int32)
    before, after = np.asarray(rotary.angles(position, frequency), np.float64)[0]
    step = (after - before - frequency.radian_P) / (2 * np.pi)
    # The float32 product before it is off by its own rounding and by that of the frequency.
    assert np.abs(step - np.round(step)).max() * 2 * np.pi < 4 * EPS * rotary.EXACT_FROM


def test_near_angles_are_the_float32_product_to_the_bit():
    """What models were trained with stays what it was."""
    position = jnp.arange(rotary.EXACT_FROM, dtype=jnp.int32)[None]
    frequency = rotary.frequencies(64)
    want = position.astype(jnp.float32)[..., None] * frequency.radian_P.reshape(1, 1, -1)
    np.testing.assert_array_equal(jax.jit(rotary.angles)(position, frequency), want)
