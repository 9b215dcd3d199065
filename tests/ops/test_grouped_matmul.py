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
    [
        {"method": "dense"},
        {"method": "ragged"},
        {"method": "block"},
        {"method": "block", "tile": 4},
        {"method": "block", "tile": 1},
        {"method": "loop"},
        {"method": "loop", "tile": 5},
        {"method": "loop", "tile": 1},
    ],
    ids=str,
)
SIZES = {
    "even": [2, 2, 2, 2, 2, 2],
    "uneven": [1, 7, 2, 1, 0, 1],
    "empty groups": [0, 5, 0, 0, 7, 0],
    "all in the first": [12, 0, 0, 0, 0, 0],
    "all in the last": [0, 0, 0, 0, 0, 12],
    "rows left over": [3, 0, 1, 0, 0, 1],
    "nothing": [0, 0, 0, 0, 0, 0],
}


@functools.partial(jax.jit, static_argnames=("method", "tile"))
def run(x, w, group_sizes, **options):
    """As in a model: compiled, the sizes data like any other."""
    return grouped_matmul.grouped_matmul(x, w, group_sizes, **options)


@functools.partial(jax.jit, static_argnames=("method", "tile"))
def run_and_pull_back(x, w, group_sizes, out_bar, **options):
    out, vjp = jax.vjp(lambda x, w: grouped_matmul.grouped_matmul(x, w, group_sizes, **options), x, w)
    return out, *vjp(out_bar)


def check(x, w, sizes, **options):
    sizes = np.array(sizes, np.int32)
    want = reference.grouped_matmul(x, w, sizes)
    bar = reference.normal(9, *want.shape)
    out, x_bar, w_bar = run_and_pull_back(x, w, sizes, bar, **options)
    reference.assert_close(out, want, terms=x.shape[1])
    np.testing.assert_array_equal(out[sum(sizes) :], np.zeros_like(out[sum(sizes) :]))
    want_x, want_w = reference.grouped_matmul_gradient(x, w, sizes, bar)
    reference.assert_close(x_bar, want_x, terms=w.shape[-1])
    reference.assert_close(w_bar, want_w, terms=len(x))
    np.testing.assert_array_equal(x_bar[sum(sizes) :], np.zeros_like(x_bar[sum(sizes) :]))
    np.testing.assert_array_equal(np.asarray(w_bar)[sizes == 0], np.zeros_like(w)[sizes == 0])


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
    ends=st.lists(st.integers(0, 13), min_size=5, max_size=5),
    method=st.sampled_from(["block", "loop"]),
    tile=st.sampled_from([1, 3, 8, 0]),
)
def test_any_sizes_give_the_values_and_gradients_of_the_loop(ends, method, tile):
    options = {"method": method, "tile": tile}
    sizes = np.diff([0, *sorted(ends)])
    check(reference.normal(4, 13, 4), reference.normal(5, 5, 4, 3), sizes, **options)


@given(
    experts=st.integers(1, 4),
    rows=st.integers(1, 5),
    tile=st.sampled_from([1, 2, 7]),
    method=st.sampled_from(["block", "loop"]),
)
@settings(max_examples=6)
def test_any_shapes_give_the_values_and_gradients_of_the_loop(experts, rows, tile, method):
    sizes = np.random.default_rng(rows).multinomial(rows, np.ones(experts) / experts)
    check(reference.normal(4, rows, 2), reference.normal(5, experts, 2, 1), sizes, method=method, tile=tile)


@METHODS
def test_rows_past_the_sum_are_zero_whatever_they_hold(options):
    x = reference.normal(6, 10, 5)
    x[7:] = np.nan
    w = reference.normal(7, 2, 5, 3)
    sizes, bar = np.array([3, 4], np.int32), reference.normal(8, 10, 3)
    out, _, w_bar = run_and_pull_back(x, w, sizes, bar, **options)
    np.testing.assert_array_equal(out[7:], np.zeros((3, 3)))
    reference.assert_close(out[:7], reference.grouped_matmul(x[:7], w, sizes), terms=5)
    _, want_w = reference.grouped_matmul_gradient(x[:7], w, sizes, bar[:7])
    reference.assert_close(w_bar, want_w, terms=7)


@pytest.mark.parametrize(
    ("backend", "method"), [("cpu", "loop"), ("gpu", "block"), ("tpu", "ragged"), ("pallas", "kernel")]
)
def test_the_backend_chooses_the_method(backend, method):
    x, w, sizes = reference.normal(10, 9, 4), reference.normal(11, 3, 4, 2), np.array([2, 4, 1], np.int32)

    def program(**options):
        return str(jax.make_jaxpr(lambda x, w: grouped_matmul.grouped_matmul(x, w, sizes, **options))(x, w))

    assert program(backend=backend) == program(method=method) != program(method="dense")


@pytest.mark.parametrize("method", grouped_matmul.METHODS)
def test_half_precision_stays_half_and_is_summed_in_single(method):
    D = 512
    x, w = (jnp.asarray(a, jnp.bfloat16) for a in (reference.normal(12, 6, D), reference.normal(13, 2, D, 3)))
    out = run(x, w, np.array([3, 3], np.int32), method=method)
    assert out.dtype == jnp.bfloat16
    want = reference.grouped_matmul(np.asarray(x, np.float64), np.asarray(w, np.float64), [3, 3])
    reference.assert_close(out, want, terms=1, dtype=jnp.bfloat16)


@METHODS
def test_weight_gradients_are_summed_in_single_precision_however_many_tiles(options):
    # Ones added up in bfloat16 stay at 256.
    rows, sizes = 1000, np.array([990, 10], np.int32)
    x, w, bar = (jnp.ones(shape, jnp.bfloat16) for shape in ((rows, 1), (2, 1, 1), (rows, 1)))
    _, _, w_bar = run_and_pull_back(x, w, sizes, bar, **options)
    assert w_bar.dtype == jnp.bfloat16
    reference.assert_close(w_bar.reshape(2), sizes, atol=float(jnp.finfo(jnp.bfloat16).eps) * 990)


@pytest.mark.parametrize("method", grouped_matmul.METHODS)
@pytest.mark.parametrize("shape", [(0, 2, 4, 3), (5, 0, 4, 3), (5, 2, 0, 3), (5, 2, 4, 0)])
def test_without_rows_experts_or_widths_there_are_zeros_of_the_shapes(method, shape):
    num_rows, num_experts, d_in, d_out = shape
    x, w, sizes = jnp.ones((num_rows, d_in)), jnp.ones((num_experts, d_in, d_out)), jnp.zeros(num_experts, int)
    multiply = functools.partial(grouped_matmul.grouped_matmul, group_sizes=sizes, method=method)
    out, pull_back = jax.vjp(multiply, x, w)
    for got, like in zip((out, *pull_back(out)), (jnp.ones((num_rows, d_out)), x, w), strict=True):
        np.testing.assert_array_equal(got, np.zeros_like(like))
