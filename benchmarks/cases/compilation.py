"""Seconds that XLA takes for the training step of configs/lm.py:tiny: anew, and out of the cache; and with depth."""

import tempfile

import jax
from jax.experimental.compilation_cache import compilation_cache

from benchmarks.cases import models
from benchmarks.measure import Case, Contender


def cases(options):
    return {} if options.suite == "gpu" else {"compiling the step of lm.py:tiny": _case}


def _case():
    """Each turn traces the step and compiles it, or finds it in a cache of the case's own."""
    folder = tempfile.mkdtemp(prefix="compiled-")

    def contender(role, name, *, cached, **changes):
        parts = models.lm_parts(**changes)

        def call():
            jax.clear_caches()
            compilation_cache.reset_cache()
            jax.config.update("jax_compilation_cache_dir", folder if cached else None)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            models.train_step(role, name, *parts)
            jax.config.update("jax_compilation_cache_dir", None)

        return Contender(role, name, call)

    return Case(
        [
            contender("ours", "anew", cached=False),
            contender("part", "out of the cache", cached=True),
            contender("part", "anew, 12 layers", cached=False, **{"model.num_layers": 12}),
        ]
    )
