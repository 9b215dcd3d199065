import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkabrn_jax.ops.kernels import grouped
from tests import reference
from tests.ops.kernels.small import compiled


def run_and_pull_back(x, w, sizes, out_bar):
    out, vjp = jax.vjp(lambda x, w: grouped.grouped_matmul(x, w, sizes, interpret=True), x, w)
    return out, *vjp(out_bar)


in_order = grouped._tiles
tiles_of = jax.jit(grouped._tiles, static_argnums=(1, 2))


@functools.cache
def toy():
    """Two blocks and a little more in every direction; tiles from last to first.

    A GPU runs them in any order. Here they run one after the other, so that in their own order a tile that wrote into
    the next expert's rows would be written over.
    """
    x, w, out_bar = reference.normal(0, 60, 37), reference.normal(1, 5, 37, 35), reference.normal(2, 60, 35)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped, "_tiles", lambda *a: jax.tree.map(jnp.flip, in_order(*a)))
        return x, w, out_bar, compiled(run_and_pull_back, x, w, np.zeros(5, np.int32), out_bar)


@given(ends=st.lists(st.integers(0, 60), min_size=5, max_size=5))
@settings(max_examples=8)
def test_any_sizes_give_the_values_and_gradients_of_a_loop_over_experts(ends):
    x, w, out_bar, run = toy()
    sizes = np.diff([0, *sorted(ends)]).astype(np.int32)
    used = sum(sizes)
    past = np.arange(60)[:, None] >= used
    # Whatever the rows of nobody hold.
    x, zeroed = np.where(past, np.nan, x).astype(np.float32), np.where(past, 0, x)
    out, x_bar, w_bar = run(x, w, sizes, out_bar)
    reference.assert_close(out, reference.grouped_matmul(zeroed, w, sizes), terms=37)
    want_x, want_w = reference.grouped_matmul_gradient(zeroed, w, sizes, out_bar)
    reference.assert_close(x_bar, want_x, terms=35)
    reference.assert_close(w_bar, want_w, terms=60)
    for got in (out, x_bar):
        np.testing.assert_array_equal(got[used:], np.zeros_like(got[used:]))
    np.testing.assert_array_equal(w_bar[sizes == 0], np.zeros_like(w)[sizes == 0])


@pytest.mark.parametrize("shape", [(0, 2, 4, 3), (5, 0, 4, 3), (5, 2, 0, 3), (5, 2, 4, 0)])
def test_without_rows_experts_or_widths_there_are_zeros_of_the_shapes(shape):
    num_rows, num_experts, d_in, d_out = shape
    x, w, out_bar = np.ones((num_rows, d_in)), np.ones((num_experts, d_in, d_out)), np.ones((num_rows, d_out))
    got = run_and_pull_back(*(jnp.asarray(a, jnp.float32) for a in (x, w)), jnp.zeros(num_experts, int), out_bar)
    for got_one, like in zip(got, (out_bar, x, w), strict=True):
        np.testing.assert_array_equal(got_one, np.zeros_like(like))


def test_half_precision_is_summed_in_single_precision():
    # All of one sign: sums in half precision would be rounded at every block, not once at the end.
    x, w, out_bar = (
        jnp.asarray(1 + np.abs(reference.normal(i, *shape)), jnp.bfloat16)
        for i, shape in enumerate(((400, 9), (2, 9, 7), (400, 7)))
    )
    sizes = np.array([390, 10], np.int32)
    got = jax.jit(run_and_pull_back)(x, w, sizes, out_bar)
    want = reference.grouped_matmul(x, w, sizes), *reference.grouped_matmul_gradient(x, w, sizes, out_bar)
    for got_one, want_one in zip(got, want, strict=True):
        assert got_one.dtype == jnp.bfloat16
        off = np.abs(np.asarray(got_one, np.float64) - want_one)
        assert (off <= 0.501 * float(jnp.finfo(jnp.bfloat16).eps) * want_one).all()


@given(ends=st.lists(st.integers(0, 60), min_size=4, max_size=4))
@settings(max_examples=8)
def test_tiles_hold_every_row_once_however_the_experts_share_them(ends):
    sizes = np.diff([0, *sorted(ends)])
    tiles = tiles_of(sizes, 60, 16)
    seen = [
        (row, expert)
        for expert, start, end in np.stack(tiles, axis=1).tolist()
        for row in range(start, min(start + 16, end))
    ]
    owners = np.repeat(np.arange(5), [*sizes, 60 - sum(sizes)])
    assert sorted(seen) == list(enumerate(owners.tolist()))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[R, D\], \[E, D, F\], \[E\] are needed"):
        grouped.grouped_matmul(jnp.ones((4, 3)), jnp.ones((2, 3, 5)), jnp.array([4]), interpret=True)
