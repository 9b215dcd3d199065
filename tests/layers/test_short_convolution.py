"""The convolution sees earlier tokens of its own document, wherever they were: in this call, or in the one before."""

import numpy as np
import pytest

from mixkabrn_jax.layers import short_convolution
from mixkabrn_jax.layers.short_convolution import ShortConvolution
from tests import reference


def convolution(size, width=5):
    layer = ShortConvolution(width, size)
    layer.weight_CD[...] = np.random.default_rng(1).standard_normal((size - 1, width)).astype(np.float32)
    return layer, np.asarray(layer.weight_CD[...], np.float64)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_it_is_a_sum_over_earlier_positions_of_the_document(size):
    layer, weight_CD = convolution(size)
    rng = np.random.default_rng(0)
    x_BSD = rng.standard_normal((2, size - 1 + 7, 5)).astype(np.float32)
    position_BT = np.array([[0, 1, 2, 0, 1, 2, 3], [9, 10, 11, 12, 0, 0, 1]])  # the second row goes on
    want_BTD = np.array(x_BSD[:, size - 1 :], np.float64)
    for b, t in np.ndindex(2, 7):
        for i in range(1, min(size, position_BT[b, t] + 1)):
            want_BTD[b, t] += weight_CD[i - 1] * x_BSD[b, size - 1 + t - i]
    reference.assert_close(layer(x_BSD, position_BT), want_BTD, terms=size)


def test_it_starts_as_what_it_reads():
    x_BSD = np.random.default_rng(0).standard_normal((1, 9, 5)).astype(np.float32)
    np.testing.assert_array_equal(ShortConvolution(5, 4)(x_BSD, np.arange(6)[None]), x_BSD[:, 3:])


def test_tokens_of_before_stand_next_to_the_first_one_whatever_the_padding():
    previous = np.array([[71, 72]] * 5)
    tokens = np.array([[1, 2, 3, 4], [0, 0, 3, 4], [1, 2, 0, 0], [0, 0, 0, 4], [0, 0, 0, 0]])
    mask = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    found = np.asarray(short_convolution.put_before(previous, tokens, mask))
    for row, first in enumerate([0, 2, 0, 3]):
        assert found[row, first : first + 2].tolist() == [71, 72]
    assert found[:, 2:][mask > 0].tolist() == tokens[mask > 0].tolist()
    assert np.asarray(short_convolution.last(found, 2, mask)).tolist() == [[3, 4], [3, 4], [1, 2], [72, 4], [71, 72]]
    without = short_convolution.put_before(previous[:1], tokens[:1], None)
    assert np.asarray(without).tolist() == [[71, 72, 1, 2, 3, 4]]
    assert np.asarray(short_convolution.last(without, 2, None)).tolist() == [[3, 4]]
    one_more = short_convolution.put_before(previous[:1], np.array([[5]]), None)
    assert np.asarray(short_convolution.last(one_more, 2, None)).tolist() == [[72, 5]]
