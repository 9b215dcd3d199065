"""For which machine an op writes its program: the one place that asks JAX where it runs.

Ops that are written in more than one way take `backend`, so that a program can be planned for a machine that is not
there: a CPU wants small pieces one after the other, an accelerator all of them at once.
"""

import jax

BACKENDS = ("auto", "cpu", "gpu", "tpu", "pallas")
"""auto: the machine that JAX runs on. pallas: the kernels of `ops.kernels`, for an NVIDIA GPU."""


def check(backend: str) -> None:
    """Asks JAX nothing: it would start its devices, and the processes of a run join each other before that.

    Raises: ValueError for an unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: one of {BACKENDS} is needed")


def resolve(backend: str) -> str:
    """The backend that is meant: "cpu", "gpu", "tpu" or "pallas".

    Raises: as `check`.
    """
    check(backend)
    if backend != "auto":
        return backend
    platform = jax.default_backend()
    return platform if platform in BACKENDS else "gpu"


def interprets_kernels() -> bool:
    """Whether Pallas kernels run as plain XLA operations, slowly: wherever they cannot be compiled."""
    return jax.default_backend() != "gpu"
