"""Whether this machine can build the runtime; where it cannot, the model runs in NumPy, which is tested everywhere."""

import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler here"
)
