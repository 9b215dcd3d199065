"""Which processor a program is made for: the one place that asks JAX what it runs on."""

import jax

BACKENDS = ("auto", "cpu", "gpu", "tpu", "pallas")


def resolve(backend: str) -> str:
    """ "cpu", "gpu", "tpu" or "pallas" (our kernels); "auto" is the platform that JAX runs on here.

    Raises: ValueError for an unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: one of {BACKENDS} is needed")
    return jax.default_backend() if backend == "auto" else backend
