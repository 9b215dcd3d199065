"""Kernels compiled for toy sizes."""

import jax
import pytest

from mixkabrn_jax.ops.kernels import retention, rows


def compiled(function, *arguments):
    """The function for arguments like these, with blocks of 16: several in every direction, the last one not full.

    Compiled here, once: sizes of blocks are read at tracing, and are no part of what `jit` knows a function by.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module, names in ((rows, ("ROWS", "WIDE", "DEEP")), (retention, ("ROWS", "STATE", "WIDE", "DEEP"))):
            for name in names:
                patch.setattr(module, name, 16)
        patch.setattr(rows, "PROGRAMS", 10**6)  # as many parts as there can be
        return jax.jit(function).lower(*arguments).compile()
