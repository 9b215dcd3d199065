"""The grid of equal intervals as a config; its functions are held together with Cox-de Boor's in `test_bspline`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkabrn_jax.ops import bspline, uniform_bspline
from mixkabrn_jax.ops.uniform_bspline import UniformGrid
from tests import reference


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "low=1.0, high=1.0: low < high is needed"),
        ({"high": math.inf}, "low=-3.0, high=inf: low < high is needed"),
        ({"low": math.nan}, "low=nan"),
        ({"num_intervals": 0}, "num_intervals=0: at least 1 is needed"),
        ({"degree": -1}, "degree=-1: 0 "),
        ({"degree": 9}, "degree=9: 0 to 5 is needed"),
        ({"extrapolation": "wrap"}, "extrapolation='wrap': one of"),
    ],
)
def test_an_impossible_grid_is_refused_by_the_name_of_its_field(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        UniformGrid(**fields)


def test_a_grid_has_the_knots_of_its_fields_and_a_function_less_for_each_piece_that_one_spans():
    grid = UniformGrid(-1.0, 2.0, num_intervals=4, degree=2)
    np.testing.assert_array_equal(grid.knots(), bspline.uniform_knots(-1.0, 2.0, 4, 2))
    assert grid.num_basis == len(grid.knots()) - grid.degree - 1
    assert UniformGrid() == UniformGrid(-3.0, 3.0, 3, 3, "fade")


@pytest.mark.parametrize("extrapolation", bspline.EXTRAPOLATIONS)
def test_weighted_functions_are_the_functions_times_the_weight_in_values_and_gradients(extrapolation):
    grid = UniformGrid(-2.0, 1.0, 3, 2, extrapolation)
    x, weight = 2 * reference.normal(0, 7, 4), reference.normal(1, 7, 4)
    bar = reference.normal(2, 7, grid.num_basis, 4)
    got, pull = jax.vjp(lambda x, weight: uniform_bspline.weighted_basis(x, weight, grid), x, weight)
    want, pull_want = jax.vjp(lambda x, weight: uniform_bspline.basis(x, grid) * weight[:, None], x, weight)
    reference.assert_close(got, want)
    for a, b in zip(pull(jnp.array(bar)), pull_want(jnp.array(bar)), strict=True):
        reference.assert_close(a, b, terms=grid.num_basis)
