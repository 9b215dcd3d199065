"""For which machine an op writes its program: the one place that asks JAX where it runs.

Ops that are written in more than one way take `backend`, so that a program can be planned for a machine that is not
there: a CPU wants small pieces one after the other, an accelerator all of them at once.
"""

import jax

BACKENDS = ("auto", "cpu", "gpu", "tpu", "pallas")
"""auto: the machine that JAX runs on. pallas: the kernels of `ops.kernels`, for an NVIDIA GPU, where auto means them;
gpu: any other, as XLA compiles for it."""


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
    if platform == "gpu" and _compute_capability() >= 8:
        return "pallas"
    return platform if platform in BACKENDS else "gpu"


def _compute_capability() -> float:
    """Of an NVIDIA GPU, 8 since 2020, the first that multiply bfloat16; 0 for what is none."""
    try:
        return float(jax.devices()[0].compute_capability)
    except (AttributeError, ValueError):  # AMD's are names
        return 0.0


def interprets_kernels() -> bool:
    """Whether Pallas kernels run as plain XLA operations, slowly: wherever they cannot be compiled."""
    return jax.default_backend() != "gpu"
