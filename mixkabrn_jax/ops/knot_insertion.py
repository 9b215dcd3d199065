# ruff: noqa
from mixkabrn_jax.ops.bspline import refine_knots, insert_knots
