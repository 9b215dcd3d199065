"""What the kernels share: blocks of an axis, masked loads and stores, and products that accumulate in float32.

Triton knows tensors of powers of two only, and products of 16 or more a side: an axis is covered by such blocks, and
what hangs over its end is masked. An axis that divides evenly pays nothing for it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mixkabrn_jax.ops.backend import interprets_kernels

SMALLEST = 16
"""The least side of a product on tensor cores."""


class Block(NamedTuple):
    """`size` neighbouring entries of an axis; those from `end` on are not there (None: all are)."""

    start: jax.Array | int
    size: int
    end: jax.Array | int | None

    def positions(self) -> jax.Array:
        """`[size]` int32."""
        return self.start + jax.lax.broadcasted_iota(jnp.int32, (self.size,), 0)


def block_size(length: int, most: int) -> int:
    """The least power of two that covers the axis, between the smallest that a product can take and `most`."""
    return min(most, max(SMALLEST, pl.next_power_of_2(length)))


def block(index, size: int, length: int) -> Block:
    """Block number `index` of an axis cut into blocks of `size`."""
    return Block(index * size, size, None if length % size == 0 else length)


def load(ref, *where) -> jax.Array:
    """What lies where an index or a `Block` for each axis says; 0 for what is not there."""
    return triton.load(ref.at[_indices(where)], mask=_mask(where), other=0 if _mask(where) is not None else None)


def store(ref, value: jax.Array, *where) -> None:
    """Writes `value` where an index or a `Block` for each axis says, in the array's dtype."""
    triton.store(ref.at[_indices(where)], value.astype(ref.dtype), mask=_mask(where))


def dot(a: jax.Array, b: jax.Array, *, transpose_a: bool = False, transpose_b: bool = False) -> jax.Array:
    """A product of matrices in float32 (or better) whatever the operands' dtype.

    float32 operands follow `jax.default_matmul_precision`, as everywhere: on a GPU the default is TF32.
    """
    contracted = (((0 if transpose_a else 1,), (1 if transpose_b else 0,)), ((), ()))
    return jax.lax.dot_general(a, b, contracted, preferred_element_type=accumulator(a.dtype))


def split(index, size: int):
    """Quotient and remainder of an index by a size, both in the index's dtype."""
    size = np.asarray(size, index.dtype)
    return jax.lax.div(index, size), jax.lax.rem(index, size)


def accumulator(dtype) -> jnp.dtype:
    """The dtype sums of products of `dtype` are kept in."""
    return jnp.promote_types(dtype, jnp.float32)


def launch(kernel, grid, outputs, *inputs, interpret: bool | None, num_warps: int, num_stages: int, **static):
    """Runs a kernel on whole arrays, one program for each point of the grid; it indexes them itself.

    Args:
        grid: up to three sizes; the first runs fastest, only it may exceed 65535.
        outputs: a `jax.ShapeDtypeStruct`, or a tuple of them.
        interpret: run as plain XLA operations, on any machine; None where JAX runs on no GPU.
        static: Python values for the kernel.
    """
    return pl.pallas_call(
        partial(kernel, **static),
        out_shape=outputs,
        grid=grid,
        compiler_params=triton.CompilerParams(num_warps=num_warps, num_stages=num_stages),
        interpret=interprets_kernels() if interpret is None else interpret,
        name=kernel.__name__.strip("_"),
    )(*inputs)


def _indices(where):
    return tuple(pl.ds(_int32(at.start), at.size) if isinstance(at, Block) else _int32(at) for at in where)


def _int32(index):
    """All indices of an access have one dtype; where doubles are on, a loop counts in int64."""
    return index if isinstance(index, int) else index.astype(jnp.int32)


def _mask(where):
    blocks = [at for at in where if isinstance(at, Block)]
    shape = tuple(at.size for at in blocks)
    mask = None
    for axis, at in enumerate(blocks):
        if at.end is None:
            continue
        inside = jax.lax.broadcast_in_dim(at.positions() < at.end, shape, (axis,))
        mask = inside if mask is None else mask & inside
    return mask
