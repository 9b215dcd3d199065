"""Runs a trained model anywhere: a file, NumPy, and a C compiler where there is one.

    import mixkabrn_run
    model = mixkabrn_run.load("tiny.safetensors")
    for text in model.complete("The American people", max_tokens=100):
        print(text, end="", flush=True)

docs/format.md has the file, docs/running.md the rest. Nothing here needs JAX.
"""

from mixkabrn_run.language import Language, load
from mixkabrn_run.sampling import Sampling

__all__ = ["Language", "Sampling", "load"]
