import jax
import pytest


@pytest.fixture
def gpu():
    if jax.default_backend() != "gpu":
        pytest.skip(f"compiled kernels need an NVIDIA GPU, not {jax.default_backend()!r}")
