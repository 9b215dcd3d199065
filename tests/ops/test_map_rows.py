import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkabrn_jax.ops import map_rows
from tests import reference


def run(x, w, row_bytes):
    return map_rows.map_rows(lambda x_CD: jnp.sin(x_CD) @ w, x, row_bytes)


@pytest.mark.parametrize("rows", [1, 7, 24])
@pytest.mark.parametrize("per_block", [1, 3, 5, 24])
def test_blocks_give_the_values_and_gradients_of_all_rows_at_once(monkeypatch, rows, per_block):
    monkeypatch.setattr(map_rows, "BLOCK_BYTES", per_block * 64)
    x, w, bar = reference.normal(0, rows, 4), reference.normal(1, 4, 3), reference.normal(2, rows, 3)
    got, pullback = jax.vjp(lambda x, w: run(x, w, 64), x, w)
    reference.assert_close(got, np.sin(np.float64(x)) @ w, terms=4)
    x_bar, w_bar = pullback(bar)
    reference.assert_close(x_bar, np.cos(np.float64(x)) * (bar @ np.float64(w).T), terms=3)
    reference.assert_close(w_bar, np.sin(np.float64(x)).T @ bar, terms=rows)


@pytest.mark.parametrize("block_bytes", [1, 2, 2**21])
def test_leading_dimensions_are_rows(monkeypatch, block_bytes):
    """Of an array of NumPy's too, which a layer may be called with outside of `jax.jit`."""
    monkeypatch.setattr(map_rows, "BLOCK_BYTES", block_bytes)
    x, w = reference.normal(0, 2, 3, 4), reference.normal(1, 4, 5)
    np.testing.assert_array_equal(run(x, w, 1), run(x.reshape(6, 4), w, 1).reshape(2, 3, 5))


@pytest.mark.parametrize(("backend", "rows_at_once"), [("cpu", 5), ("gpu", 20), ("tpu", 20), ("pallas", 20)])
def test_only_a_cpu_goes_block_by_block_and_nothing_is_as_tall_as_all_rows(monkeypatch, backend, rows_at_once):
    monkeypatch.setattr(map_rows, "BLOCK_BYTES", 5 * 64)
    seen = []

    def function(x_CD):
        seen.append(x_CD.shape[0])
        return x_CD

    jax.eval_shape(lambda x: map_rows.map_rows(function, x, 64, backend=backend), jnp.zeros((20, 4)))
    assert set(seen) == {rows_at_once}
