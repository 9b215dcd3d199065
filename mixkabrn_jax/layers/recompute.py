"""What the backward pass computes again instead of reading it from memory."""

from functools import partial

import jax

recomputed = partial(jax.checkpoint, prevent_cse=False)
"""Decorates cheap functions between products (norms, gates): their inputs are kept for the gradient, no more.

An activation alone leaves three or four arrays of its size behind otherwise, and writing and reading those takes a
CPU longer than the arithmetic: without this a layer of a RetNet keeps twice the memory, and its step takes a tenth
longer. Layers run in a `lax.scan`, whose backward pass could share nothing with the forward pass anyway, so common
subexpressions need no guard.
"""
