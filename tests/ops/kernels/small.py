"""Kernels compiled for toy sizes."""

import jax
import pytest

from mixkabrn_jax.ops.kernels import grouped, retention


def compiled(function, *arguments):
    """The function for arguments like these, with blocks of 16: several in every direction, the last one not full.

    Compiled here, once: sizes of blocks are read at tracing, and are no part of what `jit` knows a function by.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ROWS", "WIDE", "DEEP"):
            patch.setattr(grouped, name, 16)
        patch.setattr(retention, "DEEP", 16)
        toy = retention.NARROW._replace(rows=16, columns=16, state=16)
        patch.setattr(retention, "best_blocks", lambda width, dtype: toy)  # noqa: ARG005
        patch.setattr(grouped, "PROGRAMS", 10**6)  # as many parts as there can be
        return jax.jit(function).lower(*arguments).compile()
