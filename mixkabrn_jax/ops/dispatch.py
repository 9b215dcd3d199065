# ruff: noqa
from mixkabrn_jax.ops.routing import (
    Plan as Assignment,
    plan as assign,
    plan_with_capacity as assign_with_capacity,
    capacity,
    has_row,
    has_choice,
    dispatch,
    combine,
)
