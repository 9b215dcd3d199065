"""A model as ONNX graphs of standard operators alone, for those who have a runtime already.

Each file is the graph of what its namesake in `mixkabrn_run` computes, whose objects it reads the numbers from. Values
are rows `[1, D]`, for one token.
"""

from importlib.util import find_spec

if find_spec("onnx") is None:
    raise ImportError("graphs are written by the package onnx, which is not installed: pip install onnx")

from mixkabrn_jax.export.onnx.model import describe, prefill, step

__all__ = ["describe", "prefill", "step"]
