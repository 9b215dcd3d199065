import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkabrn_jax.models import codes

VALUES = {"ternary": (-1, 0, 1), "binary": (-1, 1), "int4": range(-8, 8), "int8": range(-128, 128)}


@given(st.sampled_from(sorted(VALUES)), st.lists(st.integers(0, 7), max_size=3), st.integers(0, 2**32 - 1))
def test_codes_of_any_shape_come_back_from_the_bytes_that_they_need(kind, shape, seed):
    numbers = np.random.default_rng(seed).choice(np.array(VALUES[kind], np.int8), shape)
    packed = codes.pack(numbers, kind)
    assert packed.dtype == np.uint8
    assert packed.size == codes.num_bytes(numbers.size, kind) == -(-numbers.size // codes.PACKINGS[kind].per_byte)
    back = codes.unpack(packed, kind, tuple(shape))
    assert back.dtype == np.int8
    np.testing.assert_array_equal(back, numbers)


def test_the_first_code_of_a_byte_is_its_last_digit():
    assert codes.pack(np.array([1, -1, 0, 0, 0, 0, 1]), "ternary").tolist() == [2 + 0 * 3 + 9 + 27 + 81, 1 + 2 * 3]
    assert codes.pack(np.array([1, -1, -1, 1]), "binary").tolist() == [0b1001]
    assert codes.pack(np.array([-8, 7, 0]), "int4").tolist() == [0xF0, 0x08]
    assert codes.pack(np.array([-128, 127, 0]), "int8").tolist() == [0, 255, 128]


def test_bytes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"2 bytes do not hold ternary codes of shape \(11,\)"):
        codes.unpack(np.zeros(2, np.uint8), "ternary", (11,))
