"""The kernels at the sizes of real models: that they become Triton anywhere, and on a GPU that they are right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkabrn_jax.ops import grouped_matmul as plain_grouped
from mixkabrn_jax.ops import retention
from mixkabrn_jax.ops.kernels import grouped
from mixkabrn_jax.ops.kernels import retention as retention_kernels
from tests import reference


def grouped_case(rows, experts):
    sizes = _sizes(rows, experts)
    ours = functools.partial(grouped.grouped_matmul, group_sizes=sizes, interpret=False)
    plain = functools.partial(plain_grouped.grouped_matmul, group_sizes=sizes)
    return ours, plain, ((rows, 1024), (experts, 1024, 512))


def retention_case(K, V, documents):
    B, T, H = 2, 1000, 4
    ids = np.broadcast_to(np.arange(T, dtype=np.int32) // 300, (B, T)) if documents else None
    options = {"chunk_size": 128, "segment_ids": ids}

    def ours(q, k, v, state):
        return retention_kernels.chunkwise(
            q, k, v, retention.log_decay(H), state.astype(jnp.float32), interpret=False, **options
        )

    def plain(q, k, v, state):
        return retention.chunkwise(q, k, v, retention.log_decay(H), state.astype(jnp.float32), **options)

    return ours, plain, ((B, T, H, K), (B, T, H, K), (B, T, H, V), (B, H, K, V))


def _sizes(rows, experts):
    """Uneven, one expert without rows, some rows without an expert."""
    shares = np.arange(experts) / np.arange(experts).sum()
    return (0.9 * rows * shares).astype(np.int32)


CASES = {
    "grouped": grouped_case(5000, 16),
    "retention 64": retention_case(64, 64, documents=False),
    "retention 128": retention_case(128, 256, documents=True),
    "retention 256": retention_case(256, 512, documents=False),
}


def values_and_gradients(function, arguments, bars):
    out, vjp = jax.vjp(function, *arguments)
    return *jax.tree.leaves(out), *vjp(bars)


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_becomes_triton_without_a_gpu(name):
    ours, plain, shapes = CASES[name]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    bars = jax.eval_shape(plain, *arguments)
    traced = jax.jit(functools.partial(values_and_gradients, ours)).trace(arguments, bars)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("triton") >= (7 if "retention" in name else 3)


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("name", CASES)
def test_the_compiled_kernel_has_the_values_and_gradients_of_the_plain_op(name, dtype):
    ours, plain, shapes = CASES[name]
    arguments = [jnp.asarray(reference.normal(i, *shape), dtype) for i, shape in enumerate(shapes)]
    exact = [a.astype(jnp.float32) for a in arguments]
    outs = jax.eval_shape(plain, *arguments)
    bars = jax.tree.map(lambda a: jnp.asarray(reference.normal(9, *a.shape), a.dtype), outs)
    with jax.default_matmul_precision("highest"):
        got = jax.jit(functools.partial(values_and_gradients, ours))(arguments, bars)
        wide_bars = jax.tree.map(lambda a: a.astype(jnp.float32), bars)
        want = jax.jit(functools.partial(values_and_gradients, plain))(exact, wide_bars)
    terms = 1 if dtype == jnp.bfloat16 else max(max(shape) for shape in shapes)
    for got_one, want_one in zip(got, want, strict=True):
        reference.assert_close(np.asarray(got_one, np.float32), want_one, terms=terms, dtype=dtype)
