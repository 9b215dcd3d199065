import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops import grouped_matmul
from tests import reference

METHODS = pytest.mark.parametrize(
    "options",
    [{"method": "dense"}, {"method": "block"}, {"method": "block", "tile": 4}, {"method": "block", "tile": 1}],
    ids=["dense", "block", "tile of 4", "tile of 1"],
)
SIZES = {
    "even": [4, 4, 4],
    "uneven": [1, 9, 2],
    "empty groups": [0, 5, 0, 0, 7, 0],
    "one group": [12],
    "all in the last": [0, 0, 12],
    "rows left over": [3, 0, 4],
    "nothing": [0, 0, 0],
}


def run(x, w, sizes, **options):
    """As it runs in a model: compiled, the sizes data like any other."""
    function = jax.jit(functools.partial(grouped_matmul.grouped_matmul, **options))
    return function(jnp.asarray(x), jnp.asarray(w), jnp.asarray(sizes, jnp.int32))


def check(x, w, sizes, **options):
    want = reference.grouped_matmul(x, w, sizes)
    out, vjp = jax.vjp(lambda x, w: run(x, w, sizes, **options), jnp.asarray(x), jnp.asarray(w))
    reference.assert_close(out, want, terms=x.shape[1])
    np.testing.assert_array_equal(out[sum(sizes) :], np.zeros_like(out[sum(sizes) :]))
    bar = reference.normal(9, *want.shape)
    x_bar, w_bar = vjp(jnp.asarray(bar))
    want_x, want_w = reference.grouped_matmul_gradient(x, w, sizes, bar)
    reference.assert_close(x_bar, want_x, terms=w.shape[-1])
    reference.assert_close(w_bar, want_w, terms=len(x))
    np.testing.assert_array_equal(x_bar[sum(sizes) :], np.zeros_like(x_bar[sum(sizes) :]))
    for e, size in enumerate(sizes):
        if size == 0:
            np.testing.assert_array_equal(w_bar[e], np.zeros_like(w_bar[e]))


@METHODS
@pytest.mark.parametrize("name", SIZES)
def test_values_and_gradients_are_those_of_a_loop_over_experts(name, options):
    sizes = SIZES[name]
    check(reference.normal(0, 12, 5), reference.normal(1, len(sizes), 5, 3), sizes, **options)


@METHODS
def test_a_single_row_goes_to_its_expert(options):
    for e in range(3):
        sizes = [int(i == e) for i in range(3)]
        check(reference.normal(2, 1, 5), reference.normal(3, 3, 5, 3), sizes, **options)


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    spare=st.integers(0, 4),
    tile=st.sampled_from([None, 1, 2, 3, 8]),
)
@settings(max_examples=10)
def test_any_sizes_give_the_values_and_gradients_of_the_loop(sizes, spare, tile):
    rows = max(1, sum(sizes) + spare)
    options = {"method": "dense"} if tile is None else {"method": "block", "tile": tile}
    check(reference.normal(4, rows, 4), reference.normal(5, len(sizes), 4, 3), sizes, **options)


@METHODS
def test_rows_past_the_sum_are_zero_whatever_they_hold(options):
    x = reference.normal(6, 10, 5)
    x[7:] = np.nan
    w = reference.normal(7, 2, 5, 3)
    out, vjp = jax.vjp(lambda x, w: run(x, w, [3, 4], **options), jnp.asarray(x), jnp.asarray(w))
    np.testing.assert_array_equal(out[7:], np.zeros((3, 3)))
    reference.assert_close(out[:7], reference.grouped_matmul(x[:7], w, [3, 4]), terms=5)
    bar = reference.normal(8, 10, 3)
    _, want_w = reference.grouped_matmul_gradient(x[:7], w, [3, 4], bar[:7])
    reference.assert_close(vjp(jnp.asarray(bar))[1], want_w, terms=7)


def test_block_is_the_default_and_the_methods_agree():
    x, w, sizes = reference.normal(10, 9, 4), reference.normal(11, 3, 4, 2), [2, 4, 1]
    block, dense = run(x, w, sizes, method="block"), run(x, w, sizes, method="dense")
    np.testing.assert_array_equal(run(x, w, sizes), block)
    reference.assert_close(block, dense, terms=4)


@pytest.mark.parametrize("method", ["block", "dense"])
def test_half_precision_stays_half_and_is_summed_in_single(method):
    D = 512
    x, w = (jnp.asarray(a, jnp.bfloat16) for a in (reference.normal(12, 6, D), reference.normal(13, 2, D, 3)))
    out = run(x, w, [3, 3], method=method)
    assert out.dtype == jnp.bfloat16
    want = reference.grouped_matmul(np.asarray(x, np.float64), np.asarray(w, np.float64), [3, 3])
    reference.assert_close(out, want, terms=1, dtype=jnp.bfloat16)
